"""Fixtures, split by concern."""

pytest_plugins = [
    "tests.fix_servers",
    "tests.fix_databases",
    "tests.fix_rest",
    "tests.fix_mirror",
    "tests.fix_reconcile",
    "tests.fix_world",
    "tests.fix_doctor",
]
