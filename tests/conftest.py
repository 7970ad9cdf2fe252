"""Fixtures, split by concern."""

pytest_plugins = [
    "mirror.testing",
    "tests.support.servers",
    "tests.support.databases",
    "tests.support.rest",
    "tests.support.drains",
    "tests.support.reconciling",
    "tests.support.shared_pair",
    "tests.support.doctor_pair",
    "tests.support.init_command",
    "tests.support.serving",
]
