"""Merging put into models that other packages built: one file a host family, torch alone needed.

A host's module is replaced by one of this folder that holds the host's own submodules under their
names, so that the state dict stays as it is; ``remove`` gives the host's module back. Hosts are
known by their classes' names and never imported. No attention and no matching is written here: both
are the layers' of our own models.
"""

from __future__ import annotations

from mmtokmerge.adapters.calls import apply, calibrate, remove
from mmtokmerge.adapters.report import LayerChange, Report

__all__ = ["LayerChange", "Report", "apply", "calibrate", "remove"]
