"""From what a person names to a config file: a path, or a name of this package's alone."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

from mmtokmerge.errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]
ROOTS = (PACKAGE / ".mim" / "configs", PACKAGE.parent / "configs")
"""Where the configs lie: in an installed package, and in a checkout."""


def find_config(name: str) -> str:
    """The path of a config file.

    Args:
        name: A path, or the name of a config of this package, such as ``b0_camvid_fast`` or
            ``algm/segmenter_vit-s_ade20k_algm``, with or without ``.py``.

    Raises:
        InputError: There is no such file, nor a config of that name.
    """
    if Path(name).is_file():
        return name
    wanted = name.removesuffix(".py").removeprefix("configs/")
    known = config_names()
    if wanted in known:
        return str(known[wanted])
    near = difflib.get_close_matches(wanted.rpartition("/")[2], known, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise InputError(f"There is no config file at {name}{hint}")


@cache
def config_names() -> dict[str, Path]:
    """Every config of this package by its name, with and without its family's folder."""
    found: dict[str, Path] = {}
    for root in ROOTS:
        for path in sorted(root.glob("*/*.py")):
            if path.parent.name.startswith("_"):
                continue
            found.setdefault(path.stem, path)
            found.setdefault(f"{path.parent.name}/{path.stem}", path)
    return found
