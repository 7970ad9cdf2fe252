"""The permission models this repository declares, one module each.

`registry` is the model that this repository deploys: MIRROR_MAPPINGS names this package where it
is not set.
"""

from mappings.trips import registry

__all__ = ["registry"]
