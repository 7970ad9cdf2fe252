"""Former import path of `mirror.capture.outbox`; warns."""

import warnings

from mirror.capture.outbox import *  # noqa: F403

warnings.warn(
    "mirror.outbox has moved: import from mirror.capture.", DeprecationWarning, stacklevel=2
)
