"""Diagnostics: reads the state of both sides and explains it; writes nothing.

Runs in commands. `figures` is the state of the mirror; `status` and `doctor/` (checks everything
around the mirror) know it from there alone. `explain/` explains why one user is allowed or refused.
`offline` checks what needs no server.
"""
