"""Options that several verbs share, each written once; light, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

WEIGHTS_HELP = "its weights: a file, or a URL"


class CfgOptions(argparse.Action):
    """Reads ``KEY=VALUE`` as mmengine's ``DictAction`` does, importing it only when it is used."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        from mmengine.config import DictAction

        for word in values or ():
            if "=" not in str(word):
                parser.error(
                    f"--cfg-options {word}: write KEY=VALUE, such as train_cfg.max_iters=5"
                )
        read = DictAction(self.option_strings, self.dest, nargs="+")
        try:
            read(parser, namespace, values, option_string)
        except (AssertionError, RecursionError, SyntaxError, ValueError) as error:
            shown = " ".join(map(str, values or ()))
            reason = (
                "a value holds numbers, words and lists of them; a dict is set key by key, such as "
                "KEY.type=NAME, or in a config that inherits"
                if isinstance(error, RecursionError)
                else error
            )
            parser.error(f"--cfg-options {shown}: the value cannot be read ({reason})")


def add_cfg_options(parser: argparse.ArgumentParser, whose: str = "the config") -> None:
    """``--cfg-options KEY=VALUE ...``."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
        metavar="KEY=VALUE",
        help=f"override settings of {whose}: dotted keys, lists as 'key=[a,b]' without spaces,\n"
        "e.g. train_cfg.max_iters=500 model.backbone.merging=fast",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device cpu|cuda``."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")


def add_images(parser: argparse.ArgumentParser, split: str = "") -> None:
    """``--num-images N`` and ``--seed S``: which images of a data set are taken."""
    parser.add_argument(
        "--num-images",
        type=int,
        metavar="N",
        help=f"{split + ' ' if split else ''}images drawn at random (default: all)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed for drawing the images (default: 0)"
    )


def add_model(parser: argparse.ArgumentParser, config: str) -> None:
    """The positional CONFIG, described by ``config``, and CHECKPOINT."""
    parser.add_argument("config", help=config)
    parser.add_argument("checkpoint", help=WEIGHTS_HELP)


def add_timing(parser: argparse.ArgumentParser) -> None:
    """``--shape H W`` and ``--repeats N``: how the images are timed, apart from the mIoU."""
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="resize images to this for speed, GFLOPs and tokens (default: as the test has them);\n"
        "the mIoU is that of the config's test in any case",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=1,
        metavar="N",
        help="times each image is timed, the median counts (default: %(default)s)",
    )


def add_trained_vit(parser: argparse.ArgumentParser) -> None:
    """What each analysis of a trained plain ViT takes."""
    add_model(parser, "config of a segmentation model with mmtokmerge.VisionTransformer")
    add_images(parser)
    add_device(parser)
    add_cfg_options(parser)


def add_runner(parser: argparse.ArgumentParser) -> None:
    """What ``train`` and ``test`` share: a config and how its run is started."""
    parser.add_argument("config", help="config file, or its name alone, such as b0_camvid_hq")
    parser.add_argument(
        "--work-dir", help="folder for logs and results (default: work_dirs/<name of the config>)"
    )
    add_cfg_options(parser)
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch", "slurm"),
        default="none",
        help="how several processes were started: pytorch under torchrun (see dist_*.sh),\n"
        "slurm under srun (see slurm_*.sh)",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
