"""Support: fixtures and helpers of the tests, one concern for each module (see tests/README.md)."""
