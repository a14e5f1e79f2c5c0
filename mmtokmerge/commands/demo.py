"""See token merging at work: generated streets, one network under every preset."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from mmtokmerge.errors import InputError

EXAMPLES = """\
examples:
  make demo             the whole of it in a checkout, after setting up .venv
  mmtokmerge demo       the same from an installed package; results in work_dirs/demo
  make demo TRAIN=1     first trains the network, some hours on two cores

The checkpoint that comes along is SegFormer-B0, trained without merging on generated streets by
  mmtokmerge train b0_streets_none
The demo tests those weights as they are: mmseg's own model, every preset, and half resolution.
"""
CHECKPOINT = Path(__file__).resolve().parents[1] / "assets" / "b0_streets.pth"
TRAINING = "b0_streets_none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add = parser.add_argument
    add("--work-dir", type=Path, default=Path("work_dirs/demo"), help="results (%(default)s)")
    add("--images", type=int, default=10, help="streets to draw and test (%(default)s)")
    add("--runs", type=int, default=5, help="timed rounds (%(default)s)")
    add("--checkpoint", type=Path, default=CHECKPOINT, help="weights (the ones that come along)")
    add("--train", action="store_true", help="train the network first (some hours on two cores)")


def run(args: argparse.Namespace) -> None:
    """Run the demo.

    Raises:
        InputError: A number is too small, or the checkpoint is missing.
    """
    if args.images < 1 or args.runs < 1:
        raise InputError(f"--images {args.images} and --runs {args.runs} must both be at least 1.")
    print(
        "Token merging on generated streets: draws pictures, tests and times SegFormer-B0 under\n"
        "every preset with the same weights. About two minutes on two idle cores.",
        flush=True,
    )
    if args.train:
        args.checkpoint = train(args.work_dir)
    from mmtokmerge.analysis.demo import run_demo
    from mmtokmerge.reporting.console import make_console

    run_demo(args.checkpoint, args.work_dir, args.images, args.runs, make_console())


def train(work_dir: Path) -> Path:
    """Train the demo's network in a process of its own; a run that was stopped goes on."""
    folder = work_dir / "train"
    words = ["train", TRAINING, "--work-dir", str(folder), "--resume"]
    done = subprocess.run([sys.executable, "-m", "mmtokmerge", *words], check=False)
    if done.returncode:
        raise InputError(f"The training stopped with status {done.returncode}: see {folder}.")
    return Path((folder / "last_checkpoint").read_text(encoding="utf-8").strip())
