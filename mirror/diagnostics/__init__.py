"""Diagnostics: reads the state of both sides and explains it; writes nothing.

Runs in commands: `status`, `doctor/` (checks everything around the mirror) and `explain/` (explains
why one user is allowed or refused).
"""
