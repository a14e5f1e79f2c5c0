"""Token merging for dense prediction: MMSegmentation, MMPose, and models that others built.

Importing the package imports nothing else: ``apply``, ``calibrate`` and ``remove`` need torch
alone, and MMEngine imports :mod:`mmtokmerge.registry` by itself when a config names
``mmtokmerge.X``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtokmerge.adapters import apply, calibrate, remove

__version__ = "0.1.0"
__all__ = ["__version__", "apply", "calibrate", "remove"]


def __getattr__(name: str) -> Any:
    """``apply``, ``calibrate`` and ``remove``, with torch, when they are first asked for."""
    if name in ("apply", "calibrate", "remove"):
        from mmtokmerge import adapters

        return getattr(adapters, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
