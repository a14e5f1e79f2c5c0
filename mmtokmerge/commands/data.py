"""Draw or convert a data set that the configs read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmtokmerge.errors import InputError

EXAMPLES = """\
examples:
  python tools/dataset_converters/demo_streets.py
  python tools/dataset_converters/stick_figures.py --out data/stick_figures
  python tools/dataset_converters/camvid.py 701_StillsRaw_full LabeledApproved_full

demo_streets and stick_figures are drawn, without any download, and are what the configs b0_demo_*
and b0_stick_* read; camvid and jbd convert a release. A folder of another name is told to a config
by the environment variable that stands in its _base_/datasets.
"""
DEMO_STREETS = """\
Large regions (road, buildings, sky, trees) stand beside small poles, traffic lights, signs and
fences, so that mIoU_small means something. The same numbers give the same bytes; a set that stands
already with these numbers is kept, and one with other numbers is replaced once the new one is done.

example:
  python tools/dataset_converters/demo_streets.py
  python tools/train.py configs/segformerpp/b0_demo_hq.py
"""
STICK_FIGURES = """\
The pose configs run on it without any download. The same numbers give the same bytes; a set that
stands already with these numbers is kept, and one with other numbers is replaced once the new one
is done.

example:
  python tools/dataset_converters/stick_figures.py
  python tools/train.py configs/segformerpp/b0_stick_hq.py
