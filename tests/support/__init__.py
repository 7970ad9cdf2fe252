"""Support: fixtures and helpers of the tests, one concern each. tests/README.md lists them."""
