"""Pascal-Context and COCO-Stuff-10K: ids as in mmseg, and one sentence on what is missing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmseg", reason="needs MMSegmentation")

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.datasets.transforms import LoadAnnotations

from mmtokmerge.errors import InputError
from mmtokmerge.registry import DATASETS

CONFIGS = Path(__file__).parents[1] / "configs"
SHAPE = (24, 32)
STEPS = [{"type": f"mmtokmerge.{name}"} for name in ("LoadImage", "LoadSegAnnotations")]
KINDS = {
    # base config: (images, labels, suffix of labels, largest id in a file, classes)
    "pascal_context": ("JPEGImages", "SegmentationClassContext", ".png", 59, 60),
    "pascal_context_59": ("JPEGImages", "SegmentationClassContext", ".png", 59, 59),
    "coco_stuff10k": ("images/train2014", "annotations/train2014", "_labelTrainIds.png", 171, 171),
}


@pytest.fixture(autouse=True)
def mmseg_scope() -> None:
    init_default_scope("mmseg")


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def make(root: Path, kind: str, largest: int | None = None) -> Path:
    """One image with a label that holds 0, 1, the largest id and 255, and its list."""
    images, labels, suffix, last, _ = KINDS[kind]
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[:, 8:16], label[:, 16:24], label[:, 24:] = 1, last if largest is None else largest, 255
    write(root / images / "a.jpg", np.full((*SHAPE, 3), 99, dtype=np.uint8))
    if kind.startswith("pascal"):
        (root / "ImageSets/SegmentationContext").mkdir(parents=True)
        (root / "ImageSets/SegmentationContext/train.txt").write_text("a\n")
    return write(root / labels / f"a{suffix}", label)


def training_set(kind: str, root: Path):
    """The training set of the base config, its files below ``root``, without augmentation."""
    cfg = Config.fromfile(CONFIGS / "_base_/datasets" / f"{kind}.py").train_dataloader.dataset
    return DATASETS.build({**cfg, "data_root": str(root), "pipeline": STEPS})


@pytest.mark.parametrize("kind", KINDS)
def test_labels_equal_mmsegs(kind: str, tmp_path: Path) -> None:
    path = make(tmp_path, kind)
    dataset = training_set(kind, tmp_path)
    assert len(dataset) == 1
    assert len(dataset.metainfo["classes"]) == len(dataset.metainfo["palette"]) == KINDS[kind][-1]
    zero_is_ignored = kind != "pascal_context"
    expected = LoadAnnotations().transform(
        {"seg_map_path": str(path), "reduce_zero_label": zero_is_ignored, "seg_fields": []}
    )["gt_seg_map"]
    found = dataset[0]["gt_seg_map"]
    assert np.array_equal(found, expected)
    classes = set(range(KINDS[kind][-1]))
    assert set(np.unique(found)) - {255} <= classes and KINDS[kind][-1] - 1 in found


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_beyond_the_classes_is_refused(kind: str, tmp_path: Path) -> None:
    last = KINDS[kind][-2]
    make(tmp_path, kind, largest=last + 1)
    with pytest.raises(InputError, match=f"classes: {last + 1}; allowed are 0 to {last}, and 255"):
        training_set(kind, tmp_path)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_label_says_what_makes_it(kind: str, tmp_path: Path) -> None:
    make(tmp_path, kind).unlink()
    tool = kind.removesuffix("_59")
    with pytest.raises(InputError, match=rf"label \S+ does not exist.*dataset_converters/{tool}"):
        training_set(kind, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_folder_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data_root \S*nowhere is not an existing folder"):
        training_set(kind, tmp_path / "nowhere")


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_that_nobody_reads_needs_no_files(kind: str, tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / "_base_/datasets" / f"{kind}.py").train_dataloader.dataset
    dataset = DATASETS.build({**cfg, "data_root": str(tmp_path / "nowhere"), "lazy_init": True})
    assert len(dataset.metainfo["classes"]) == KINDS[kind][-1]
