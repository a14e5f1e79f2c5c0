"""Test a model's weights on a config's test set."""

from __future__ import annotations

import sys

from mmtokmerge.engine.cli import make_parser, run_tool
from mmtokmerge.engine.launch import build_runner, prepare
from mmtokmerge.engine.testing import (
    augment_test,
    compare_pictures,
    save_pictures,
    save_predictions,
    use_checkpoint,
)
from mmtokmerge.errors import InputError

EXAMPLES = """\
examples:
  python tools/test.py configs/segformerpp/b0_camvid_hq.py work_dirs/b0_camvid_hq/iter_3000.pth
  python tools/test.py CONFIG CHECKPOINT --out predictions/     label maps as PNG
  python tools/test.py CONFIG CHECKPOINT --out predictions.pkl  all that the model returned
  python tools/test.py CONFIG CHECKPOINT --show-dir pictures/ --tta
  python tools/test.py CONFIG CHECKPOINT --show-dir pictures/ --compare NONE_CONFIG CHECKPOINT
  bash tools/dist_test.sh CONFIG CHECKPOINT 4

The weights may come from another preset of the same model (train 'none', test 'fast').
Weights that do not fit the model are an error. MMTOKMERGE_TRACEBACK=1 shows where it came from.
"""


def main() -> None:
    """Parse the command line and test."""
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument("checkpoint", help="weights to test: a file, or a URL")
    parser.add_argument(
        "--out",
        nargs="?",
        const="",
        metavar="PATH",
        help="save the predictions: label maps (PNG) in a folder, or all that the model returned\n"
        "in a file *.pkl (without PATH: predictions in the work-dir)",
    )
    parser.add_argument(
        "--show-dir", help="draw the predictions and the merged tokens into this folder"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("CONFIG", "CHECKPOINT"),
        help="with --show-dir, also draw where a second model predicts something else, such as\n"
        "the config without merging and the same weights",
    )
    parser.add_argument(
        "--tta", action="store_true", help="average over the config's scales and flips"
    )
    args = parser.parse_args()
    cfg = prepare(args)
    use_checkpoint(cfg, args.checkpoint)
    if args.out is not None:
        save_predictions(cfg, args.out)
    if args.show_dir is not None:
        save_pictures(cfg, args.show_dir)
    if args.compare is not None:
        if args.show_dir is None:
            raise InputError("--compare draws pictures: it needs --show-dir FOLDER.")
        compare_pictures(cfg, *args.compare)
    if args.tta:
        augment_test(cfg)
    build_runner(cfg).test()


if __name__ == "__main__":
    sys.exit(run_tool(main))
