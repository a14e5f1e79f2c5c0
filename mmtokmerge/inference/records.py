"""What a source's results were made with, so that others are not taken for them.

A record is written behind the results of each source: a run that was stopped goes on where it was,
several processes never wait for each other, and results of another config, checkpoint or option are
made anew.
"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from mmtokmerge.inference.sources import Source
from mmtokmerge.reporting.files import write_json

FOLDER = ".predict"
EXTRA = ("tokens", "compare")
"""Options that add pictures beside the same results."""
KEYS = ("config", "cfg_options", "tile", "overlap", "min_score", "max_frames", *EXTRA)


class Records:
    """The records of a folder of results.

    Args:
        folder: The folder that the results go to.
        args: The command's arguments.
    """

    def __init__(self, folder: Path, args: Namespace) -> None:
        self.folder = folder / FOLDER
        self.settings = settings_of(args)

    def finished(self, source: Source, last: Path) -> bool:
        """Whether a source's results, the file ``last`` among them, are there and made so.

        A camera's never are.
        """
        before = self._read(source)
        return before is not None and same(before, self._wanted(source)) and last.is_file()

    def made_otherwise(self, source: Source) -> bool:
        """Whether there are results of other settings."""
        before = self._read(source)
        return before is not None and not same(before, self._wanted(source))

    def write(self, source: Source) -> None:
        """Note that a source's results are there."""
        if not source.is_camera:
            write_json(self._path(source), self._wanted(source))

    def _wanted(self, source: Source) -> dict[str, Any]:
        """What a record of a source says now: the settings, and the input's path, size and time."""
        return {**self.settings, "input": facts_of(source.path)}

    def _path(self, source: Source) -> Path:
        return self.folder / f"{source.name}.json"

    def _read(self, source: Source) -> dict[str, Any] | None:
        path = self._path(source)
        if source.is_camera or not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def settings_of(args: Namespace) -> dict[str, Any]:
    """What decides the results, as JSON values; a checkpoint by its name, size and time."""
    found = {key: getattr(args, key, None) for key in KEYS}
    facts = {**found, "checkpoint": facts_of(str(args.checkpoint))}
    made: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return made


def facts_of(path: str) -> list[Any]:
    """A file by its absolute path, size and time of the last change; a word that names none."""
    if not Path(path).is_file():
        return [path, None, None]
    stat = Path(path).stat()
    return [str(Path(path).resolve()), stat.st_size, stat.st_mtime_ns]


def same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether results that were made so are, or hold, what is asked for now."""
    rest = {*before, *now} - set(EXTRA)
    if any(before.get(key) != now.get(key) for key in rest):
        return False
    return all(now.get(key) in (None, False, before.get(key)) for key in EXTRA)
