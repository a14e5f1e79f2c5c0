"""Safe loading under the name by which scripts outside this package find it."""

from __future__ import annotations

from mmtokmerge.models.weights.safe_load import load_weights_only, load_weights_safely

install = load_weights_safely

__all__ = ["install", "load_weights_only", "load_weights_safely"]
