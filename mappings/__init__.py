"""Mappings: the permission models that this repository declares, one module each.

`registry` is the model that this repository deploys; this package is the default of
MIRROR_MAPPINGS.
"""

from mappings.trips import registry

__all__ = ["registry"]
