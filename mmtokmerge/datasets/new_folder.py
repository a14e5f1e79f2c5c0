"""Folders that appear whole or not at all, and data sets generated into them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmtokmerge.errors import InputError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Fill the folder that this gives; it is renamed to ``target`` when the block ends well.

    Raises:
        OSError: At the end, where ``target`` has come to hold files in the meantime.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        inside = Path(scratch) / target.name
        inside.mkdir()
        yield inside
        os.replace(inside, target)


def generate_set(
    root: Path, meta_file: str, settings: Mapping[str, Any], fill: Callable[[Path], None]
) -> bool:
    """Generate a data set, unless one with the same settings stands there.

    Args:
        root: The data set's folder. A set with other settings there is replaced.
        meta_file: Name of the JSON file in ``root`` that holds the settings.
        settings: What decides the set's bytes, JSON values alone.
        fill: Writes the set into the folder that it is given.

    Returns:
        Whether the set was generated.

    Raises:
        InputError: ``root`` holds files that are no such set.
    """
    found = _read_settings(root, meta_file)
    if found == settings:
        return False
    with new_folder(root) as scratch:
        fill(scratch)
        (scratch / meta_file).write_text(json.dumps(settings, indent=2) + "\n")
        if found is not None:
            shutil.rmtree(root)
    return True


def _read_settings(root: Path, meta_file: str) -> dict[str, Any] | None:
    """The settings of the set at ``root``; None where there is nothing."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        return json.loads((root / meta_file).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{root} exists and holds no readable {meta_file}, so it is not replaced: remove it or "
            "name another folder"
        ) from error
