"""Settings: configuration of a worker and of the `mirror` command, and their logging.

Runs in the worker and in the commands. A backend never imports it, because that would load
pydantic; `mirror.capture.doorbell` reads the few settings of a backend itself.
"""

from mirror.settings.environment import Settings, load_settings, variable

__all__ = ["Settings", "load_settings", "variable"]
