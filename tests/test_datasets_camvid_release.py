"""The converter of CamVid's 32-class colour release."""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmtokmerge.commands.main import main
from mmtokmerge.datasets.camvid import CLASSES
from mmtokmerge.datasets.camvid_colours import COLOURS, read_colour_label, segnet_split
from mmtokmerge.errors import InputError
from mmtokmerge.registry import DATASETS

REPO = Path(__file__).parents[1]
TOOL = REPO / "tools/dataset_converters/camvid.py"
FRAMES = {"0001TP_006690": "train", "0016E5_07959": "val", "Seq05VD_f00000": "test"}
MEMBERS = [(i, colour) for i, m in enumerate(COLOURS.values()) for colour in m.values()]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Every colour of the release in stripes of 2x2 pixels, and void."""
    colours = np.array([colour for _, colour in MEMBERS] + [(0, 0, 0)], dtype=np.uint8)
    stripes = colours.repeat(2, axis=0)[None].repeat(24, axis=0)  # (24, 64, 3)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for stem in FRAMES:
        cv2.imwrite(str(tmp_path / f"images/{stem}.png"), stripes // 2 + 60)
        cv2.imwrite(str(tmp_path / f"labels/{stem}_L.png"), stripes[..., ::-1])
    return tmp_path


def run(release: Path, *options: str) -> str | None:
    """What the tool exits with: ``None``, or the sentence on standard error."""
    folders = [str(release / "images"), str(release / "labels"), "--out", str(release / "out")]
    with redirect_stderr(StringIO()) as errors:
        status = main(["data", "camvid", *folders, *options])
    return errors.getvalue().strip() if status else None


def test_help_teaches():
    result = subprocess.run([sys.executable, str(TOOL), "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert "LabeledApproved_full" in result.stdout and "example:" in result.stdout


def test_32_classes_in_11_groups():
    assert tuple(COLOURS) == CLASSES
    assert len({colour for _, colour in MEMBERS}) == 31


def test_labels_by_colour(release: Path):
    label = read_colour_label(release / "labels/0001TP_006690_L.png")
    assert label[0, ::2].tolist() == [i for i, _ in MEMBERS] + [255]


def test_split_is_segnets():
    assert {stem: segnet_split(stem) for stem in FRAMES} == FRAMES
    assert [segnet_split(f"0001TP_{n:06d}") for n in (8520, 8550)] == ["train", "test"]
    assert [segnet_split(f"0016E5_{n:05d}") for n in (7957, 8159, 8161)] == [
        "train",
        "val",
        "train",
    ]
    assert segnet_split("0006R0_f00930") == "train"
    with pytest.raises(InputError, match="'frame7' is no frame of CamVid"):
        segnet_split("frame7")


def test_converted_release_is_read_through_the_config(release: Path, monkeypatch):
    assert run(release, "--size", "32", "12") is None
    init_default_scope("mmseg")
    monkeypatch.setenv("MMTOKMERGE_CAMVID", str(release / "out"))
    config = Config.fromfile(REPO / "configs/_base_/datasets/camvid.py")
    dataset = DATASETS.build(config.val_dataloader.dataset)
    label = dataset[0]["data_samples"].gt_sem_seg.data.numpy()
    assert label.shape == (1, 12, 32)
    assert label[0, 0].tolist() == [i for i, _ in MEMBERS] + [255]
    assert (release / "out/images/test/Seq05VD_f00000.jpg").is_file()


def test_errors_are_one_sentence_and_leave_nothing(release: Path):
    bad = release / "labels/0016E5_07959_L.png"
    cv2.imwrite(str(bad), np.full((24, 64, 3), (3, 2, 1), dtype=np.uint8))
    assert run(release).startswith(f"error: label {bad} holds the colour (1, 2, 3) (RGB)")
    assert sorted(p.name for p in release.iterdir()) == ["images", "labels"]


def test_existing_folder_and_missing_photograph(release: Path):
    (release / "images/0001TP_006690.png").unlink()
    assert "cannot read image" in run(release)
    (release / "out").mkdir()
    assert "exists already" in run(release)
