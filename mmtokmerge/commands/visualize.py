"""Draw what merging does to one image: tokens by stage or reducer, predictions, differences."""

from __future__ import annotations

import argparse

from mmtokmerge.commands.options import add_cfg_options, add_device, add_model

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_model(parser, "config of a segmentation model that merges tokens")
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
        choices=("first", "last"),
        help="block of each stage to draw (default: first); a plain ViT has no stages",
    )
    add_device(parser)
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Draw and save."""
    from mmtokmerge.analysis.overview import overview_figure
    from mmtokmerge.engine.launch import load_config
    from mmtokmerge.engine.loading import check_device
    from mmtokmerge.models.weights.safe_load import load_weights_safely
    from mmtokmerge.visualization.pictures import write_picture

    check_device(args.device)
    load_weights_safely()
    cfg = load_config(args.config, args.cfg_options)
    figure = overview_figure(cfg, args.checkpoint, args.image, args.stage, args.block, args.device)
    write_picture(args.out, figure)
    print(f"Wrote {args.out}")
