"""Another split of CamVid: one drive of the training images to test on, the others to train on.

    python benchmarks/camvid_holdout.py data/camvid holdout --drive 0006R0
    MMTOKMERGE_CAMVID=holdout python tools/train.py configs/segformerpp/b0_camvid_none.py

What was chosen on CamVid's own validation images is confirmed on these. Writes links, no copies.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmtokmerge.commands.main import guard
from mmtokmerge.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="CamVid, with images/train and annotations/train")
    parser.add_argument("out", type=Path, help="the new split's folder, which must not exist")
    parser.add_argument("--drive", default="0006R0", help="first part of the names to test on")
    args = parser.parse_args()
    images = sorted((args.data / "images" / "train").glob("*"))
    held = [image for image in images if image.name.startswith(f"{args.drive}_")]
    if not held or len(held) == len(images):
        drives = ", ".join(sorted({image.name.split("_")[0] for image in images})) or "none"
        raise InputError(
            f"--drive {args.drive} holds {len(held)} of {len(images)} images in "
            f"{args.data / 'images' / 'train'}: take one of its drives, {drives}"
        )
    if args.out.exists():
        raise InputError(f"{args.out} exists already: name another folder")
    labels = {i: args.data / "annotations" / "train" / f"{i.stem}.png" for i in images}
    for file in labels.values():
        if not file.is_file():
            raise InputError(f"{file} is missing: every image needs its labels")
    for image in images:
        split = "val" if image in held else "train"
        for kind, file in (("images", image), ("annotations", labels[image])):
            folder = args.out / kind / split
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file.name).symlink_to(file.resolve())
    print(f"{len(images) - len(held)} images to train on, {len(held)} to test on in {args.out}")


if __name__ == "__main__":
    sys.exit(guard(main))
