"""The trips model, for targets that are never older than six seconds."""

from mappings import trips
from mirror.model.registry import Registry

registry = Registry(
    "trips",
    list(trips.registry),
    access=trips.registry.access,
    guards=trips.registry.guards,
    max_staleness=6,
)
