"""Former import path of `mirror.model.registry`; warns."""

import warnings

from mirror.model.registry import *  # noqa: F403

warnings.warn("mirror.registry has moved: import from mirror.", DeprecationWarning, stacklevel=2)
