"""Plots of token sharing: single-class superpatches (figure 2), mIoU against speed (figure 5)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmtokmerge.analysis.front_plot import COLOURS, Mark


def histogram_figure(sets: Mapping[str, Sequence[float]], bins: int, title: str) -> bytes:
    """How many images have which share of single-class superpatches, as PNG.

    Args:
        sets: The images' shares in percent by the data set's name. Several sets are drawn as parts
            of their images, so that a small one stands beside a large one.
        bins: Parts of 0 to 100 %.
        title: Above the plot.
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    alone = len(sets) == 1
    for index, (name, percents) in enumerate(sets.items()):
        axes.hist(
            percents,
            bins=bins,
            range=(0, 100),
            weights=None if alone else np.full(len(percents), 100 / len(percents)),
            histtype="stepfilled" if alone else "step",
            color=COLOURS[index % len(COLOURS)],
            label=name,
        )
    label = "images" if alone else "images (%)"
    axes.set(xlabel="superpatches of a single class (%)", ylabel=label, xlim=(0, 100))
    if alone:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _finish(figure, title, legend=not alone)


def tradeoff_figure(curves: Mapping[str, Sequence[Mark]], first: Mark, title: str) -> bytes:
    """mIoU against throughput relative to the first model, as PNG.

    Args:
        curves: Settings by the name of what they have in common, in the order of the line.
        first: What speed is relative to; a dashed line shows its mIoU.
        title: Above the plot.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(first.miou, color="0.6", linewidth=0.8, linestyle="--", zorder=1)
    for index, (name, marks) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        points = [mark.speed for mark in marks], [mark.miou for mark in marks]
        axes.plot(*points, "o-", color=colour, markersize=4, linewidth=1, label=name)
        for mark in marks:
            axes.annotate(
                mark.label,
                (mark.speed, mark.miou),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=colour,
            )
    axes.set(xlabel=f"throughput relative to {first.label}", ylabel="mIoU (%)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.1f}×")
    axes.margins(0.12)
    return _finish(figure, title, legend=True)


def _finish(figure: Figure, title: str, legend: bool) -> bytes:
    (axes,) = figure.axes
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", zorder=0)
    axes.set_axisbelow(True)
    if legend:
        axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format="png")
    return buffer.getvalue()
