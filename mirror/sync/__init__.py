"""Sync: carries events from the outbox to the target. Runs in the worker, the relay, the commands.

`drain` claims events (`claims`, `retries`) and applies them in passes (`sync_pass`) from a
`snapshot` of the primary to a target (`targets`). `relay` and `schedule` decide when to drain,
`orders` are an operator's commands, and `wiring` builds it all from settings.
"""
