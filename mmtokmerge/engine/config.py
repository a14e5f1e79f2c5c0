"""Reading a config file, with one sentence for each mistake."""

from __future__ import annotations

import difflib
import inspect
import os
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmtokmerge.errors import InputError


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and override settings in it.

    Args:
        path: A Python, YAML or JSON config.
        options: Dotted key to value, as ``--cfg-options`` gives them.

    Raises:
        InputError: The file or one it inherits from is missing or cannot be read, or a key of
            ``options`` leads nowhere.
    """
    if not os.path.isfile(path):
        raise InputError(f"There is no config file at {path}.")
    try:
        cfg = Config.fromfile(path)
    except (SyntaxError, NameError, OSError) as error:
        raise InputError(f"The config {path} cannot be read: {error}.") from error
    for key in options or {}:
        _check_option(cfg, key)
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError, AssertionError) as error:
        raise InputError(f"--cfg-options cannot be applied to {path}: {error}.") from error
    return cfg


def _check_option(cfg: Config, key: str) -> None:
    """Raise InputError where a dotted key leads through something that the config does not have."""
    node: Any = cfg
    parts = key.split(".")
    runner_keys = set(inspect.signature(Runner.__init__).parameters)
    for depth, part in enumerate(parts):
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise InputError(
                    f"--cfg-options {key}: {part!r} is no index from 0 to {len(node) - 1}."
                )
            node = node[int(part)]
            continue
        if not hasattr(node, "keys"):
            return
        is_last = depth == len(parts) - 1
        if part not in node and not (is_last and (depth > 0 or part in runner_keys)):
            near = difflib.get_close_matches(part, list(node.keys()), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"--cfg-options {key}: the config has no {'.'.join(parts[: depth + 1])!r}{hint}"
            )
        node = node.get(part)
