"""The same rows on the terminal, in Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table


def rich_table(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1))
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> str:
    """The same in Markdown, with its title as a paragraph above."""
    rule = ["---", *("---:" for _ in heads[1:])]
    lines = [[head.replace("\n", " ") for head in heads], rule, *rows]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{title}\n\n{body}\n"


def csv_text(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same as comma-separated values."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return buffer.getvalue()


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign."""
    return f"{value:+.{digits}f}"
