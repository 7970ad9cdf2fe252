"""Mappings: the permission models that this repository declares, one module each.

`registry` is the model that this repository deploys. MIRROR_MAPPINGS names this package unless it
is set.
"""

from mappings.trips import registry

__all__ = ["registry"]
