"""Sync: carries events from the outbox to the target. Runs in the worker, the relay, the commands.

connections -> snapshot, targets/ -> claims, retries -> sync_pass -> drain -> wiring. `relay` and
`schedule` decide when to drain; `orders` holds what operators can tell the mirror to do.
"""
