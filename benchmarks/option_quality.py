"""What each option of merging does to mIoU, without retraining: presets and options on one model.

    python benchmarks/option_quality.py configs/segformerpp/b0_camvid_none.py CHECKPOINT \
        --shape 360 480 --shape 720 960 --out benchmarks/quality/options_b0_camvid

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
from mmtokmerge.measure.samples import Samples
from mmtokmerge.merging import PRESETS, read_merging
from mmtokmerge.models.overrides import merging_as
from mmtokmerge.reporting.console import progress_bar
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import markdown_table

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
HEADS = ("merging", "height", "width", "mIoU", "mIoU_small")


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
        resize_test(cfg, (height, width))
        samples = Samples(cfg, "test")
        for name in args.only or SETTINGS:
            if (name, height, width) in done:
                continue
            found = test(model, samples, cfg.test_evaluator, name, console)
            small = found.get("mIoU_small", "")
            rows.append(dict(zip(HEADS, (name, height, width, found["mIoU"], small))))
            save(rows, args.out)
            console.print(f"{name}, {height} x {width}: {found['mIoU']} {small}")


@torch.no_grad()
def test(
    model: Any, samples: Samples, evaluator_cfg: Any, name: str, console: Console
) -> dict[str, float]:
    """All metrics of one setting."""
    evaluator = Evaluator(evaluator_cfg)
    evaluator.dataset_meta = samples.metainfo
    merging = read_merging(SETTINGS[name])
    with merging_as(model.backbone, merging), progress_bar(console, name, len(samples)) as advance:
        for batch in samples:
            evaluator.process(model.test_step(batch), batch)
            advance()
    return {key: round(float(value), 2) for key, value in evaluator.evaluate(len(samples)).items()}


def save(rows: list[dict[str, Any]], out: Path) -> None:
    """Write the CSV, and a table of settings by sizes with mIoU / mIoU of small classes."""
    lines = [",".join(HEADS)] + [
        ",".join(f'"{row[head]}"' if head == "merging" else str(row[head]) for head in HEADS)
        for row in rows
    ]
    write_bytes(out.with_suffix(".csv"), ("\n".join(lines) + "\n").encode())
    sizes = list(dict.fromkeys(f"{row['height']} x {row['width']}" for row in rows))
    cells = {
        (
            row["merging"],
            f"{row['height']} x {row['width']}",
        ): figures(row)
        for row in rows
    }
    names = dict.fromkeys(row["merging"] for row in rows)
    table = [[name, *(cells.get((name, size), "") for size in sizes)] for name in names]
    title = "mIoU / mIoU of small classes, nothing retrained"
    text = markdown_table(["merging", *sizes], table, title)
    write_bytes(out.with_suffix(".md"), f"{text}\n".encode())


def figures(row: Mapping[str, Any]) -> str:
    """Both metrics of a row, the second where the config's evaluator gives it."""
    return " / ".join(f"{float(row[key]):.2f}" for key in HEADS[3:] if row[key] != "")


if __name__ == "__main__":
    sys.exit(guard(main))
