"""Former import path of `mirror.schema.migrate`; warns."""

import warnings

from mirror.schema.migrate import *  # noqa: F403
from mirror.schema.uninstall import downgrade  # noqa: F401

warnings.warn(
    "mirror.migrations has moved: import from mirror.schema.", DeprecationWarning, stacklevel=2
)
