"""Reading a config file, with one sentence for each mistake."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from mmtokmerge.engine.config_names import find_config
from mmtokmerge.errors import InputError

DICTS = (
    *("optimizer", "clip_grad", "custom_keys", "backbone", "neck", "sharing", "policy"),
    *("auxiliary_head", "metainfo", "data_prefix", "sampler", "batch_sampler", "collate_fn"),
)
"""Dicts inside a config, beside ``*_cfg``, that it may lack and an option may make."""


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and override settings in it.

    Args:
        path: A Python, YAML or JSON config.
        options: Dotted key to value, as ``--cfg-options`` gives them.

    Raises:
        InputError: The file or one it inherits from is missing or cannot be read, or a key of
            ``options`` leads nowhere.
    """
    path = find_config(path)
    try:
        cfg = Config.fromfile(path)
    except InputError:
        raise
    except Exception as error:  # a config is somebody's code, which may fail in any way
        raise InputError(f"The config {path} cannot be read: {_words(error)}.") from error
    for key in options or {}:
        _check_option(cfg, key)
        _open_none(cfg, key)
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError, AssertionError) as error:
        raise InputError(f"--cfg-options cannot be applied to {path}: {error}.") from error
    if any(key.startswith("custom_imports") for key in options or {}):
        try:
            import_modules_from_strings(**cfg.custom_imports)
        except (ImportError, TypeError) as error:
            raise InputError(f"custom_imports of {path}: {error}.") from error
    return cfg


def _words(error: Exception) -> str:
    """An error in one line, with its kind where the text alone would say nothing."""
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, (SyntaxError, NameError, OSError))
        else (f"{type(error).__name__}: {text}")
    )


def _open_none(cfg: Config, key: str) -> None:
    """Make an empty dict of a setting that is None where a dotted key leads into it."""
    node: Any = cfg
    for part in key.split(".")[:-1]:
        if isinstance(node, (list, tuple)):
            node = node[int(part)]
            continue
        if not hasattr(node, "keys") or part not in node:
            return
        if node[part] is None:
            node[part] = ConfigDict()
        node = node[part]


def _may_be_made(part: str, depth: int, runner_keys: set[str]) -> bool:
    """Whether an option may make a dict of this name: a key of the runner, or a setting's dict.

    What it holds is checked with the whole config, when types and their arguments are looked up.
    """
    return part in runner_keys if depth == 0 else part.endswith("_cfg") or part in DICTS


def _check_option(cfg: Config, key: str) -> None:
    """Raise InputError where a dotted key leads through something that the config does not have."""
    node: Any = cfg
    parts = key.split(".")
    runner_keys = {*inspect.signature(Runner.__init__).parameters, "auto_scale_lr"}
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
        names_modules = depth > 0 and parts[depth - 1] == "custom_keys"
        if names_modules or not node.keys():  # also a dict that this option makes: holds anything
            return
        is_last = depth == len(parts) - 1
        if part not in node and not is_last and _may_be_made(part, depth, runner_keys):
            return
        if part not in node and not (is_last and (depth > 0 or part in runner_keys)):
            near = difflib.get_close_matches(part, list(node.keys()), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"--cfg-options {key}: the config has no {'.'.join(parts[: depth + 1])!r}{hint}"
            )
        node = node.get(part)
