"""Fixtures, split by concern."""

from hypothesis import settings

# For `make test-long`.
settings.register_profile("long", max_examples=1000, deadline=None)

pytest_plugins = [
    "mirror.testing",
    "tests.support.servers",
    "tests.support.databases",
    "tests.support.rest",
    "tests.support.drains",
    "tests.support.forking",
    "tests.support.reconciling",
    "tests.support.shared_pair",
    "tests.support.doctor_pair",
    "tests.support.init_command",
    "tests.support.serving",
]
