"""The databases we write: one protocol, one adapter per way to reach them."""