"""
CAMVID = """\
The release is two archives: 701_StillsRaw_full (701 photographs of 960x720 pixels) and
LabeledApproved_full (a colour label *_L.png for each). This writes

  OUT/images/{train,val,test}/*.jpg
  OUT/annotations/{train,val,test}/*.png    ids 0 to 10, 255 for void

with the 32 classes grouped into the 11 of SegNet and SegNet's split of 367, 101 and 233 frames.
OUT appears when everything is converted, or not at all.

example:
  python tools/dataset_converters/camvid.py 701_StillsRaw_full LabeledApproved_full
  python tools/train.py configs/segformerpp/b0_camvid_hq.py

The SegNet release (train, trainannot, ...) needs no conversion: inherit
configs/_base_/datasets/camvid_segnet.py instead of camvid.py.
"""
JBD = """\
A table is a CSV file (commas, semicolons or tabs) with a header and a row for each image. Columns
are found by name, their order does not matter:

  head_x, head_y, ..., ltoe_y    pixels of the 20 keypoints
  head_s, ..., ltoe_s            optional (or _v, _vis, _visible): 0 where it is not visible
  file_name or image             optional: else --image-name builds it of other columns

A keypoint without a place, or at (0, 0), is not visible. Rows without any visible keypoint show no
athlete: they are left out and counted, and --list writes their names. A box is the extent of the
visible keypoints, with a margin, clipped to the image.

Writes OUT/<table>.json for each table. example:
  python tools/dataset_converters/jbd.py tables/train.csv tables/val.csv tables/test.csv \\
      --images data/jbd/images --image-name "{event}_{frame_num:05d}.jpg"
  python tools/train.py configs/segformerpp/b0_jbd_hq.py
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a command for each data set."""
    commands = parser.add_subparsers(dest="data_set", required=True, metavar="DATA_SET")
    for add, words, explanation in (
        (
            _add_demo_streets,
            "draw street scenes with labels, in Cityscapes' folders and classes",
            DEMO_STREETS,
        ),
        (
            _add_stick_figures,
            "draw jumping stick figures with 20 keypoints, as JBD has",
            STICK_FIGURES,
        ),
        (_add_camvid, "convert CamVid's 32-class colour release", CAMVID),
        (_add_jbd, "convert the Jumping Broadcast Dataset's tables to COCO keypoint files", JBD),
    ):
        add(_command(commands, add.__name__.removeprefix("_add_"), words, explanation))


def run(args: argparse.Namespace) -> None:
    """Draw or convert.

    Raises:
        InputError: An argument or a file is wrong, or something cannot be written.
    """
    actions: dict[str, Callable[[Any], None]] = dict(
        demo_streets=_draw_streets,
        stick_figures=_draw_figures,
        camvid=_convert_camvid,
        jbd=_convert_jbd,
    )
    actions[args.data_set](args)


def _command(commands: Any, name: str, words: str, explanation: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=words,
        description=words,
        epilog=explanation,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    return parser


def _add_demo_streets(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, default=Path("data/demo_streets"), help="the folder (%(default)s)")
    add("--train", type=int, default=120, help="number of training images (%(default)s)")
    add("--val", type=int, default=20, help="number of validation images (%(default)s)")
    add("--height", type=int, default=512, help="height of an image in pixels (%(default)s)")
    add("--width", type=int, default=1024, help="width of an image in pixels (%(default)s)")
    add("--seed", type=int, default=0, help="another seed gives other streets (%(default)s)")


def _add_stick_figures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, default=Path("data/stick_figures"), help="the folder (%(default)s)")
    add("--train", type=int, default=240, help="number of training images (%(default)s)")
    add("--val", type=int, default=40, help="number of validation images (%(default)s)")
    add("--height", type=int, default=256, help="height of an image in pixels (%(default)s)")
    add("--width", type=int, default=256, help="width of an image in pixels (%(default)s)")
    add("--seed", type=int, default=0, help="another seed gives other figures (%(default)s)")


def _add_camvid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, help="the folder 701_StillsRaw_full")
    parser.add_argument("labels", type=Path, help="the folder LabeledApproved_full")
    parser.add_argument(
        "--out", type=Path, default=Path("data/camvid"), help="the new folder (%(default)s)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(480, 360),
        metavar=("WIDTH", "HEIGHT"),
        help="size of what is written in pixels (480 360, as in SegNet; the release has 960 720)",
    )


def _add_jbd(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("tables", type=Path, nargs="+", help="CSV files, such as train.csv")
    add("--images", type=Path, default=Path("data/jbd/images"), help="their folder (%(default)s)")
    add("--out", type=Path, default=Path("data/jbd/annotations"), help="folder (%(default)s)")
    add("--image-name", metavar="TEMPLATE", help="a row's image, columns in braces")
    add(
        "--margin",
        type=float,
        default=0.1,
        help="margin of a box over its longer side (%(default)s)",
    )
    add("--skip-missing", action="store_true", help="leave out and count rows without image file")
    add("--list", type=Path, metavar="FILE", help="write the images that are left out here")


def _draw_streets(args: argparse.Namespace) -> None:
    from rich.progress import track

    from mmtokmerge.datasets.demo_streets import StreetSet, make_demo_streets

    settings = StreetSet(args.train, args.val, args.height, args.width, args.seed)
    drawn = make_demo_streets(args.out, settings, lambda jobs: track(jobs, "streets"))
    print(
        f"{args.train} + {args.val} street scenes {'drawn in' if drawn else 'kept in'} {args.out}"
    )


def _draw_figures(args: argparse.Namespace) -> None:
    from rich.progress import track

    from mmtokmerge.datasets.keypoints.stick_figures import FigureSet, make_stick_figures

    settings = FigureSet(args.train, args.val, args.height, args.width, args.seed)
    drawn = make_stick_figures(args.out, settings, lambda jobs: track(jobs, "figures"))
    print(f"{args.train} + {args.val} figures {'drawn in' if drawn else 'kept in'} {args.out}")


def _convert_camvid(args: argparse.Namespace) -> None:
    from rich.progress import track

    from mmtokmerge.datasets.camvid_colours import convert_frame
    from mmtokmerge.datasets.new_folder import new_folder

    size, out = tuple(args.size), args.out
    if min(size) < 1:
        raise InputError(f"--size is {size[0]} {size[1]}, but takes two positive numbers of pixels")
    if out.exists():
        raise InputError(f"{out} exists already: remove it or name another folder with --out")
    frames = sorted(args.labels.glob("*_L.png"))
    if not frames:
        raise InputError(f"no colour labels *_L.png found in {args.labels}")
    with new_folder(out) as scratch:
        for label in track(frames, description="CamVid"):
            image = args.images / f"{label.stem.removesuffix('_L')}.png"
            convert_frame(image, label, scratch, size)
    print(f"{len(frames)} frames written to {out}")


def _convert_jbd(args: argparse.Namespace) -> None:
    from mmtokmerge.datasets.keypoints.jbd_table import convert_table
    from mmtokmerge.reporting.files import write_text

    if args.margin < 0:
        raise InputError(f"--margin is {args.margin}, but must be at least 0")
    left_out: list[str] = []
    for table in args.tables:
        done = convert_table(table, args.images, args.image_name, args.margin, args.skip_missing)
        target = args.out / f"{table.stem}.json"
        done.file.write(target)
        missing = f", {len(done.without_image)} without image file" if args.skip_missing else ""
        print(
            f"{target}: {done.used} athletes in {len(done.file.images)} images; left out: "
            f"{len(done.without_athlete)} without a visible athlete{missing}"
        )
        left_out += done.without_athlete + done.without_image
    if args.list is not None:
        write_text(args.list, "".join(f"{name}\n" for name in left_out))
