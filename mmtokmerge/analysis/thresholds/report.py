"""The trade-off that a threshold search found: rows of a table, marks of a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtokmerge.analysis.experiment import read_results
from mmtokmerge.analysis.front_plot import Curve, Mark
from mmtokmerge.analysis.plain_vit import PATCHES
from mmtokmerge.analysis.thresholds.search import Search, Target, describe
from mmtokmerge.errors import InputError
from mmtokmerge.measure.evaluate import Measurement
from mmtokmerge.models.overrides import NUM_MERGED, THRESHOLD
from mmtokmerge.reporting.tables import signed

STAR = {THRESHOLD: "ALGM*", NUM_MERGED: "most merged without loss"}
CONFIGURED = "as configured"


@dataclass(frozen=True)
class Row:
    """One setting in the results.

    Args:
        found: What was measured.
        baseline: What it is compared with.
        note: Why it is of interest: 'ALGM*', '1.5x wanted', or ''.
    """

    found: Measurement
    baseline: Measurement
    note: str = ""

    @property
    def label(self) -> str:
        """The setting in words."""
        return describe(self.found.values)

    @property
    def miou_gain(self) -> float:
        """Percentage points of mIoU over the baseline (ALGM, tables 3 and 8)."""
        return self.found.miou - self.baseline.miou

    @property
    def flops_change(self) -> float:
        """Percent of FLOPs more than the baseline, less where negative (tables 3 and 8)."""
        return 100 * (self.found.flops / self.baseline.flops - 1)

    @property
    def kept(self) -> dict[str, float]:
        """Percent of the patches that are tokens at each place."""
        tokens = self.found.tokens
        return {
            place: 100 * count / tokens[PATCHES]
            for place, count in tokens.items()
            if place != PATCHES
        }

    def to_json(self) -> dict[str, Any]:
        """What the table shows, as JSON values."""
        return {
            "setting": self.label,
            "value": next((x for x in self.found.values.values() if not isinstance(x, str)), None),
            "note": self.note,
            "miou": self.found.miou,
            "miou_gain": round(self.miou_gain, 4),
            **{f"tokens_percent_{place}": round(share, 3) for place, share in self.kept.items()},
            "gflops": round(self.found.flops / 1e9, 6),
            "gflops_change_percent": round(self.flops_change, 3),
            "relative_throughput": round(self.found.speed, 4),
        }


def make_rows(
    search: Search,
    baseline: Measurement,
    configured: Measurement | None,
    own: float | None,
    targets: Sequence[Target],
) -> list[Row]:
    """The baseline, then the model as configured, then all values from the largest.

    Args:
        search: What was measured.
        baseline: Without merging.
        configured: The model as it is, where its reducers have different values.
        own: The one value that config and checkpoint give to all reducers.
        targets: Throughputs that were wanted.
    """
    notes: dict[float, list[str]] = {value: [] for value in search.measured}
    star = search.star(baseline.miou)
    if own is not None:
        notes[own].append(CONFIGURED)
    if star is not None:
        notes[star].append(STAR[search.name])
    for target in targets:
        if target.found is not None:
            notes[target.found.values[search.name]].append(f"{target.speed:g}x wanted")
    rows = [Row(baseline, baseline)]
    if configured is not None:
        rows.append(Row(configured, baseline))
    values = sorted(search.measured, reverse=True)
    return rows + [
        Row(search.measured[value], baseline, ", ".join(notes[value])) for value in values
    ]


def heads(rows: Sequence[Row]) -> list[str]:
    """Column heads of the table."""
    places = [f"tokens %\n{place}" for place in rows[-1].kept]
    return ["setting", "mIoU", "mIoU\nchange", *places, "GFLOPs", "GFLOPs\nchange", "throughput"]


def cells(row: Row) -> list[str]:
    """One line of the table; a baseline has no changes."""
    compared = row.found is not row.baseline
    return [
        f"{row.label} ({row.note})" if row.note else row.label,
        f"{row.found.miou:.2f}",
        signed(row.miou_gain, 2) if compared else "",
        *(f"{share:.1f}" for share in row.kept.values()),
        f"{row.found.flops / 1e9:.2f}",
        f"{signed(row.flops_change)}%" if compared else "",
        f"{row.found.speed:.2f}x",
    ]


def curve_of(name: str, table: Sequence[Mapping[str, Any]]) -> Curve:
    """What the plot shows of the JSON rows of one search, of which the first is the baseline."""
    marks = [
        Mark(
            row["relative_throughput"],
            row["miou"],
            "config" if row["value"] is None else f"{row['value']:.3g}",
            bool(set(STAR.values()) & set(row["note"].split(", "))),
            row["value"] is not None,
        )
        for row in table[1:]
    ]
    return Curve(name, marks, table[0]["miou"])


def read_curve(name: str, path: Path) -> Curve:
    """The curve of another search's JSON.

    Raises:
        InputError: If the file is missing, is none, or its search was not finished.
    """
    table = read_results(path).get("table", [])
    if len(table) < 2:
        raise InputError(f"--overlay {name}={path}: this search was not finished.")
    return curve_of(name, table)
