"""mIoU against relative speed, one line for each method (ALGM, figures 4, 6, 7 and 8)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmtokmerge.analysis.front import pareto_front

HEIGHTS = (5.0, -11.0, 14.0, -20.0)
"""Above a mark, below it, further above, further below."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Mark:
    """A measured setting in the plot.

    Args:
        speed: Throughput relative to the baseline.
        miou: mIoU in percent.
        label: What stands beside it: its threshold, its number of merged tokens.
        star: Drawn as a star: the setting that was searched for.
        joined: Whether the line goes through it; else it is drawn as a diamond.
    """

    speed: float
    miou: float
    label: str = ""
    star: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Curve:
    """The settings of one method.

    Args:
        name: The line's name in the legend.
        marks: The line's settings in the order of the line, such as by threshold.
        baseline: The mIoU without merging, drawn as a line.
    """

    name: str
    marks: Sequence[Mark]
    baseline: float


def front_figure(curves: Sequence[Curve], title: str, front_only: bool = False) -> bytes:
    """Draw the methods into one PNG.

    Args:
        curves: The methods, each in a colour of its own.
        title: Above the plot.
        front_only: Draw of each method only what none of its other points beats (figure 6).
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for index, curve in enumerate(curves):
        _draw(axes, curve, COLOURS[index % len(COLOURS)], front_only)
    axes.set(xlabel="throughput relative to no merging", ylabel="mIoU (%)")
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", zorder=0)
    axes.margins(0.08, 0.12)
    axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format="png")
    return buffer.getvalue()


def _draw(axes: Axes, curve: Curve, colour: str, front_only: bool) -> None:
    marks = pareto_front(curve.marks) if front_only else curve.marks
    joined = sorted((mark for mark in marks if mark.joined), key=lambda mark: mark.speed)
    speeds, qualities = [mark.speed for mark in joined], [mark.miou for mark in joined]
    axes.plot(speeds, qualities, "o-", color=colour, markersize=4, linewidth=1, label=curve.name)
    axes.axhline(curve.baseline, color=colour, linewidth=0.8, linestyle="--", zorder=1)
    axes.annotate(
        f"no merging {curve.baseline:.2f}",
        (1, curve.baseline),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7,
        color=colour,
    )
    for mark, above in zip(marks, _heights(marks)):
        if mark.star:
            axes.plot(mark.speed, mark.miou, "*", color=colour, markersize=13, zorder=3)
        elif not mark.joined:
            axes.plot(mark.speed, mark.miou, "D", color=colour, markersize=5, zorder=3)
        axes.annotate(
            mark.label,
            (mark.speed, mark.miou),
            xytext=(0, above + 3 * mark.star),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=colour,
        )


def _heights(marks: Sequence[Mark]) -> list[float]:
    """How far above its mark, in points, each label stands so that near ones do not overprint."""
    width = max((mark.speed for mark in marks), default=1) - min(
        (m.speed for m in marks), default=0
    )
    height = max((mark.miou for mark in marks), default=1) - min((m.miou for m in marks), default=0)
    found: list[float] = []
    for index, mark in enumerate(marks):
        near = [
            above
            for other, above in zip(marks[:index], found)
            if abs(other.speed - mark.speed) < 0.05 * width + 1e-9
            and abs(other.miou - mark.miou) < 0.06 * height + 1e-9
        ]
        found.append(next(level for level in HEIGHTS if level not in near or level == HEIGHTS[-1]))
    return found
