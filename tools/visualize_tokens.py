"""Draw what merging does to one image: tokens by stage or reducer, predictions, differences."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import mmcv
import torch
from mmengine.config import DictAction

from mmtokmerge.engine.cli import run_tool
from mmtokmerge.engine.launch import load_config
from mmtokmerge.engine.safe_load import install as load_weights_safely
from mmtokmerge.errors import InputError
from mmtokmerge.visualization.overview import overview_figure
from mmtokmerge.visualization.record import BLOCKS

EXAMPLES = """\
examples:
  python tools/visualize_tokens.py configs/segformerpp/b0_camvid_hq.py WEIGHTS.pth street.jpg
  python tools/visualize_tokens.py CONFIG CHECKPOINT IMAGE --out F.png --stage 3 4 --block last
  python tools/visualize_tokens.py configs/algm/segmenter_vit-t_camvid_algm.py WEIGHTS.pth a.png

Above: the image, the prediction without merging (same weights), the prediction with merged tokens,
and the pixels where the two differ. Below: each group of tokens in the mean colour of its pixels,
with lines between groups; queries and keys/values of a stage stand side by side. Of a plain ViT
(configs/algm) there is one picture for each reducer, in the order of running, and before a local
one the mean cosine of each window that it decides by.
"""


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", help="config of a segmentation model that merges tokens")
    parser.add_argument("checkpoint", help="its weights: a file, or a URL")
    parser.add_argument("image", help="an image file")
    parser.add_argument(
        "--out", default="tokens.png", help="picture to write (default: %(default)s)"
    )
    parser.add_argument(
        "--stage",
        type=int,
        nargs="+",
        choices=(1, 2, 3, 4),
        help="stages to draw (default: all that merge); a plain ViT has none",
    )
    parser.add_argument(
        "--block",
        choices=BLOCKS,
        help="block of each stage to draw (default: first); a plain ViT has no stages",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. model.backbone.merging=fast",
    )
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {args.device}: PyTorch finds no CUDA device here, take cpu.")
    load_weights_safely()
    cfg = load_config(args.config, args.cfg_options)
    figure = overview_figure(cfg, args.checkpoint, args.image, args.stage, args.block, args.device)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    if not mmcv.imwrite(mmcv.rgb2bgr(figure), args.out):
        raise InputError(f"--out {args.out}: the picture cannot be written there.")
    print(f"Wrote {args.out}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
