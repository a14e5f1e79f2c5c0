"""A mended annotation file for those who read one by its path; it lasts as long as the process."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any


def write_copy(content: Any) -> str:
    """Write JSON to a file of its own and return its path."""
    folder = tempfile.mkdtemp(dir=_root())
    path = Path(folder) / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


@cache
def _root() -> str:
    folder = tempfile.mkdtemp(prefix="mmtokmerge_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
