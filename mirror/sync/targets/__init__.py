"""Targets: the databases that the mirror writes.

`base` has the operations; `writing`, `reading`, `asking` and `catalog` their values, and `damage`
recognises answers that are none. `postgres` and `rest` (over `http`) are the two transports;
`rest_errors` and `api_keys` belong to the latter.
"""
