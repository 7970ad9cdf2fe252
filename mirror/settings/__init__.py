"""Settings: reads the configuration of a worker or of the `mirror` command, and sets up logging.

Runs in the worker and in the commands. A backend never imports it, because that would load
pydantic; `mirror.capture.doorbell` itself reads the few settings that a backend has.
"""

from mirror.settings.environment import Settings, load_settings, unknown_variables, variable

__all__ = ["Settings", "load_settings", "unknown_variables", "variable"]
