"""A folder of files that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


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
