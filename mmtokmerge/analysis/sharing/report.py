"""What the commands of ``tools/analyze_sharing.py`` print and write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mmtokmerge.errors import InputError
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import markdown_table, rich_table

Shown = tuple[Sequence[str], Sequence[Sequence[str]], str]
"""Heads, rows and title of a table."""


def publish(
    console: Console, out: Path, name: str, table: Shown, content: dict[str, Any], csv: str
) -> None:
    """Show a table and write it as Markdown, and its values as JSON and CSV.

    Args:
        console: Where it is shown.
        out: The folder.
        name: The name of the files.
        table: What is shown.
        content: JSON values.
        csv: Text of the CSV.

    Raises:
        InputError: If a file cannot be written.
    """
    console.print(rich_table(*table))
    write_bytes(out / f"{name}.md", markdown_table(*table).encode())
    write_bytes(out / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())
    write_bytes(out / f"{name}.csv", csv.encode())
    console.print(f"wrote {name}.* to {out}", soft_wrap=True)


def check_positive(name: str, values: Sequence[int]) -> None:
    """Raise InputError where an option's number is below 1."""
    if min(values) < 1:
        raise InputError(f"--{name} {' '.join(map(str, values))} must be at least 1.")
