"""Figures of merged tokens by stage and of two predictions side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmtokmerge.visualization.differences import colour_labels, differing, highlight
from mmtokmerge.visualization.groups import draw_tokens
from mmtokmerge.visualization.layout import Panel, fit, panel_figure, panel_height, panel_width
from mmtokmerge.visualization.record import MergedTokens

PART_NAMES = {"queries": "queries", "keys/values": "keys and values"}


def token_panels(
    image: np.ndarray, records: Sequence[MergedTokens], box: tuple[int, int]
) -> list[Panel]:
    """One panel for each recorded part of each stage, drawn to fit a panel of ``box`` pixels."""
    size = fit(image, box)
    panels = []
    for tokens in records:
        matcher, count, kept = tokens.matcher, tokens.assignment.num_tokens, tokens.num_kept()
        sy, sx = matcher.stride
        rate = f" rate {matcher.rate:g}," if matcher.mode == "bsm" else ""
        rest = "; dark rim: no keys" if min(tokens.covered) < 1 else ""
        panels.append(
            Panel(
                draw_tokens(image, tokens, size=size),
                f"Stage {tokens.stage}: {PART_NAMES[tokens.part]}, {count:,} → {kept:,} tokens",
                f"{matcher.mode},{rate} cells of {sy}×{sx}; {kept / count:.0%} kept{rest}",
            )
        )
    return panels


def token_figure(
    image: np.ndarray, records: Sequence[MergedTokens], heading: str = "", columns: int = 2
) -> np.ndarray:
    """A picture of the merged tokens of each recorded stage and part.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, what the encoder saw.
        records: What :func:`mmtokmerge.visualization.record_assignments` recorded of it, not empty.
        heading: One line above all.
        columns: Panels side by side.

    Returns:
        The figure ``(H, W, 3)`` uint8 RGB.
    """
    width = panel_width(image)
    panels = token_panels(image, records, (panel_height(image, width), width))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return panel_figure(rows, heading, width=width)


def difference_figure(
    image: np.ndarray,
    predictions: tuple[np.ndarray, np.ndarray],
    names: tuple[str, str],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    heading: str = "",
) -> np.ndarray:
    """Two predictions and where they differ, with the fraction of pixels that do.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        predictions: Two label maps ``(H, W)``.
        names: What to call the two models.
        classes: Names of the classes.
        palette: RGB from 0 to 255 of each class.
        heading: One line above all.

    Returns:
        The figure ``(H, W, 3)`` uint8 RGB.
    """
    first, second = predictions
    panels = [
        Panel(colour_labels(image, labels, palette), name, "prediction")
        for labels, name in zip(predictions, names)
    ]
    panels.append(difference_panel(image, first, second))
    legend = class_legend((first, second), classes, palette)
    return panel_figure([panels], heading, legend, panel_width(image))


def difference_panel(image: np.ndarray, first: np.ndarray, second: np.ndarray) -> Panel:
    """Where two label maps ``(H, W)`` differ, highlighted."""
    mask = differing(first, second)
    return Panel(
        highlight(image, mask), f"Difference: {mask.mean():.2%} of pixels", "pink: another class"
    )


def class_legend(
    label_maps: Sequence[np.ndarray], classes: Sequence[str], palette: Sequence[Sequence[int]]
) -> list[tuple[str, Sequence[int]]]:
    """Names and colours of the classes that occur in some label map."""
    present = sorted({int(label) for labels in label_maps for label in np.unique(labels)})
    return [(classes[label], palette[label]) for label in present if label < len(classes)]
