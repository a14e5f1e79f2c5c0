"""Every way of merging in a plain ViT on one set of weights: mIoU with intervals against latency.

    python benchmarks/method_quality.py configs/algm/segmenter_vit-t_streets_algm.py \
        CALIBRATED.pth --scenes 60 --shape 512 1024 --out benchmarks/quality/methods_vit-t_streets

The checkpoint holds ALGM's threshold (tools/calibrate_threshold.py). Writes OUT.csv and OUT.md
after each row, and OUT.png, as the figure 6 of ALGM; rows that stand there are not measured again.
The speed-up is the ratio of medians over the same network without merging, all methods in turn on
each of --runs images; nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from option_quality import compare, draw_scenes, figures
from rich.console import Console

from mmtokmerge.analysis.rates.run import resize_test
from mmtokmerge.commands.main import guard
from mmtokmerge.engine.loading import load_model, read_config
from mmtokmerge.evaluation.intervals import Ratios, keeping_results
from mmtokmerge.measure.samples import Samples
from mmtokmerge.measure.timing import interleave, wall_timer
from mmtokmerge.merging.trace import trace
from mmtokmerge.models.backbones import VisionTransformer
from mmtokmerge.models.backbones.vit_options import build_reducers
from mmtokmerge.reporting.console import progress_bar
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text, markdown_table

Setting = tuple[list[dict[str, Any]], bool]
METRICS = ("mIoU", "mIoU_small")
HEADS = (
    *("method", "setting", "tokens", "speedup", *METRICS),
    *(f"{metric}_{end}" for metric in METRICS for end in ("difference", "low", "high")),
)
RATES = (0.02, 0.05, 0.09, 0.14)
"""Of each layer's tokens: 78, 54, 32 and 16% are left after 12 layers."""
KEEPS = ((0.75, 0.6), (0.5, 0.33), (0.4, 0.22))
WORST = 8.0
"""mIoU below no merging at which a point is no longer drawn: it would squeeze the others."""
TAUS = (0.98, 0.95, 0.9, 0.8, 0.6)


