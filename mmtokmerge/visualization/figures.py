"""Figures of merged tokens by stage and of two predictions side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmtokmerge.visualization.differences import colour_labels, differing, highlight
from mmtokmerge.visualization.groups import draw_tokens
from mmtokmerge.visualization.layout import Panel, fit, panel_figure, panel_height, panel_width
from mmtokmerge.visualization.merged import MergedTokens
from mmtokmerge.visualization.similarity import draw_similarity


def token_panels(
    image: np.ndarray, records: Sequence[MergedTokens], box: tuple[int, int]
) -> list[Panel]:
    """The panels of each record, drawn to fit a panel of ``box`` pixels.

    A record that was decided by the similarity of windows has a panel of it before its tokens.
    """
    size = fit(image, box)
    panels = []
    for tokens in records:
        if tokens.windows is not None:
            panels.append(similarity_panel(image, tokens, size))
        panels.append(groups_panel(image, tokens, size))
    return panels


def token_heading(name: str, records: Sequence[MergedTokens], block: str, note: str = "") -> str:
    """What a figure of an image's records shows, for the line above all.

    Args:
        name: The name of the image.
        records: What was recorded of it.
        block: 'first' or 'last', the recorded block of each stage where there are stages.
        note: What part or view of the image it is, '' for the whole.
    """
    staged = any(tokens.stage is not None for tokens in records)
    blocks = f", {block} block of each stage" if staged else ""
    shown = name.rpartition(".")[0] or name  # without what says the file's format
    shown = shown.removesuffix("_leftImg8bit")
    return f"{shown}: merged tokens{blocks}" + (note and f" ({note})")


def groups_panel(image: np.ndarray, tokens: MergedTokens, size: tuple[int, int]) -> Panel:
    """Which tokens stand together, and how many are left."""
    count, kept = tokens.assignment.num_tokens, tokens.num_kept()
    numbers = (
        f"{count:,} → {kept:,} tokens" if tokens.removed else f"{count:,} tokens in {kept:,} groups"
    )
    share = f"{kept / count:.0%} kept" if tokens.removed else "averaged, none removed"
    rest = "; dark edge: in no key" if min(tokens.covered) < 1 else ""
    return Panel(
        draw_tokens(image, tokens, size=size),
        f"{tokens.place}, {numbers}",
        f"{tokens.how}; {share}{rest}",
    )


def similarity_panel(image: np.ndarray, tokens: MergedTokens, size: tuple[int, int]) -> Panel:
    """How alike the tokens of each window are, with a bar of the colours' values."""
    windows = tokens.windows
    if windows is None:
        raise ValueError(f"{tokens.place} has no windows to draw")
    (rows, columns), (wy, wx) = windows.values.shape[1:], windows.window
    rest = "; rim: no window" if (rows * wy, columns * wx) != tokens.hw else ""
    picture, bar = draw_similarity(image, tokens, size=size)
    return Panel(
        picture,
        f"{windows.place}, windows of {wy}×{wx}",
        f"{windows.num_above():,} of {rows * columns:,} windows above τ {windows.threshold:.4g}"
        + rest,
        bar,
    )


def token_figure(
    image: np.ndarray, records: Sequence[MergedTokens], heading: str = "", columns: int = 2
) -> np.ndarray:
    """A picture of the merged tokens of each recorded place; a plain ViT's starts with the input.

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
    if all(tokens.stage is None for tokens in records):  # ALGM, figure 9
        h, w = records[0].hw
        input_size = "{}×{} pixels".format(*image.shape[:2])
        panels.insert(0, Panel(image, f"Input, {h * w:,} patches", f"{input_size}, grid {h}×{w}"))
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
