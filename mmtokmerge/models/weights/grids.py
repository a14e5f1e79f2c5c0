"""The grid that a checkpoint's position embeddings or relative tables belong to.

576 patches may be 18x32 or 24x24. A model writes its grid into the metadata that torch keeps beside
a state dict, which adds no key; a checkpoint of mmseg names its image in the config it holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

GRID_KEY = "patch_grid"
Grid = tuple[int, int]


def remember_grid(backbone: nn.Module) -> None:
    """Let the state dicts of a backbone say its ``grid``."""
    backbone._register_state_dict_hook(_write_grid)


def _write_grid(module: Any, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    metadata[GRID_KEY] = tuple(module.grid)


def grid_of(content: Any) -> Grid | None:
    """The one grid that a checkpoint says, None where it says none, or several.

    Args:
        content: A state dict, or a dict that holds one and mmengine's ``meta``.
    """
    if not isinstance(content, Mapping):
        return None
    weights = content.get("state_dict", content)
    metadata = getattr(weights, "_metadata", None) or {}
    found = {
        tuple(map(int, entry[GRID_KEY]))
        for entry in metadata.values()
        if isinstance(entry, Mapping) and GRID_KEY in entry
    }
    if found:
        return _pair(found.pop()) if len(found) == 1 else None
    meta = content.get("meta")
    text = meta.get("cfg") if isinstance(meta, Mapping) else None
    return _grid_in(text) if isinstance(text, str) else None


def _grid_in(text: str) -> Grid | None:
    """The grid of the backbone in a config's text, which is read and not run."""
    size = re.search(r"\bimg_size=[\[(]?\s*(\d+)(?:\s*,\s*(\d+))?", text)
    if size is None:
        return None
    patch = re.search(r"\bpatch_size=(\d+)", text)
    side = int(patch[1]) if patch else 16
    height, width = int(size[1]), int(size[2] or size[1])
    return (height // side, width // side)


def _pair(grid: tuple[int, ...]) -> Grid:
    return grid[0], grid[1]
