"""What each option of merging does to mIoU, without retraining, and whether the images can tell.

    python benchmarks/option_quality.py configs/segformerpp/b0_camvid_none.py CHECKPOINT \
        --shape 360 480 --shape 720 960 --out benchmarks/quality/options_b0_camvid

    python benchmarks/option_quality.py configs/segformerpp/b0_streets_none.py \
        mmtokmerge/assets/b0_streets.pth --scenes 60 --shape 1024 2048 --out /tmp/streets

Writes OUT.csv and OUT.md after each row; rows that stand there are not measured again, so delete
the files, or name others, for another checkpoint. Images are resized to the shape, predictions back
to the labels' size.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from rich.console import Console

from mmtokmerge.analysis.rates.model import load_mit
from mmtokmerge.analysis.rates.run import resize_test
from mmtokmerge.commands.main import guard
from mmtokmerge.engine.loading import read_config
from mmtokmerge.errors import InputError
from mmtokmerge.evaluation.intervals import Ratios, keeping_results, paired_difference
from mmtokmerge.measure.samples import Samples
from mmtokmerge.merging import PRESETS, read_merging
from mmtokmerge.models.overrides import merging_as
from mmtokmerge.reporting.console import progress_bar
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text, markdown_table

KV = dict(r_kv=0.9, kv_stride=4)
Q = dict(r_q=0.9, q_stride=4)
POOL = dict(q_mode="n2d", q_stride=2)
LOCAL, REUSE = dict(match="local"), dict(reuse=2)
BILINEAR, PROPORTIONAL = dict(unmerge="bilinear"), dict(proportional=True)
CENTRE = dict(destination="centre")


def stages(keys: Mapping[str, Any], queries: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Stages 1 and 2 alike, and stages 3 and 4."""
    return [dict(keys), dict(keys), dict(queries), dict(queries)]


PKV = {**KV, **PROPORTIONAL}
SETTINGS: dict[str, Any] = {
    **{name: name for name in PRESETS},
    "hq, proportional": stages({**PRESETS["hq"][0], **PROPORTIONAL}, PRESETS["hq"][2]),
    "fast, proportional": stages(PKV, Q),
    "fast, centre": stages({**KV, **CENTRE}, {**Q, **CENTRE}),
    "fast, local": stages({**KV, **LOCAL}, {**Q, **LOCAL}),
    "fast, reuse 2": stages({**KV, **REUSE}, {**Q, **REUSE}),
    "fast, proportional, local, reuse 2": stages(
        {**PKV, **LOCAL, **REUSE}, {**Q, **LOCAL, **REUSE}
    ),
    "fast, proportional, local, centre, reuse 2": stages(
        {**PKV, **LOCAL, **REUSE, **CENTRE}, {**Q, **LOCAL, **REUSE, **CENTRE}
    ),
    "fast, proportional, centre": stages({**PKV, **CENTRE}, {**Q, **CENTRE}),
    "fast, proportional, reuse 2": stages({**PKV, **REUSE}, {**Q, **REUSE}),
    "fast, proportional, centre, reuse 2": stages(
        {**PKV, **CENTRE, **REUSE}, {**Q, **CENTRE, **REUSE}
    ),
    "keys merged 0.9 in 1-2, proportional, queries alone": stages(PKV, {}),
    "keys merged 0.8 in 1-2, proportional, queries alone": stages({**PKV, "r_kv": 0.8}, {}),
    "keys merged 0.6 in 2x2 in 1-2, proportional, queries alone": stages(
        dict(r_kv=0.6, kv_stride=2, proportional=True), {}
    ),
    "keys merged 0.9 in 1-3, proportional, queries alone": [PKV, PKV, PKV, {}],
    "keys merged 0.9 in 1-4, proportional, queries alone": [PKV] * 4,
    "n2d, bilinear": [dict(POOL, **BILINEAR)] * 4,
    "pooled queries in 1-2, fast, proportional": stages({**PKV, **POOL}, Q),
    "pooled queries in 1-2, fast, proportional, centre": stages(
        {**PKV, **POOL, **CENTRE}, {**Q, **CENTRE}
    ),
    "pooled queries in 1-2, fast, proportional, centre, reuse 2": stages(
        {**PKV, **POOL, **CENTRE, **REUSE}, {**Q, **CENTRE, **REUSE}
    ),
    "pooled queries in 1, fast, proportional, centre": [
        {**PKV, **POOL, **CENTRE},
        {**PKV, **CENTRE},
        {**Q, **CENTRE},
        {**Q, **CENTRE},
    ],
    "pooled queries in 1-2, keys 0.9 and 0.8, proportional, fast queries": [
        {**PKV, **POOL},
        {**PKV, **POOL, "r_kv": 0.8},
        Q,
        Q,
    ],
    "pooled queries in 1-2, bilinear, fast, proportional": stages({**PKV, **POOL, **BILINEAR}, Q),
    "pooled queries in 1-2, bilinear, fast, proportional, local, reuse 2": stages(
        {**PKV, **POOL, **BILINEAR, **LOCAL, **REUSE}, {**Q, **LOCAL, **REUSE}
    ),
    "pooled queries, keys 0.9 in 1-2, proportional": stages({**PKV, **POOL}, POOL),
    "pooled queries, bilinear, keys 0.9 in 1-2, proportional": stages(
        {**PKV, **POOL, **BILINEAR}, {**POOL, **BILINEAR}
    ),
}
METRICS = ("mIoU", "mIoU_small")
SCENES_SEED = 2026
HEADS = (
    *("merging", "height", "width", *METRICS),
    *(f"{metric}_{end}" for metric in METRICS for end in ("difference", "low", "high")),
)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--shape", type=int, nargs=2, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    parser.add_argument("--only", nargs="+", default=[], help="settings to measure (default: all)")
    parser.add_argument(
        "--scenes",
        type=int,
        help="test on so many generated streets, drawn at each shape, instead of the config's "
        "images resized to it",
    )
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(cfg_options=None)
    args = parser.parse_args()
    for name in args.only:
        if name not in SETTINGS:
            raise InputError(f"--only {name!r} is unknown, allowed are {', '.join(SETTINGS)}.")
    path = args.out.with_suffix(".csv")
    rows = list(csv.DictReader(path.open())) if path.is_file() else []
    done = {(row["merging"], int(row["height"]), int(row["width"])) for row in rows}
    console = Console()
    for height, width in args.shape:
        cfg = read_config(args)
        model = load_mit(cfg, args.checkpoint, args.device)
        if args.scenes is None:
            resize_test(cfg, (height, width))
        else:
            draw_scenes(cfg, args.scenes, (height, width))
        samples = Samples(cfg, "test")
        names = [name for name in args.only or SETTINGS if (name, height, width) not in done]
        if not names:
            continue
        unmerged = test(model, samples, cfg.test_evaluator, "none", console)
        for name in names:
            found = unmerged
            if name != "none":
                found = test(model, samples, cfg.test_evaluator, name, console)
            rows.append({"merging": name, "height": height, "width": width})
            rows[-1].update(compare(found, unmerged, name))
            save(rows, args.out)
            console.print(f"{name}, {height} x {width}: {figures(rows[-1])}")


