"""Train a small SegFormer++ on generated streets and see token merging at work."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TimeElapsedColumn,
    track,
)
from rich.table import Table

EXAMPLES = """\
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
STEP = re.compile(r"Iter\((?:train|test)\) *\[ *(\d+)/(\d+)\]")
ROOT = Path(__file__).resolve().parents[2]
console = Console()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add = parser.add_argument
    add("--work-dir", type=Path, default=Path("work_dirs/demo"), help="results (%(default)s)")
    add("--iters", type=int, default=None, help="training iterations (default: the config's)")
    add("--runs", type=int, default=7, help="timed runs of each model (%(default)s)")


def run(args: argparse.Namespace) -> None:
    """Run the demo."""
    from mmtokmerge.datasets.demo_streets import StreetSet, make_demo_streets

    args.work_dir = ROOT / args.work_dir
    start = time.monotonic()
    make_demo_streets(ROOT / "data/demo_streets", StreetSet(), lambda jobs: track(jobs, "streets"))
    checkpoint = train(args.work_dir, args.iters)
    scores = {preset: test(preset, checkpoint, args.work_dir) for preset in PRESETS}
    speeds = measure(args.work_dir, args.runs)
    pictures = draw(checkpoint, args.work_dir)
    console.print(summary(scores, speeds))
    console.print(f"Weights: {checkpoint}", highlight=False, soft_wrap=True)
    for picture in pictures:
        console.print(f"Picture: {picture}", highlight=False, soft_wrap=True)
    console.print(f"Done in {(time.monotonic() - start) / 60:.1f} minutes.")


def run_tool(tool: str, *arguments: str | Path, log: Path) -> None:
    """Run a tool as a person would; its output goes to ``log``, its steps to a progress bar.

    Stops the demo if the tool fails, and shows the end of its output.
    """
    words = [f"tools/{tool}", *map(str, arguments)]
    console.print(f"[bold]$ python {' '.join(words)}", highlight=False, soft_wrap=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=15)
    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        log.open("w", encoding="utf-8") as file,
        Progress(*columns, console=console, transient=True) as progress,
        subprocess.Popen(
            [sys.executable, "-u", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        bar = progress.add_task("", total=None)
        for line in process.stdout or ():
            file.write(line)
            last.append(line)
            if step := STEP.search(line):
                progress.update(bar, completed=int(step[1]), total=int(step[2]))
    if process.returncode:
        sys.exit(f"{''.join(last)}error: {words[0]} failed, and the demo stops; all of it: {log}")


def config(preset: str) -> str:
    """The demo's config of a preset."""
    return f"configs/segformerpp/b0_demo_{preset}.py"


def train(work_dir: Path, iters: int | None) -> Path:
    """Train with HQ; return the last checkpoint."""
    folder = work_dir / "train_hq"
    options = ["--cfg-options", f"train_cfg.max_iters={iters}"] if iters else []
    words = (config("hq"), "--work-dir", folder, "--resume", *options)
    run_tool("train.py", *words, log=work_dir / "train_hq.log")
    return Path((folder / "last_checkpoint").read_text(encoding="utf-8").strip())


def test(preset: str, checkpoint: Path, work_dir: Path) -> dict[str, float]:
    """Test a preset with the trained weights."""
    folder = work_dir / f"test_{preset}"
    words = (config(preset), checkpoint, "--work-dir", folder)
    run_tool("test.py", *words, log=work_dir / f"test_{preset}.log")
    newest = max(folder.glob("*/*.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text(encoding="utf-8"))


def measure(work_dir: Path, runs: int) -> dict[str, Any]:
    """Time all presets and both baselines in one interleaved run at the demo's size."""
    from mmtokmerge.datasets.demo_streets import StreetSet

    settings = StreetSet()
    result = work_dir / "speed.json"
    run_tool(
        "benchmark.py",
        *map(config, PRESETS),
        *("--shape", str(settings.height), str(settings.width)),
        *("--batch-size", "1", "--dtype", "fp32", "--device", "cpu"),
        *("--runs", str(runs), "--json", result),
        log=work_dir / "benchmark.log",
    )
    return json.loads(result.read_text(encoding="utf-8"))


def draw(checkpoint: Path, work_dir: Path) -> list[Path]:
    """Draw what HQ and fast merge in a street, and what they change in the prediction."""
    image = min((ROOT / "data/demo_streets/leftImg8bit/val").rglob("*.png"))
    pictures = []
    for preset in ("hq", "fast"):
        pictures.append(work_dir / "pictures" / f"{preset}.png")
        words = (config(preset), checkpoint, image, "--out", pictures[-1])
        run_tool("visualize_tokens.py", *words, log=work_dir / f"draw_{preset}.log")
    return pictures


def summary(scores: dict[str, dict[str, float]], speeds: dict[str, Any]) -> Table:
    """Quality and speed of each preset, all with the same weights."""
    from mmtokmerge.datasets.demo_streets import StreetSet

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
