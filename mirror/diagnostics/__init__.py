"""Diagnostics: what the mirror says of itself. Reads both sides and writes nothing.

Runs in the commands: `status`, `doctor/` (is everything around the mirror as it has to be?) and
`explain/` (why is one person allowed or refused?).
"""