def draw_scenes(cfg: Any, number: int, shape: tuple[int, int]) -> None:
    """Test on generated streets that neither training nor another test draws."""
    cfg.test_dataloader.dataset = dict(
        type="mmtokmerge.EndlessStreets",
        num_scenes=number,
        sizes=[shape],
        seed=SCENES_SEED,
        pipeline=[dict(type="PackSegInputs")],
    )


@torch.no_grad()
def test(
    model: Any, samples: Samples, evaluator_cfg: Any, name: str, console: Console
) -> dict[str, Ratios]:
    """What each image adds to the metrics of one setting."""
    evaluator = Evaluator(evaluator_cfg)
    evaluator.dataset_meta = samples.metainfo
    merging = read_merging(SETTINGS[name])
    with merging_as(model.backbone, merging), progress_bar(console, name, len(samples)) as advance:
        for batch in samples:
            evaluator.process(model.test_step(batch), batch)
            advance()
    with keeping_results(evaluator) as kept:
        evaluator.evaluate(len(samples))
    return kept


def compare(
    found: Mapping[str, Ratios], unmerged: Mapping[str, Ratios], name: str
) -> dict[str, float]:
    """A row's metrics, and how they differ from those without merging."""
    row: dict[str, float] = {}
    for metric, ratios in found.items():
        row[metric] = round(float(ratios.value()), 2)
        if name == "none":
            continue
        between = paired_difference(metric, ratios, unmerged[metric])
        for end, value in (
            ("difference", between.value),
            ("low", between.low),
            ("high", between.high),
        ):
            row[f"{metric}_{end}"] = round(value, 3)
    return row


def save(rows: list[dict[str, Any]], out: Path) -> None:
    """Write the CSV, and a table of settings by sizes with mIoU / mIoU of small classes."""
    text = csv_text(HEADS, [[row.get(head, "") for head in HEADS] for row in rows])
    write_bytes(out.with_suffix(".csv"), text.encode())
    sizes = list(dict.fromkeys(f"{row['height']} x {row['width']}" for row in rows))
    cells = {
        (row["merging"], f"{row['height']} x {row['width']}", metric): figure(row, metric)
        for row in rows
        for metric in METRICS
    }
    names = dict.fromkeys(row["merging"] for row in rows)
    columns = [(size, metric) for size in sizes for metric in METRICS]
    columns = [each for each in columns if any(cells.get((name, *each)) for name in names)]
    table = [[name, *(cells.get((name, *each), "") for each in columns)] for name in names]
    title = (
        "Nothing retrained: without merging the metric, else what merging changes with its 95% "
        "interval (paired bootstrap over images)"
    )
    heads = ["merging", *(f"{metric}, {size}" for size, metric in columns)]
    write_bytes(out.with_suffix(".md"), f"{markdown_table(heads, table, title)}\n".encode())


def figure(row: Mapping[str, Any], metric: str) -> str:
    """One metric of a row: itself, or its difference and interval."""
    if row.get(metric, "") == "":
        return ""
    ends = [row.get(f"{metric}_{end}", "") for end in ("difference", "low", "high")]
    if "" in ends:
        return f"{float(row[metric]):.2f}"
    value, low, high = map(float, ends)
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def figures(row: Mapping[str, Any]) -> str:
    """Both metrics of a row, the second where the config's evaluator gives it."""
    return " / ".join(filter(None, (figure(row, metric) for metric in METRICS)))


if __name__ == "__main__":
    sys.exit(guard(main))
