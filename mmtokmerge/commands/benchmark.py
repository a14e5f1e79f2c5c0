"""Time configs against mmseg's stock models, all in one interleaved run."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmtokmerge.commands.options import add_cfg_options, add_device

VALIDATION_SET = ""
"""What ``--images`` without a folder stands for."""
EXAMPLES = """\
examples:
  python tools/benchmark.py configs/segformerpp/b0_cityscapes_{none,hq,fast,n2d}.py \\
      --part encoder --shape 1024 1024 --threads 2
  python tools/benchmark.py configs/segformerpp/b5_cityscapes_{hq,fast,n2d}.py \\
      --device cuda --dtype fp16 --shape table5 --batch-size auto --csv --plot table5.png
  python tools/benchmark.py configs/segformerpp/b0_ade20k_{none,hq}.py --train --batch-size 8
  python tools/benchmark.py configs/segformerpp/b0_cityscapes_none.py --part head
  python tools/benchmark.py configs/segformerpp/b2_cityscapes_{none,hq,fast}.py \\
      --part encoder --shape 1024 1024 --threads 2 --peers huggingface tomesd --limit
  python tools/benchmark.py configs/algm/segmenter_vit-s_ade20k_{none,algm}.py \\
      --checkpoint calibrated.pth --images --repeat 32 --device cuda
  python tools/benchmark.py configs/algm/segmenter_vit-s_ade20k_{none,algm}.py \\
      --part encoder --kept 0.5 0.333 --threads 2

  python tools/benchmark.py configs/segformerpp/b0_cityscapes_{none,fast,plus}.py --threads 2 \\
      --shape 1024 1024 --baselines fused --runtime torch onnxruntime openvino

  python tools/benchmark.py my_config.py my_faster_config.py     any two configs of mmseg or mmpose

Two baselines are built from the first config and given its weights: 'stock' is mmseg's
MixVisionTransformer or VisionTransformer and its heads, 'stock fused' the same with fused
attention. --peers adds encoders by others with the same weights: Hugging Face's, and mmseg's with
fused attention around which the package tomesd merges as each config does by rate (tomesd), or with
mmseg's own attention, as Segformer++'s authors run it (tomesd-stock). Each round times
every model once, A B C A B C ..., and the speed-up is the ratio of images a second at the medians.
Peak memory is weights, optimizer state and what one step adds. GFLOPs are those of the forward pass
of one image with matching counted, 1 MAC = 2 FLOPs.

--limit prints what merging could win at most over our own unmerged encoder, which must be among the
configs: by operations, matching counted; and by time shares, if projections and attention shrank
with their operations, matching were free and all else took as long as in the unmerged encoder.

Where thresholds decide what merges, the images count: --images takes each image by itself, resized
and cut to --shape, in a batch of --repeat copies, and means are over the images. --kept sets the
thresholds anew for each input so that these fractions of the patches remain.

For inference the model and the images are converted to --dtype; training autocasts to it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
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
    add("--dtype", default="fp32", help="fp32, fp16, bf16 or, exported, int8 (default: fp32)")
    add_device(parser)
    add(
        "--part",
        default="model",
        help="model, encoder, or head on its encoder's features (default: model)",
    )
    add("--train", action="store_true", help="time training steps on random labels")
    add("--compile", action="store_true", help="run through torch.compile")
    add(
        "--runtime",
        nargs="+",
        default=["torch"],
        metavar="NAME",
        help="torch, compile, onnxruntime, openvino: every model in each of them, in one run,\n"
        "over the baselines in each (default: torch)",
    )
    add("--cuda-graph", action="store_true", help="capture inference once and replay it (GPU)")
    add(
        "--baselines",
        nargs="+",
        metavar="NAME",
        help="stock, fused, first (the first config itself) or none (default: stock fused, or\n"
        "first where its model has no stock counterpart; the head has only stock)",
    )
    add(
        "--peers",
        nargs="+",
        default=[],
        metavar="NAME",
        help="huggingface, tomesd, tomesd-stock: MiT encoders by others (default: none)",
    )
    add("--limit", action="store_true", help="print how near merging comes to what it could win")
    add(
        "--images",
        nargs="?",
        const=VALIDATION_SET,
        metavar="DIR",
        help="time real images, of a folder or (without DIR) of the first config's validation set",
    )
    add("--num-images", type=int, metavar="N", help="images drawn at random (default: all)")
    add("--repeat", type=int, metavar="N", help="copies of each image in a batch (default: 1)")
    add("--checkpoint", metavar="F", help="weights of the first config's model (default: random)")
    add(
        "--kept",
        nargs="+",
        type=float,
        default=[],
        metavar="FRACTION",
        help="patches that remain after each reducer with a threshold, e.g. 0.5 0.333",
    )
    add("--runs", type=int, default=20, help="interleaved rounds (default: 20)")
    add("--warmup", type=int, default=3, help="steps of each model before them (default: 3)")
    add("--threads", type=int, help="CPU threads (default: as torch chooses)")
    add_cfg_options(parser, "every config")
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


def run(args: argparse.Namespace) -> None:
    """Time, print and save."""
    from mmtokmerge.benchmark.session import benchmark

    benchmark(args)
