"""Settings: what a worker and the `mirror` command read from the environment, and their logs.

Imported by the worker, the commands and whatever runs in them; never by a backend, which loads no
pydantic: its few settings are read where they are used (`mirror.capture.doorbell`).
"""

from mirror.settings.environment import Settings, load_settings, variable

__all__ = ["Settings", "load_settings", "variable"]
