"""Token merging for MMSegmentation and MMPose, selected through MMEngine configs.

Importing the package imports nothing else: :mod:`mmtokmerge.merging` needs torch alone, and
MMEngine imports :mod:`mmtokmerge.registry` by itself when a config names ``mmtokmerge.X``.
"""

from __future__ import annotations

__version__ = "0.1.0"
