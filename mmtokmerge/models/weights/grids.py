"""The grid that a checkpoint's position embeddings or relative tables belong to.

576 patches may be 18x32 or 24x24. A model writes its grid into the metadata that torch keeps beside
a state dict, which adds no key; a checkpoint of mmseg names its image in the config it holds.
"""

from __future__ import annotations

import ast
import json
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


def grid_of(content: Any, prefix: str = "") -> Grid | None:
    """The one grid that a checkpoint says, None where it says none, or several.

    Args:
        content: A state dict, or a dict that holds one and mmengine's ``meta``.
        prefix: The prefix of the keys whose grid is wanted.
    """
    if not isinstance(content, Mapping):
        return None
    weights = content.get("state_dict", content)
    metadata = getattr(weights, "_metadata", None) or {}
    found = {
        tuple(map(int, entry[GRID_KEY]))
        for key, entry in metadata.items()
        if isinstance(entry, Mapping) and GRID_KEY in entry and f"{key}.".startswith(prefix)
    }
    if found:
        return _pair(found.pop()) if len(found) == 1 else None
    meta = content.get("meta")
    text = meta.get("cfg") if isinstance(meta, Mapping) else None
    return _grid_in(text) if isinstance(text, str) else None


def _grid_in(text: str) -> Grid | None:
    """The grid of the backbone in a config's text, Python or JSON, which is read and not run."""
    try:
        backbone = (json.loads(text).get("model") or {}).get("backbone") or {}
    except (ValueError, AttributeError):
        backbone = _backbone_in(text)
    try:
        size, side = backbone.get("img_size"), int(backbone.get("patch_size", 16))
        height, width = (size, size) if isinstance(size, int) else map(int, size)
    except (AttributeError, TypeError, ValueError):
        return None
    return (height // side, width // side)


def _backbone_in(text: str) -> dict[str, Any]:
    """The arguments of ``model.backbone`` in a config of Python that can be read off."""
    try:
        lines = [line for line in ast.parse(text).body if isinstance(line, ast.Assign)]
    except (SyntaxError, ValueError):
        return {}
    named = {
        target.id: line.value
        for line in lines
        for target in line.targets
        if isinstance(target, ast.Name)
    }
    node: Any = named.get("model")
    for part in ("backbone", None):
        if isinstance(node, ast.Name):
            node = named.get(node.id)
        if part is not None:
            node = _entries(node).get(part)
    found = {}
    for key, value in _entries(node).items():
        try:
            found[key] = ast.literal_eval(named.get(getattr(value, "id", ""), value))
        except ValueError:
            continue
    return found


def _entries(node: Any) -> dict[str, Any]:
    """The entries of ``dict(...)`` or ``{...}``."""
    if isinstance(node, ast.Call):
        return {each.arg: each.value for each in node.keywords if each.arg is not None}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values)
        return {key.value: value for key, value in pairs if isinstance(key, ast.Constant)}
    return {}


def other_grids(grid: Grid) -> list[str]:
    """Grids of as many patches that pictures have too, up to twice as wide as high, as words."""
    count = grid[0] * grid[1]
    heights = [h for h in range(1, count + 1) if count % h == 0 and h <= count // h <= 2.2 * h]
    return [f"{h}x{count // h}" for h in heights if (h, count // h) != grid]


def _pair(grid: tuple[int, ...]) -> Grid:
    return grid[0], grid[1]