def settings(tau: float, depth: int, gbm: int) -> dict[tuple[str, str], Setting]:
    """The reducers of each method and strength, and whether merged tokens weigh by their size."""
    layers = list(range(1, depth + 1))
    found: dict[tuple[str, str], Setting] = {("none", ""): ([], False)}

    def algm(threshold: float) -> list[dict[str, Any]]:
        return [
            dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=threshold),
            dict(type="mmtokmerge.GlobalBipartiteMerging", layer=gbm, threshold=threshold),
        ]

    found["ALGM", f"tau {tau:.4f}, calibrated"] = (algm(tau), False)
    found["ALGM", f"tau {tau:.4f}, calibrated, proportional"] = (algm(tau), True)
    for threshold in TAUS:
        found["ALGM", f"tau {threshold}"] = (algm(threshold), False)
    for local, other in KEEPS:
        reducers = [
            dict(type="mmtokmerge.LocalMergingByRate", layer=1, keep=local),
            dict(type="mmtokmerge.GlobalMergingByRate", layer=gbm, keep=other),
        ]
        found["local, then global", f"{local:.0%}, {other:.0%}"] = (reducers, True)
    for rate in RATES:
        tome = dict(type="mmtokmerge.ToMe", layer=layers, rate=rate)
        found["ToMe", f"{rate:.0%} a layer"] = ([tome], True)
        energy = [
            dict(type="mmtokmerge.PiToMe", layer=n, rate=rate, margin=0.9 - 0.9 * n / depth)
            for n in layers
        ]
        found["PiToMe", f"{rate:.0%} a layer"] = (energy, True)
    for keep in (0.9, 0.8, 0.7, 0.5):
        cut = dict(type="mmtokmerge.EViT", layer=[depth // 3, 7 * depth // 12, 10 * depth // 12])
        found["EViT", f"{keep:.0%} in 4, 7, 10"] = ([dict(cut, keep=keep)], False)
    for keep in (0.6, 0.4, 0.25):
        for layer in (1, depth // 3):
            clusters = dict(type="mmtokmerge.TokenClustering", layer=layer, keep=keep)
            found["ELViT", f"{keep:.0%} in layer {layer}"] = ([clusters], False)
        for layer in (2, depth // 3):
            peaks = dict(type="mmtokmerge.DensityPeaks", layer=layer, keep=keep)
            found["after AiluRus", f"{keep:.0%} in layer {layer}"] = ([peaks], False)
        tiles = dict(type="mmtokmerge.FacilityLocation", layer=depth // 3, keep=keep)
        found["after ToMA", f"{keep:.0%} in layer {depth // 3}"] = ([tiles], False)
        for operation in ("max", "mean"):
            grid = dict(type="mmtokmerge.GridMerging", layer=1, keep=keep, operation=operation)
            found["after CubistMerge", f"{keep:.0%} in layer 1, {operation}"] = ([grid], False)
    for after in ([1, depth // 3], [depth // 3], [1, 3, 5, 7]):
        pairs = dict(type="mmtokmerge.MutualPairMerging", layer=after, position="after")
        found["MPM", f"after {', '.join(map(str, after))}"] = ([pairs], False)
    return found


@contextmanager
def merging(backbone: Any, setting: Setting) -> Iterator[None]:
    """While open, the backbone merges so."""
    before = backbone.reducers, backbone.proportional
    depth, grid = len(backbone.layers), backbone.positions.grid
    backbone.reducers = build_reducers(setting[0], depth, grid).eval()
    backbone.proportional = setting[1] and bool(setting[0])
    try:
        yield
    finally:
        backbone.reducers, backbone.proportional = before


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="of a plain ViT with ALGM")
    parser.add_argument("checkpoint", help="with thresholds")
    parser.add_argument("--shape", type=int, nargs=2, required=True)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    parser.add_argument("--scenes", type=int, help="generated streets instead of the test set")
    parser.add_argument("--runs", type=int, default=7, help="images that are timed (default: 7)")
    parser.add_argument(
        "--retime", action="store_true", help="time all settings again, in turn in one run"
    )
    parser.add_argument("--only", nargs="+", default=[], help="methods to measure (default: all)")
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(cfg_options=None)
    args = parser.parse_args()
    cfg = read_config(args)
    model = load_model(cfg, args.checkpoint, args.device, backbone=VisionTransformer).model.eval()
    backbone: Any = model.backbone
    clap, gbm = backbone.reducers
    ways = settings(float(clap.threshold), len(backbone.layers), gbm.layers[0])
    ways = {key: way for key, way in ways.items() if not args.only or key[0] in args.only}
    ways.setdefault(("none", ""), ([], False))
    if args.scenes is None:
        resize_test(cfg, tuple(args.shape))
    else:
        draw_scenes(cfg, args.scenes, tuple(args.shape))
    samples = Samples(cfg, "test")
    console = Console()
    path = args.out.with_suffix(".csv")
    rows = list(csv.DictReader(path.open())) if path.is_file() else []
    done = {(row["method"], row["setting"]) for row in rows}
    missing = [key for key in ways if key not in done]
    if args.retime and not missing:
        speed = time(model, samples, ways, args.runs, console)
        for row in rows:
            ratio = speed["none", ""] / speed[row["method"], row["setting"]]
            row["speedup"] = f"{ratio:.3f}"
        save(rows, args.out)
    elif missing:
        whole, _ = test(model, samples, cfg.test_evaluator, ways["none", ""], "none", console)
        speed = time(model, samples, ways, args.runs, console)
        for key in missing:
            name = " ".join(key)
            found, tokens = test(model, samples, cfg.test_evaluator, ways[key], name, console)
            row = dict(method=key[0], setting=key[1], tokens=f"{tokens:.3f}")
            row["speedup"] = f"{speed['none', ''] / speed[key]:.3f}"
            rows.append({**row, **compare(found, whole, key[0])})
            save(rows, args.out)
            console.print(f"{name}: {row['speedup']}, {figures(rows[-1])}")
    draw(rows, args.out.with_suffix(".png"))


@torch.no_grad()
def test(
    model: Any, samples: Samples, evaluator_cfg: Any, setting: Setting, name: str, console: Console
) -> tuple[dict[str, Ratios], float]:
    """What each image adds to the metrics, and the mean share of tokens left at the end."""
    evaluator = Evaluator(evaluator_cfg)
    evaluator.dataset_meta = samples.metainfo
    left = []
    with (
        merging(model.backbone, setting),
        progress_bar(console, name, len(samples)) as advance,
    ):
        for batch in samples:
            with trace(model.backbone) as merges:
                evaluator.process(model.test_step(batch), batch)
            end = merges.assignment
            sizes = None if end is None else end.sizes
            left.append(1.0 if sizes is None else float((sizes > 0).sum() / sizes.sum()))
            advance()
    with keeping_results(evaluator) as kept:
        evaluator.evaluate(len(samples))
    return kept, statistics.mean(left)


@torch.no_grad()
def time(
    model: Any,
    samples: Samples,
    ways: dict[tuple[str, str], Setting],
    runs: int,
    console: Console,
) -> dict[tuple[str, str], float]:
    """Median milliseconds of the whole network on an image, all ways in turn on each."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in ways}
    with progress_bar(console, "timing", runs) as advance:
        for number, batch in zip(range(runs), samples):
            data = model.data_preprocessor(batch, False)

            def step(setting: Setting, data: Any = data) -> Any:
                with merging(model.backbone, setting):
                    return model(**data, mode="predict")

            steps = {" ".join(key): (lambda way=way: step(way)) for key, way in ways.items()}
            if number == 0:
                interleave(steps, 1, wall_timer)  # warms up
            found = interleave(steps, 1, wall_timer)
            for key in ways:
                times[key] += found[" ".join(key)]
            advance()
    return {key: statistics.median(each) for key, each in times.items()}


def save(rows: list[dict[str, Any]], out: Path) -> None:
    """Write the CSV and a table."""
    text = csv_text(HEADS, [[row.get(head, "") for head in HEADS] for row in rows])
    write_bytes(out.with_suffix(".csv"), text.encode())
    table = [
        [
            row["method"],
            row["setting"],
            f"{float(row['tokens']):.0%}",
            f"{float(row['speedup']):.2f}",
            *(figure(row, metric) for metric in METRICS),
        ]
        for row in rows
    ]
    title = (
        "One set of weights, nothing retrained: without merging the metric, else what merging "
        "changes with its 95% interval (paired bootstrap over images); tokens at the end, of all "
        "patches; speed-up of the whole network over no merging"
    )
    heads = ["method", "setting", "tokens", "speed-up", *METRICS]
    write_bytes(out.with_suffix(".md"), f"{markdown_table(heads, table, title)}\n".encode())


def figure(row: dict[str, Any], metric: str) -> str:
    """A metric of a row: itself without merging, else its difference and interval."""
    ends = [row.get(f"{metric}_{end}", "") for end in ("difference", "low", "high")]
    if "" in ends:
        return f"{float(row[metric]):.2f}" if row.get(metric) else ""
    value, low, high = map(float, ends)
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """mIoU against speed-up, a line for each method, intervals as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    drawn, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    whole = next(float(row["mIoU"]) for row in rows if row["method"] == "none")
    shown = [row for row in rows if float(row["mIoU"]) > whole - WORST]
    left_out = sorted({row["method"] for row in rows if row not in shown})
    rows = shown
    axes.axhline(whole, color="0.6", linewidth=1, linestyle="--", label="without merging")
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != "none"):
        own = sorted((r for r in rows if r["method"] == method), key=lambda r: float(r["speedup"]))
        x = [float(row["speedup"]) for row in own]
        y = [float(row["mIoU"]) for row in own]
        low = [float(r["mIoU_difference"]) - float(r["mIoU_low"]) for r in own]
        high = [float(r["mIoU_high"]) - float(r["mIoU_difference"]) for r in own]
        axes.errorbar(x, y, [low, high], marker="o", capsize=3, linewidth=1, label=method)
    axes.set_xlabel("speed-up of the whole network over no merging")
    axes.set_ylabel("mIoU")
    out = f"; left out, as they lose more than {WORST}: some of {', '.join(left_out)}"
    axes.set_title(
        "One set of weights, nothing retrained, 95% intervals" + (out if left_out else ""),
        fontsize="small",
        wrap=True,
    )
    axes.legend(ncols=2, fontsize="small", loc="lower left")
    axes.grid(alpha=0.3)
    drawn.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(guard(main))
