"""The CSV files of benchmarks as Markdown tables."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmtokmerge.errors import InputError
from mmtokmerge.measure.machine import slug
from mmtokmerge.reporting.files import write_text

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
RATIO = "speedup_over_"
BASES = ("stock fused", "stock")  # the first that a file has is what its ratios are over
KIND = ("part", "mode", "height", "width", "dtype", "compile", "cuda_graph", "images", "arch")
Row = Mapping[str, str]


@dataclass
class Grid:
    """Rows of one kind of benchmark: models by sizes.

    Args:
        title: What was measured, on what.
        cells: For each model, and in it each size ``H x W``, what is shown.
    """

    title: str
    cells: dict[str, dict[str, str]] = field(default_factory=dict)

    def render(self) -> str:
        """The title and a Markdown table."""
        sizes = list(dict.fromkeys(size for row in self.cells.values() for size in row))
        sizes.sort(key=lambda size: [int(side) for side in size.split(" x ")])
        lines = [f"**{self.title}**", "", _line(["model", *sizes])]
        lines.append("|---|" + "---:|" * len(sizes))
        for model, row in self.cells.items():
            lines.append(_line([model, *(row.get(size, "") for size in sizes)]))
        return "\n".join(lines)


def make_tables(files: Iterable[Path]) -> str:
    """All tables of some CSV files of ``tools/benchmark.py``, files of one kind in one table.

    Raises:
        InputError: If a file is not such a CSV.
    """
    grids: dict[str, Grid] = {}
    for path, rows in [(each, rows) for each in files for rows in _runs(_read(each))]:
        base = _base(rows)
        title = _title(rows, base)
        cells = [
            (row["model"], f"{row['height']} x {row['width']}", _cell(row, base, _reference(rows)))
            for row in rows
        ]
        if title in grids and any(
            size in grids[title].cells.get(name, {}) for name, size, _ in cells
        ):
            title = f"{title} ({path.stem})"  # another run of the same sizes has a table of its own
        grid = grids.setdefault(title, Grid(title))
        for name, size, cell in cells:
            grid.cells.setdefault(name, {})[size] = cell
    return "\n\n".join(grid.render() for grid in grids.values())


def write_between_markers(path: Path, text: str) -> bool:
    """Put a text between the markers of a file; returns whether that changed the file.

    Raises:
        InputError: If the file does not hold both markers once, in order.
    """
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, found, rest = old.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise InputError(
            f"{path} needs the lines {BEGIN} and {END} around the place of the tables."
        )
    new = f"{before}{BEGIN}\n{text}\n{END}{after}"
    if new != old:
        write_text(path, new)
    return new != old


def _read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    needed = ("model", "part", "mode", "height", "width", "dtype", "machine", "torch", "note")
    if not rows or any(key not in rows[0] for key in needed):
        raise InputError(f"{path} is no CSV of tools/benchmark.py.")
    return rows


def _runs(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of a file, those of one run and size together: a name that comes again begins one.

    A file of several kinds of benchmark, as the parts on a GPU write it, has a table for each.
    """
    runs: list[list[Row]] = []
    for row in rows:
        kind = [row.get(key) for key in KIND]
        last = runs[-1] if runs else []
        if (
            not last
            or kind != [last[0].get(key) for key in KIND]
            or row["model"] in [each["model"] for each in last]
        ):
            runs.append([])
        runs[-1].append(row)
    return runs


def _base(rows: Sequence[Row]) -> str | None:
    return next((name for name in BASES if f"{RATIO}{slug(name)}" in rows[0]), None)


def _reference(rows: Sequence[Row]) -> str | None:
    """The own unmerged model that a file without baselines compares with."""
    return next((row["limit_reference"] for row in rows if row.get("limit_reference")), None)


def _title(rows: Sequence[Row], base: str | None) -> str:
    row = rows[0]
    batches = {each["batch_size"] for each in rows if each["batch_size"]}
    batch = f"batch {batches.pop()}" if len(batches) == 1 else "best batch of each"
    words = [_network(rows), row["part"], row["mode"], row["dtype"], batch]
    words += ["compiled"] * (row.get("compile") == "True")
    words += ["CUDA graph"] * (row.get("cuda_graph") == "True")
    words += [f"{row['images']} images"] if row.get("images") else []
    words += [row["allocator"]] if row.get("allocator") else []
    threads = f", {row['threads']} threads" if row.get("device") == "cpu" else ""
    machine = f"{row['machine']}{threads}, torch {row['torch']}"
    reference = _reference(rows) if base is None else base
    over = "images a second" if reference is None else f"speed-up over {reference}"
    return f"{', '.join(words)}; {machine}: {over}"


def _network(rows: Sequence[Row]) -> str:
    """What the names of the timed configs begin with."""
    rivals = {key[len(RATIO) :] for key in rows[0] if key.startswith(RATIO)}
    own = [row["model"] for row in rows if slug(row["model"]) not in rivals]
    if len(set(own)) < 2:
        return own[0] if own else rows[0]["model"]
    words = [set(column) for column in zip(*(name.split("_") for name in own))]
    same = [column.pop() for column in itertools.takewhile(lambda column: len(column) == 1, words)]
    return "_".join(same) or "several networks"


def _cell(row: Row, base: str | None, reference: str | None) -> str:
    """The ratio; how near it is to the limit; the memory of training; or why there is nothing."""
    if base is not None:
        value = row[f"{RATIO}{slug(base)}"]
    elif reference is not None:
        value = "1" if row["model"] == reference else row["speedup_over_limit_reference"]
    else:
        value = row["images_per_second"]
    if not value:
        return row["note"]
    shown = f"{float(value):.2f}"
    limit = row.get("limit_shares") or row.get("limit_operations")
    if limit:
        shown += f" ({float(row['speedup_over_limit_reference']) / float(limit):.0%})"
    if row["mode"] == "train" and row["peak_memory_mib"]:
        shown += f", {float(row['peak_memory_mib']):.0f} MiB"
    return shown


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
