"""Targets: the databases that the mirror writes; one protocol, one adapter for each way there."""
