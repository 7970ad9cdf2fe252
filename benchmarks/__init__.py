"""Benchmarks: measure the mirror beside the alternatives, in one run on one machine."""
