"""Results that are kept as they come, so that an interrupted search goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console

from mmtokmerge.errors import InputError
from mmtokmerge.reporting.files import write_json

Values = Mapping[str, Any]


class ResultStore:
    """A JSON file of records, written whole after each one.

    Args:
        path: The file. One made under another identity is moved to ``<name>.old.json``.
        identity: What the records depend on, JSON values by name: config, checkpoint, data,
            settings.

    Raises:
        InputError: If the file is there but is none of this class.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = dict(identity)
        self.changed: list[str] = []
        """Names in ``identity`` that differed in the file that was there."""
        self.content: dict[str, Any] = {"identity": self.identity, "records": {}}
        if path.exists():
            self._continue(read_results(path))

    def _continue(self, found: dict[str, Any]) -> None:
        names = {*self.identity, *found["identity"]}
        missing = object()
        own = json.loads(json.dumps(self.identity))
        self.changed = sorted(
            name for name in names if found["identity"].get(name, missing) != own.get(name, missing)
        )
        if self.changed:
            self.path.replace(self.path.with_suffix(".old.json"))
        else:
            self.content["records"] = found["records"]

    def say_changed(self, console: Console) -> None:
        """Tell why what was there before is not used, where it was made in another way."""
        if self.changed:
            console.print(
                f"Measured anew, since what was in {self.path} was made with another "
                f"{', '.join(self.changed)}; it is kept as {self.path.with_suffix('.old.json')}.",
                soft_wrap=True,
            )

    def get(self, values: Values) -> dict[str, Any] | None:
        """The record of a setting, None where there is none yet."""
        return self.content["records"].get(_key(values))

    def put(self, values: Values, record: Mapping[str, Any]) -> None:
        """Keep a record and write the file."""
        self.content["records"][_key(values)] = dict(record)
        self.write()

    def summarise(self, **summary: Any) -> None:
        """Put what follows from the records beside them and write the file."""
        self.content.update(summary)
        self.write()

    def write(self) -> None:
        """Replace the file in one step.

        Raises:
            InputError: If it cannot be written.
        """
        write_json(self.path, self.content)


def read_results(path: Path) -> dict[str, Any]:
    """What a :class:`ResultStore` wrote.

    Raises:
        InputError: If the file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON file of results.") from error
    if not isinstance(content, dict) or not {"identity", "records"} <= set(content):
        raise InputError(f"{path} holds no results of a search: it lacks 'identity' or 'records'.")
    return content


def hash_config(cfg: Config) -> str:
    """A hash of all settings of a config, overrides included."""
    return hashlib.sha256(cfg.pretty_text.encode()).hexdigest()


def checkpoint_facts(path: str) -> list[Any]:
    """Size in bytes and time of change of a local file; the address itself of any other."""
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        return [path]
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns]


def _key(values: Values) -> str:
    return json.dumps(values, sort_keys=True)
