"""Capture: changes become events without a hook being called."""

from mirror.capture.orm import Capture, attach

__all__ = ["Capture", "attach"]
