"""Train a small SegFormer++ on generated streets and see token merging at work."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmtokmerge.datasets.demo_streets import StreetSet, make_demo_streets

EXPLANATION = """
It runs the same tools that you would, and prints each command:
  1. draw the streets (Cityscapes' folders and classes) into data/demo_streets
  2. train B0 with the HQ preset from scratch (resumes if an earlier demo was interrupted)
  3. test those weights as they are with none, hq, fast (as in the paper, and with proportional
     attention), n2d and downsample
  4. time all of them in one interleaved run against mmseg's own SegFormer, stock and fused
  5. draw predictions, differences and merged tokens
"""
PRESETS = ("none", "hq", "hq_proportional", "fast", "fast_proportional", "n2d", "downsample")
BASELINES = ("stock", "stock fused")
ROOT = Path(__file__).resolve().parent.parent
console = Console()


def parse_args() -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXPLANATION, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--work-dir", type=Path, default=Path("work_dirs/demo"), help="results (%(default)s)")
    add("--iters", type=int, default=None, help="training iterations (default: the config's)")
    add("--runs", type=int, default=7, help="timed runs of each model (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Run the demo."""
    args = parse_args()
    start = time.monotonic()
    make_demo_streets(ROOT / "data/demo_streets", StreetSet())
    checkpoint = train(args.work_dir, args.iters)
    scores = {preset: test(preset, checkpoint, args.work_dir) for preset in PRESETS}
    speeds = measure(args.work_dir, args.runs)
    console.print(summary(scores, speeds))
    console.print(f"Weights: {checkpoint}\nPictures:")
    for picture in sorted((args.work_dir / "pictures").rglob("*.png"))[:12]:
        console.print(f"  {picture}")
    console.print(f"Done in {(time.monotonic() - start) / 60:.1f} minutes.")


def run(tool: str, *arguments: str | Path) -> None:
    """Run a tool as a person would, and stop the demo if it fails."""
    words = [f"tools/{tool}", *map(str, arguments)]
    console.print(f"[bold]$ python {' '.join(words)}", highlight=False)
    finished = subprocess.run([sys.executable, *words], cwd=ROOT, check=False)
    if finished.returncode:
        sys.exit(f"error: the demo stops, since {words[0]} failed; its message stands above")


def config(preset: str) -> str:
    """The demo's config of a preset."""
    return f"configs/segformerpp/b0_demo_{preset}.py"


def train(work_dir: Path, iters: int | None) -> Path:
    """Train with HQ; return the last checkpoint."""
    folder = work_dir / "train_hq"
    options = ["--cfg-options", f"train_cfg.max_iters={iters}"] if iters else []
    run("train.py", config("hq"), "--work-dir", folder, "--resume", *options)
    return Path((folder / "last_checkpoint").read_text(encoding="utf-8").strip())


def test(preset: str, checkpoint: Path, work_dir: Path) -> dict[str, float]:
    """Test a preset with the trained weights; HQ's pictures are drawn beside it."""
    folder = work_dir / f"test_{preset}"
    pictures = []
    if preset == "hq":
        pictures = ["--show-dir", work_dir / "pictures", "--compare", config("none"), checkpoint]
    run("test.py", config(preset), checkpoint, "--work-dir", folder, *pictures)
    newest = max(folder.glob("*/*.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text(encoding="utf-8"))


def measure(work_dir: Path, runs: int) -> dict[str, Any]:
    """Time all presets and both baselines in one interleaved run at the demo's size."""
    settings = StreetSet()
    result = work_dir / "speed.json"
    run(
        "benchmark.py",
        *map(config, PRESETS),
        *("--shape", str(settings.height), str(settings.width)),
        *("--batch-size", "1", "--dtype", "fp32", "--device", "cpu"),
        *("--runs", str(runs), "--json", result),
    )
    return json.loads(result.read_text(encoding="utf-8"))


def summary(scores: dict[str, dict[str, float]], speeds: dict[str, Any]) -> Table:
    """Quality and speed of each preset, all with the same weights."""
    settings = StreetSet()
    table = Table(
        title=f"SegFormer-B0 trained with HQ, {settings.height}x{settings.width} images, fp32, CPU"
    )
    for column in ("preset", "mIoU", "mIoU_small"):
        table.add_column(column, justify="left" if column == "preset" else "right")
    for baseline in BASELINES:
        table.add_column(f"speed-up over\nmmseg's {baseline}", justify="right")
    found = {result["name"]: result["speedup"] for result in speeds["results"]}
    for preset, score in scores.items():
        speedup = found[Path(config(preset)).stem]
        quality = (f"{score[key]:.2f}" for key in ("mIoU", "mIoU_small"))
        table.add_row(preset, *quality, *(f"{speedup[baseline]:.2f}" for baseline in BASELINES))
    return table


if __name__ == "__main__":
    main()
