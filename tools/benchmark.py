"""Time configs against mmseg's stock models, all in one interleaved run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

from mmtokmerge.benchmark.command import benchmark
from mmtokmerge.engine.cli import run_tool

EXAMPLES = """\
examples:
  python tools/benchmark.py configs/segformerpp/b0_cityscapes_{none,hq,fast,n2d}.py \\
      --part encoder --shape 1024 1024 --threads 2
  python tools/benchmark.py configs/segformerpp/b5_cityscapes_{hq,fast,n2d}.py \\
      --device cuda --dtype fp16 --shape table5 --batch-size auto --csv --plot table5.png
  python tools/benchmark.py configs/segformerpp/b0_ade20k_{none,hq}.py --train --batch-size 8
  python tools/benchmark.py configs/segformerpp/b0_cityscapes_none.py --part head

Two baselines are built from the first config and given its weights: 'stock' is mmseg's
MixVisionTransformer and SegformerHead, 'stock fused' the same with fused attention. Each round
times every model once, A B C A B C ..., and the speed-up is the ratio of images a second at the
medians. Peak memory is weights, optimizer state and what one step adds. GFLOPs are those of the
forward pass of one image with matching counted, 1 MAC = 2 FLOPs.
For inference the model and the images are converted to --dtype; training autocasts to it.
"""


def make_parser() -> argparse.ArgumentParser:
    """The command line of the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("configs", nargs="+", metavar="CONFIG", help="config files; baselines follow the first")
    add(
        "--shape",
        nargs="+",
        action="append",
        metavar=("H", "W"),
        help="image in pixels; may be repeated; 'table5' stands for Table V's five sizes\n"
        "(default: model.data_preprocessor.size of the first config)",
    )
    add(
        "--batch-size",
        default="1",
        metavar="N",
        help="images of a step, or 'auto': each model's best at each shape (default: 1)",
    )
    add("--dtype", default="fp32", help="fp32, fp16 or bf16 (default: fp32)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add(
        "--part",
        default="model",
        help="model, encoder, or head on its encoder's features (default: model)",
    )
    add("--train", action="store_true", help="time training steps on random labels")
    add("--compile", action="store_true", help="run through torch.compile")
    add(
        "--baselines",
        nargs="+",
        default=["stock", "fused"],
        metavar="NAME",
        help="stock, fused or none (default: stock fused; the head has only stock)",
    )
    add("--runs", type=int, default=20, help="interleaved rounds (default: 20)")
    add("--warmup", type=int, default=3, help="steps of each model before them (default: 3)")
    add("--threads", type=int, help="CPU threads (default: as torch chooses)")
    add(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override settings in every config",
    )
    add("--json", type=Path, metavar="F", help="write machine, versions, every sample")
    add(
        "--csv",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="F",
        help="write a table (without F: benchmarks/results/, named by machine and torch)",
    )
    add("--plot", type=Path, metavar="F", help="draw the speed-ups, a .png or .pdf")
    return parser


if __name__ == "__main__":
    sys.exit(run_tool(lambda: benchmark(make_parser().parse_args())))
