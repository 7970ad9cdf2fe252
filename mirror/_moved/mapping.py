"""Former import path of `mirror.model.mapping`; warns."""

import warnings

from mirror.model.mapping import *  # noqa: F403

warnings.warn("mirror.mapping has moved: import from mirror.", DeprecationWarning, stacklevel=2)
