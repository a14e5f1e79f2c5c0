"""Laying out panels: pictures in rows with titles, a heading and a legend."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

DPI = 100
PANEL_WIDTH, MAX_PANEL_WIDTH = 640, 1024
MARGIN, TITLE, HEADING, LEGEND_ROW, FONT = 14, 26, 40, 26, 11.5
BAR, BAR_ROW = 14, 64


@dataclass(frozen=True)
class ColourBar:
    """What the colours of a picture mean.

    Args:
        colours: A colour map of matplotlib.
        low: The value of its first colour.
        high: The value of its last colour.
        mark: A value that a line marks on the bar where the bar reaches it.
        label: What the values are.
    """

    colours: str
    low: float
    high: float
    mark: float
    label: str


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a figure.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        title: One line above the picture.
        subtitle: A second line.
        bar: What the picture's colours mean, drawn below it.
    """

    image: np.ndarray
    title: str
    subtitle: str = ""
    bar: ColourBar | None = None


def panel_figure(
    rows: Sequence[Sequence[Panel]],
    heading: str = "",
    legend: Sequence[tuple[str, Sequence[int]]] = (),
    width: int = PANEL_WIDTH,
) -> np.ndarray:
    """Lay out rows of panels under a heading, with a legend of classes below.

    Args:
        rows: Panels of each row; the first image says their aspect ratio, others are fitted in.
        heading: One line above all; '' for none.
        legend: Names and RGB colours (0 to 255).
        width: Width of a panel in pixels.

    Returns:
        The figure ``(H, W, 3)`` uint8 RGB on white.
    """
    columns = max(map(len, rows))
    height = panel_height(rows[0][0].image, width)
    lines = 2 if any(panel.subtitle for row in rows for panel in row) else 1
    caption = lines * TITLE
    total_width = columns * (width + MARGIN) + MARGIN
    per_row = max(1, total_width // 150)
    legend_rows = -(-len(legend) // per_row)
    per_row = -(-len(legend) // max(1, legend_rows))  # rows of equal length: none hangs alone
    legend_height = legend_rows * LEGEND_ROW + (MARGIN if legend else 0)
    top = HEADING if heading else MARGIN
    bars = [BAR_ROW if any(panel.bar for panel in row) else 0 for row in rows]
    row_heights = (caption + height + bar + MARGIN for bar in bars)
    tops = list(itertools.accumulate(row_heights, initial=top))  # the last is where the legend is
    total_height = tops[-1] + legend_height
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    write = _Writer(figure, total_width, total_height)
    if heading:
        write(MARGIN, HEADING / 2, heading, size=FONT + 3.5, weight="bold")
    corners = []
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            x, y = MARGIN + j * (width + MARGIN), tops[i]
            corners.append((x, y + caption))
            write(x, y + TITLE / 2, panel.title, weight="bold")
            write(x, y + 1.5 * TITLE, panel.subtitle, color="#555555")
            if panel.bar:
                tall, wide = fit(panel.image, (height, width))
                write.bar(x, y + caption + tall, wide, panel.bar)
    if legend:
        patches = [Patch(color=np.asarray(rgb) / 255, label=name) for name, rgb in legend]
        style = dict(loc="lower center", frameon=False, fontsize=FONT)
        figure.legend(handles=patches, ncol=per_row, **style)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # (H, W, 3)
    for (x, y), panel in zip(corners, itertools.chain(*rows)):
        tall, wide = fit(panel.image, (height, width))
        shrinks = wide < panel.image.shape[1]
        kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        picture[y : y + tall, x : x + wide] = cv2.resize(
            panel.image, (wide, tall), interpolation=kind
        )
    return picture


def fit(image: np.ndarray, box: tuple[int, int]) -> tuple[int, int]:
    """The largest ``(height, width)`` in ``box`` with the aspect ratio of ``image (H, W, 3)``."""
    scale = min(room / side for room, side in zip(box, image.shape))
    height, width = (max(1, min(room, round(side * scale))) for room, side in zip(box, image.shape))
    return height, width


class _Writer:
    """Writes text at pixels counted from a figure's top-left corner."""

    def __init__(self, figure: Figure, width: int, height: int) -> None:
        self.figure, self.width, self.height = figure, width, height

    def __call__(self, x: float, y: float, text: str, size: float = FONT, **style: str) -> None:
        place = (x / self.width, 1 - y / self.height)
        self.figure.text(*place, text, size=size, va="center", **style)

    def bar(self, x: float, y: float, width: float, bar: ColourBar) -> None:
        """Draw a colour bar ``width`` pixels wide below ``y``, its label and numbers under it."""
        left, bottom = (x + MARGIN) / self.width, 1 - (y + MARGIN / 2 + BAR) / self.height
        axes = self.figure.add_axes(
            (left, bottom, (width - 2 * MARGIN) / self.width, BAR / self.height)
        )
        Colorbar(
            axes,
            cmap=matplotlib.colormaps[bar.colours],
            norm=Normalize(bar.low, bar.high),
            orientation="horizontal",
        )
        axes.tick_params(labelsize=FONT - 2, pad=1, length=2)
        axes.set_xlabel(bar.label, size=FONT - 1, labelpad=1)
        if bar.low <= bar.mark <= bar.high:
            axes.axvline(bar.mark, color="red", linewidth=2.5)


def panel_height(image: np.ndarray, width: int) -> int:
    """Height in pixels at which a panel ``width`` wide shows all of an image ``(H, W, 3)``."""
    return max(1, round(width * image.shape[0] / image.shape[1]))


def panel_width(image: np.ndarray) -> int:
    """Width in pixels at which a panel shows an image ``(H, W, 3)``."""
    return min(max(image.shape[1], PANEL_WIDTH), MAX_PANEL_WIDTH)
