"""Token merging at work on generated streets: the same weights under every preset, side by side."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from rich.console import Console
from torch import nn

from mmtokmerge.analysis.overview import overview_figure
from mmtokmerge.datasets.demo_streets import StreetSet, make_demo_streets
from mmtokmerge.engine.config import load_config
from mmtokmerge.engine.launch import import_scope
from mmtokmerge.measure.flops import counting_flops
from mmtokmerge.measure.inputs import network_inputs
from mmtokmerge.measure.samples import Samples
from mmtokmerge.measure.timing import interleave, wall_timer
from mmtokmerge.models.weights.fit import load_weights
from mmtokmerge.models.weights.safe_load import load_weights_safely
from mmtokmerge.quiet import ignore_known_warnings
from mmtokmerge.reporting.console import progress_bar
from mmtokmerge.reporting.files import write_bytes, write_json, write_text
from mmtokmerge.reporting.tables import markdown_table, rich_table
from mmtokmerge.visualization.pictures import write_picture

CONFIG = "b0_demo_none"
STOCK = "mmseg's own model"
FUSED = "the same, fused attention"
"""The baseline: mmseg's model as somebody who looks for speed would run it."""
PRESETS = ("none", "hq", "fast", "plus", "n2d")
DOWNSAMPLE = "downsample"
COLOURS = ("0.35", "0.5", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00", "0.65")
MARKS = ("s", "*", "o", "v", "^", "D", "P", "X")
HEADS = ("", "mIoU", "mIoU_small", "GFLOPs", "latency, ms", "speed-up")
WARMUP = 1


@dataclass(frozen=True)
class Row:
    """One network of the table.

    Args:
        name: The preset, or whose it is.
        miou: Mean intersection over union in percent.
        miou_small: The same of the small classes.
        gflops: Operations for one image; 1 MAC = 2 FLOPs.
        milliseconds: Median of one image.
        speedup: Over mmseg's own model with fused attention, the ratio of the medians.
    """

    name: str
    miou: float
    miou_small: float
    gflops: float
    milliseconds: float
    speedup: float

    def cells(self) -> list[str]:
        """The row as text."""
        return [
            self.name,
            f"{self.miou:.2f}",
            f"{self.miou_small:.2f}",
            f"{self.gflops:.1f}",
            f"{self.milliseconds:.0f}",
            f"{self.speedup:.2f}",
        ]


def run_demo(checkpoint: Path, out: Path, images: int, runs: int, console: Console) -> list[Row]:
    """Draw streets, test, time and draw; print where everything is.

    Args:
        checkpoint: Weights of SegFormer-B0 on Cityscapes' 19 classes.
        out: Folder for the streets, the table, the chart and the pictures.
        images: How many streets are drawn and tested.
        runs: How often each network is timed.
        console: Where progress and results are printed.
    """
    start = time.monotonic()
    load_weights_safely()
    MMLogger.get_current_instance().setLevel("ERROR")
    ignore_known_warnings()
    settings = StreetSet(train=1, val=images)
    console.print(f"1/4  drawing {images} streets of {settings.width}x{settings.height} pixels")
    streets = out / "streets"
    make_demo_streets(streets, settings)
    import_scope("mmseg")
    cfg = load_config(CONFIG, {"test_dataloader.dataset.data_root": str(streets)})
    networks = build_networks(cfg, checkpoint)
    samples = Samples(cfg, "test")
    total = len(networks) * len(samples)
    console.print(f"2/4  testing {len(networks)} networks with the same weights")
    with progress_bar(console, "testing", total) as advance:
        scores = {name: score(net, cfg, samples, advance) for name, net in networks.items()}
    console.print(f"3/4  timing them in turn, {runs} rounds")
    image = network_inputs(networks[STOCK], next(iter(samples)))[0]
    with progress_bar(console, "timing", len(networks) * runs, "steps") as advance:
        times = time_networks(networks, image, runs, advance)
    rows = [
        Row(
            name,
            scores[name]["mIoU"],
            scores[name]["mIoU_small"],
            count_flops(network, image) / 1e9,
            times[name],
            times[FUSED] / times[name],
        )
        for name, network in networks.items()
    ]
    console.print("4/4  drawing what merges")
    files = write_results(rows, cfg, checkpoint, out, streets)
    threads = torch.get_num_threads()
    title = f"SegFormer-B0, {settings.width}x{settings.height} pixels, fp32, CPU, {threads} threads"
    console.print(rich_table(HEADS, [row.cells() for row in rows], title))
    console.print(sentence(rows), soft_wrap=True)
    for path in files:
        console.print(str(path), soft_wrap=True, highlight=False)
    console.print(f"done in {time.monotonic() - start:.0f} s")
    return rows


def build_networks(cfg: Config, checkpoint: Path) -> dict[str, nn.Module]:
    """mmseg's model, plain and fused, each preset and half resolution, all of the same weights."""
    backbone = cfg.model.backbone
    variants: dict[str, ConfigDict] = {
        STOCK: stock_config(cfg.model, "mmseg.MixVisionTransformer"),
        FUSED: stock_config(cfg.model, "mmtokmerge.FusedMixVisionTransformer"),
    }
    for preset in PRESETS:
        variants[preset] = _with_backbone(cfg.model, dict(backbone, merging=preset))
    variants[DOWNSAMPLE] = _with_backbone(cfg.model, dict(backbone, downsample=2))
    networks = {}
    for name, model in variants.items():
        with DefaultScope.overwrite_default_scope("mmseg"):
            network = revert_sync_batchnorm(MODELS.build(model))
        load_weights(network, str(checkpoint))
        networks[name] = network.float().eval()
    return networks


def stock_config(model: Any, encoder: str) -> ConfigDict:
    """The same network as mmseg builds it, with ``encoder``."""
    b0 = dict(embed_dims=32, num_layers=[2, 2, 2, 2], num_heads=[1, 2, 5, 8])
    more = dict(patch_sizes=[7, 3, 3, 3], sr_ratios=[8, 4, 2, 1], mlp_ratio=4, qkv_bias=True)
    stock = _with_backbone(model, dict(type=encoder, **b0, **more))
    stock.decode_head["type"] = "mmseg.SegformerHead"
    return stock


def _with_backbone(model: Any, backbone: dict[str, Any]) -> ConfigDict:
    changed = ConfigDict(model).copy()
    changed["backbone"] = ConfigDict(backbone)
    changed["decode_head"] = ConfigDict(model["decode_head"]).copy()
    return changed


@torch.no_grad()
def score(network: nn.Module, cfg: Config, samples: Samples, advance: Any) -> dict[str, float]:
    """What the config's evaluator says of a network on the streets."""
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = samples.metainfo
    for batch in samples:
        evaluator.process(network.test_step(batch), batch)
        advance()
    return {key: float(value) for key, value in evaluator.evaluate(len(samples)).items()}


@torch.no_grad()
def time_networks(
    networks: dict[str, nn.Module], image: torch.Tensor, runs: int, advance: Any
) -> dict[str, float]:
    """Median milliseconds of each network on one image, all timed in turn."""

    def step(network: nn.Module) -> Any:
        return lambda: network(image, None, mode="tensor")

    steps = {name: step(network) for name, network in networks.items()}
    interleave(steps, WARMUP, wall_timer)
    samples = interleave(steps, runs, wall_timer, advance)
    return {name: median(values) for name, values in samples.items()}


@torch.no_grad()
def count_flops(network: nn.Module, image: torch.Tensor) -> int:
    """FLOPs of a network on one image, attention and matching included."""
    with counting_flops(network) as counter:
        network(image, None, mode="tensor")
    return int(counter.get_total_flops())


def sentence(rows: Sequence[Row]) -> str:
    """What the table says: the fastest preset that keeps the quality of no merging."""
    found = {row.name: row for row in rows}
    none = found["none"]
    kept = [r for r in rows if r.name in PRESETS[1:] and r.miou >= none.miou - 0.5]
    if not kept:
        return f"No preset keeps the {none.miou:.1f} mIoU of no merging within half a point here."
    best = max(kept, key=lambda row: row.speedup)
    over_none = none.milliseconds / best.milliseconds
    return (
        f"'{best.name}' runs {best.speedup:.1f} times as fast as mmseg's own model with fused "
        f"attention and {over_none:.1f} times as fast as the same network on this package's "
        f"kernels without merging, at {best.miou - none.miou:+.2f} mIoU and "
        f"{best.miou_small - none.miou_small:+.2f} on the small classes, without any training."
    )


def write_results(
    rows: Sequence[Row], cfg: Config, checkpoint: Path, out: Path, streets: Path
) -> list[Path]:
    """The table, the chart and two pictures; returns their files."""
    table = markdown_table(HEADS, [row.cells() for row in rows], "Generated streets")
    write_text(out / "table.md", table)
    write_json(out / "table.json", [vars(row) for row in rows])
    write_bytes(out / "chart.png", chart(rows))
    files = [out / "table.md", out / "chart.png"]
    street = min((streets / "leftImg8bit/val").rglob("*.png"))
    for preset in ("hq", "fast"):
        merged = Config(cfg.to_dict(), filename=cfg.filename)
        merged.model.backbone["merging"] = preset
        path = out / f"tokens_{preset}.png"
        write_picture(path, np.asarray(overview_figure(merged, str(checkpoint), str(street))))
        files.append(path)
    return files


def chart(rows: Sequence[Row]) -> bytes:
    """Speed against mIoU, a mark for each network, as a PNG."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for row, colour, mark in zip(rows, COLOURS, MARKS):
        label = f"{row.name}: {row.speedup:.2f}×, {row.miou:.1f}"
        axes.plot(row.speedup, row.miou, mark, color=colour, markersize=9, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 2, 4, 8, 16], ["1×", "2×", "4×", "8×", "16×"])
    axes.minorticks_off()
    axes.set(xlabel="speed-up over mmseg's own model with fused attention", ylabel="mIoU (%)")
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", zorder=0)
    axes.margins(0.14, 0.15)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format="png")
    return buffer.getvalue()
