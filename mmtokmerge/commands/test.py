"""Test a model's weights on a config's test set."""

from __future__ import annotations

import argparse

from mmtokmerge.commands.options import add_runner
from mmtokmerge.errors import InputError

EXAMPLES = """\
examples:
  python tools/test.py configs/segformerpp/b0_camvid_hq.py work_dirs/b0_camvid_hq/iter_3000.pth
  python tools/test.py CONFIG CHECKPOINT --out predictions/     label maps as PNG
  python tools/test.py CONFIG CHECKPOINT --out predictions.pkl  all that the model returned
  python tools/test.py CONFIG CHECKPOINT --show-dir pictures/ --tta
  python tools/test.py CONFIG CHECKPOINT --compare NONE_CONFIG CHECKPOINT   with intervals
  python tools/test.py CONFIG CHECKPOINT --show-dir pictures/ --compare NONE_CONFIG CHECKPOINT
  bash tools/dist_test.sh CONFIG CHECKPOINT 4

The weights may come from another preset of the same model (train 'none', test 'fast').
Weights that do not fit the model are an error. MMTOKMERGE_TRACEBACK=1 shows where it came from.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_runner(parser)
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
        help="test a second model too, such as the config without merging and the same weights,\n"
        "and show how mIoU, mIoU_small, PCK and mean error differ, with 95%% intervals (paired\n"
        "bootstrap over images); with --show-dir also draw where it predicts something else",
    )
    parser.add_argument(
        "--tta", action="store_true", help="average over the config's scales and flips"
    )


def run(args: argparse.Namespace) -> None:
    """Test.

    Raises:
        InputError: If an argument, the config or the checkpoint is wrong.
    """
    from mmtokmerge.engine import test_options
    from mmtokmerge.engine.first_step import building, until_first_step
    from mmtokmerge.engine.launch import build_runner, check_checkpoint, prepare

    with building("The config's test"):
        cfg = prepare(args)
        test_options.use_checkpoint(cfg, args.checkpoint)
        if args.out is not None:
            test_options.save_predictions(cfg, args.out)
        if args.show_dir is not None:
            test_options.save_pictures(cfg, args.show_dir)
        if args.compare is not None and args.show_dir is not None:
            test_options.compare_pictures(cfg, *args.compare)
        if args.tta:
            if args.compare is not None:
                raise InputError(
                    "--tta does not go with --compare: the second model is tested plainly"
                )
            test_options.augment_test(cfg)
    if args.compare is not None:
        from mmtokmerge.engine.compare import test_and_compare

        check_checkpoint(args.compare[1])
        test_and_compare(cfg, *args.compare)
        return
    runner = build_runner(cfg, ("test",))
    with until_first_step(runner):
        runner.test()
    beyond = getattr(runner.model, "beyond", None)
    if beyond is not None and (told := beyond()) is not None:
        runner.logger.info(told)
