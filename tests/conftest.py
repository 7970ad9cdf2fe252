"""Fixtures, split by concern."""

pytest_plugins = [
    "tests.support.servers",
    "tests.support.databases",
    "tests.support.rest",
    "tests.support.drains",
    "tests.support.reconciling",
    "tests.support.shared_pair",
    "tests.support.doctor_pair",
    "tests.support.serving",
]
