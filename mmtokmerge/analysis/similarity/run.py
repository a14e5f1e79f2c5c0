"""What ``tools/analyze_similarity.py`` does with its command line (ALGM, figure 2)."""

from __future__ import annotations

import io
import json
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mmtokmerge.analysis.similarity.labelled import ClassSimilarity, class_similarity
from mmtokmerge.analysis.similarity.pairs import PairMeans
from mmtokmerge.engine.loading import load_model, read_config
from mmtokmerge.errors import InputError
from mmtokmerge.measure.samples import Samples
from mmtokmerge.models.backbones import VisionTransformer
from mmtokmerge.reporting.console import make_console, progress_bar
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import markdown_table, rich_table

HEADS = ("pairs of tokens in", "same class", "other class", "difference", "same", "other")


def analyze_similarity(args: Namespace) -> ClassSimilarity:
    """Measure, print and save.

    Raises:
        InputError: If an argument, the config or the checkpoint is wrong.
    """
    sizes = sorted(set(args.windows))
    if sizes[0] < 2:
        raise InputError(f"--windows {sizes[0]} has no pairs of tokens: take at least 2.")
    cfg = read_config(args)
    model = load_model(
        cfg, args.checkpoint, args.device, backbone=VisionTransformer, uncalibrated=True
    ).model
    samples = Samples(cfg, args.split, args.num_images, args.seed)
    console = make_console()
    with progress_bar(console, f"{args.split} images", len(samples)) as advance:
        found = class_similarity(model, samples, sizes, args.majority, advance)
    rows = table_rows(found)
    name = Path(args.config).stem
    title = f"Cosine similarity of tokens, {name}, {args.split} images: {found.images}"
    console.print(rich_table(HEADS, rows, title))
    write_bytes(args.out / "similarity.md", markdown_table(HEADS, rows, title).encode())
    write_bytes(
        args.out / "similarity.json", (json.dumps(to_json(found), indent=1) + "\n").encode()
    )
    write_bytes(args.out / "similarity.png", similarity_figure(found, title))
    console.print(f"wrote similarity.md, .json and .png to {args.out}", soft_wrap=True)
    return found


def table_rows(found: ClassSimilarity) -> list[list[str]]:
    """One line for each window of layer 1, then one for each layer."""
    lines = [(f"windows {size} x {size}, layer 1", each) for size, each in found.windows.items()]
    lines += [(f"the image, layer {layer}", each) for layer, each in found.layers.items()]
    return [
        [
            name,
            *(_cosine(value) for value in (each.intra, each.inter, each.intra - each.inter)),
            f"{each.same_count:,}",
            f"{each.different_count:,}",
        ]
        for name, each in lines
    ]


def to_json(found: ClassSimilarity) -> dict[str, Any]:
    """Means and counts as JSON values; null where there is no pair."""

    def values(means: Mapping[int, PairMeans]) -> dict[int, dict[str, Any]]:
        return {
            key: {
                "intra": None if math.isnan(each.intra) else each.intra,
                "inter": None if math.isnan(each.inter) else each.inter,
                "intra_pairs": each.same_count,
                "inter_pairs": each.different_count,
            }
            for key, each in means.items()
        }

    return {
        "images": found.images,
        "windows_in_layer_1": values(found.windows),
        "image_by_layer": values(found.layers),
    }


def similarity_figure(found: ClassSimilarity, title: str) -> bytes:
    """Figure 2: windows of layer 1 at the left, layers at the right, as PNG."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(1, 2, sharey=True)
    sides = (found.windows, "window (tokens), layer 1"), (found.layers, "layer, whole image")
    for panel, (means, label) in zip(panels, sides):
        places = range(len(means))
        panel.plot(places, [each.intra for each in means.values()], "o-", label="same class")
        panel.plot(places, [each.inter for each in means.values()], "s--", label="other class")
        names = [f"{key}×{key}" if means is found.windows else str(key) for key in means]
        panel.set_xticks(places, names)
        panel.set_xlabel(label)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="0.92")
    panels[0].set_ylabel("mean cosine similarity")
    panels[0].legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format="png")
    return buffer.getvalue()


def _cosine(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
