"""Train a model that a config describes."""

from __future__ import annotations

import argparse

from mmtokmerge.commands.options import add_runner

EXAMPLES = """\
examples:
  python tools/train.py configs/segformerpp/b0_camvid_hq.py
  python tools/train.py configs/segformerpp/b0_camvid_hq.py --resume
  python tools/train.py configs/segformerpp/b0_camvid_hq.py --cfg-options train_cfg.max_iters=500
  bash tools/dist_train.sh configs/segformerpp/b5_cityscapes_hq.py 4 --amp

A run that was killed continues with --resume and, on a CPU, ends with the very weights of a run
that was not: every random draw follows from randomness.seed and the iteration's number.
Checkpoints load without running code. MMTOKMERGE_TRACEBACK=1 shows where an error came from.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_runner(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the newest checkpoint in the work-dir (from the start if it has none)",
    )
    parser.add_argument(
        "--amp",
        action="store_true",
        help="mixed precision: float16 with a loss scale on a GPU, bfloat16 on a CPU",
    )


def run(args: argparse.Namespace) -> None:
    """Train."""
    from mmtokmerge.engine.first_step import building, until_first_step
    from mmtokmerge.engine.launch import build_runner, prepare, prepare_training

    with building("The config's training"):
        cfg = prepare(args)
        prepare_training(cfg, resume=args.resume, amp=args.amp)
    runner = build_runner(cfg, ("train", "val"))
    with until_first_step(runner):
        runner.train()
