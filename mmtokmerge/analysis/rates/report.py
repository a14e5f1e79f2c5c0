"""What a search for rates found: rows of a table, marks of a plot, a config."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from mmtokmerge.analysis.front_plot import Curve, Mark
from mmtokmerge.analysis.rates.search import RateSearch, Tested
from mmtokmerge.analysis.rates.space import Merging, merging_config, presets
from mmtokmerge.merging import CellPooling, Matcher, StageMerging
from mmtokmerge.reporting.tables import signed

HEADS = ("setting", "mIoU", "mIoU\nchange", "GFLOPs", "GFLOPs\nchange", "ms", "throughput")
LEGEND = (
    "kv.6/2: 0.6 of keys and values merged, stride 2; q2x2: queries pooled 2x2; p: proportional, "
    "c: destination='centre', l: match='local', b: unmerge='bilinear', u2: reuse=2; -: nothing"
)
CHOSEN = "chosen"
FRONT = "front"


def describe(merging: Merging) -> str:
    """A setting in few letters: a preset's name, or what each stage merges, see LEGEND."""
    for name, preset in presets().items():
        if preset == merging:
            return name
    return " | ".join(_describe_stage(stage) for stage in merging)


def _describe_stage(stage: StageMerging) -> str:
    words = [_describe_side(name, side) for name, side in (("q", stage.q), ("kv", stage.kv))]
    letters = {
        "p": stage.proportional,
        "c": any(side.destination == "centre" for side in stage.bipartite),
        "l": any(side.match == "local" for side in stage.bipartite),
        "b": isinstance(stage.q, CellPooling) and stage.q.unmerge == "bilinear",
        f"u{stage.reuse}": stage.reuse > 1,
    }
    words.append("".join(letter for letter, holds in letters.items() if holds))
    return " ".join(word for word in words if word) or "-"


def _describe_side(name: str, side: Matcher | None) -> str:
    if side is None:
        return ""
    sy, sx = side.stride
    if isinstance(side, CellPooling):
        return f"{name}{sy}x{sx}"
    return f"{name}{side.rate:g}/{sy if sy == sx else f'{sy}x{sx}'}".replace("0.", ".", 1)


def make_rows(search: RateSearch, chosen: Tested) -> list[dict[str, Any]]:
    """Everything tested from the slowest to the fastest, as JSON values."""
    front, baseline = search.front(), search.baseline
    return [
        {
            "number": each.number,
            "setting": describe(each.merging),
            "merging": merging_config(each.merging),
            "notes": [FRONT] * (each in front) + [CHOSEN] * (each is chosen),
            "miou": each.miou,
            "miou_change": round(each.miou - baseline.miou, 4),
            "gflops": round(each.found.flops / 1e9, 6),
            "gflops_change_percent": round(100 * (each.found.flops / baseline.found.flops - 1), 3),
            "milliseconds": round(median(each.found.milliseconds), 4),
            "relative_throughput": round(each.speed, 4),
            "tokens": each.found.tokens,
        }
        for each in sorted(search.tested.values(), key=lambda each: each.speed)
    ]


def cells(row: dict[str, Any]) -> list[str]:
    """One line of the table."""
    notes = f" ({', '.join(row['notes'])})" if row["notes"] else ""
    return [
        f"{row['number']}: {row['setting']}{notes}",
        f"{row['miou']:.2f}",
        signed(row["miou_change"], 2),
        f"{row['gflops']:.2f}",
        f"{signed(row['gflops_change_percent'])}%",
        f"{row['milliseconds']:.1f}",
        f"{row['relative_throughput']:.2f}x",
    ]


def curve_of(rows: Sequence[dict[str, Any]]) -> Curve:
    """The plot: a line through the front, labelled by numbers; the rest beside it."""
    marks = [
        Mark(
            row["relative_throughput"],
            row["miou"],
            row["setting"] if row["setting"] in presets() else _label(row),
            CHOSEN in row["notes"],
            FRONT in row["notes"],
        )
        for row in rows
    ]
    baseline = next(row["miou"] for row in rows if row["setting"] == "none")
    return Curve("front of what was tested", marks, baseline)


def _label(row: dict[str, Any]) -> str:
    return str(row["number"]) if row["notes"] else ""


def config_text(
    base: str, merging: Merging, comments: Sequence[str], resets_proportional: bool
) -> str:
    """A config that inherits from ``base`` and merges this way.

    Args:
        base: Path of the config, relative to where this one will stand.
        merging: The setting.
        comments: Lines that come first.
        resets_proportional: Undo the ``proportional`` that the base gives to all stages.
    """
    stages = [
        ", ".join(f"{key}={_written(value)}" for key, value in stage.items())
        for stage in merging_config(merging)
    ]
    lines = [
        *(f"# {comment}" for comment in comments),
        f'_base_ = "{base}"',
        "model = dict(",
        "    backbone=dict(",
        "        merging=[",
        *(f"            dict({stage})," for stage in stages),
        "        ],",
        *(["        proportional=None,"] if resets_proportional else []),
        "    )",
        ")",
    ]
    return "\n".join(lines) + "\n"


def _written(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return repr(tuple(value)) if isinstance(value, list) else repr(value)
