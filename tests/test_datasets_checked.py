"""Datasets and their loading transforms: what is read, and the sentence for what cannot be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.datasets.transforms import LoadAnnotations
from torch.utils.data import DataLoader

from mmtokmerge.errors import InputError
from mmtokmerge.registry import DATASETS, TRANSFORMS

HEIGHT, WIDTH = 24, 32
PIPELINE = [{"type": f"mmtokmerge.{name}"} for name in ("LoadImage", "LoadSegAnnotations")]
CITY = {"img_path": "leftImg8bit/val", "seg_map_path": "gtFine/val"}


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope("mmseg")


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def cut(path: Path, keep: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def ids(*values: int, seed: int = 0, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A label that holds exactly these ids."""
    label = np.random.default_rng(seed).choice(values, shape).astype(np.uint8)
    label.flat[: len(values)] = values
    return label


@pytest.fixture
def city(tmp_path: Path) -> Path:
    for name in ("a/a_1", "b/b_2", "b/b_3"):
        write(tmp_path / f"leftImg8bit/val/{name}_leftImg8bit.png", noise())
        write(tmp_path / f"gtFine/val/{name}_gtFine_labelTrainIds.png", ids(0, 5, 18, 255))
    return tmp_path


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    for name in ("f1", "f2"):
        write(tmp_path / f"images/val/{name}.jpg", noise())
        write(tmp_path / f"annotations/val/{name}.png", ids(0, 4, 10, 255))
    return tmp_path


def build(kind: str, root: Path, images: str, labels: str, **settings):
    return DATASETS.build(
        {
            "type": f"mmtokmerge.{kind}",
            "data_root": str(root),
            "data_prefix": {"img_path": images, "seg_map_path": labels},
            "pipeline": PIPELINE,
            **settings,
        }
    )


def build_city(root: Path, **settings):
    return build("CityscapesDataset", root, *CITY.values(), **settings)


def build_camvid(root: Path, **settings):
    return build("CamVidDataset", root, "images/val", "annotations/val", **settings)


def test_cityscapes_reads_images_and_labels(city: Path):
    dataset = build_city(city)
    sample = dataset[1]
    assert len(dataset) == 3
    assert sample["img"].shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(sample["gt_seg_map"], ids(0, 5, 18, 255))


def test_camvid_segnet_layout_reads_11_as_void(tmp_path: Path):
    write(tmp_path / "val/f1.png", noise())
    write(tmp_path / "valannot/f1.png", ids(0, 10, 11))
    dataset = build("CamVidDataset", tmp_path, "val", "valannot", img_suffix=".png")
    assert set(np.unique(dataset[0]["gt_seg_map"])) == {0, 10, 255}
    assert len(dataset.metainfo["classes"]) == len(dataset.metainfo["palette"]) == 11


def test_camvid_with_fewer_classes(camvid: Path):
    sky = build_camvid(camvid, metainfo={"classes": ("Bicyclist", "Sky")})[0]["gt_seg_map"]
    original = ids(0, 4, 10, 255)
    assert np.array_equal(sky == 0, original == 10)
    assert np.array_equal(sky == 1, original == 0)
    assert np.array_equal(sky == 255, (original == 4) | (original == 255))


def test_ade20k_label_equals_mmsegs(tmp_path: Path):
    write(tmp_path / "images/f.jpg", noise())
    path = write(tmp_path / "annotations/f.png", ids(0, 1, 77, 150, 255))
    ours = build("ADE20KDataset", tmp_path, "images", "annotations")[0]["gt_seg_map"]
    theirs = LoadAnnotations().transform(
        {"seg_map_path": str(path), "reduce_zero_label": True, "seg_fields": []}
    )["gt_seg_map"]
    assert np.array_equal(ours, theirs) and set(np.unique(ours)) == {0, 76, 149, 255}


def test_ann_file_chooses_images(city: Path):
    (city / "list.txt").write_text("b/b_2\n")
    assert len(build_city(city, ann_file="list.txt")) == 1
    (city / "list.txt").write_text("b/b_2\nb/gone\n")
    with pytest.raises(InputError, match=r"image \S*b/gone_leftImg8bit.png does not exist"):
        build_city(city, ann_file="list.txt")
    with pytest.raises(InputError, match=r"ann_file \S*none.txt does not exist"):
        build_city(city, ann_file="none.txt")


def test_missing_folders_are_named(city: Path):
    with pytest.raises(InputError, match=r"data_root \S*nowhere is not an existing folder"):
        build_city(city / "nowhere")
    (city / "gtFine").rename(city / "gtCoarse")
    with pytest.raises(InputError, match=r"seg_map_path \S*gtFine/val is not an existing folder"):
        build_city(city)


def test_no_images_names_the_suffix(camvid: Path):
    with pytest.raises(InputError, match=r"no images found in \S*images/val with suffix '.bmp'"):
        build_camvid(camvid, img_suffix=".bmp")


def test_missing_labels_are_counted_and_the_first_named(city: Path):
    for path in (city / "gtFine/val/b").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"label \S*b/b_2_gtFine\S* and 1 more .*csCreateTrainId"):
        build_city(city)


def test_missing_image_is_named(camvid: Path):
    (camvid / "images/val/f2.jpg").unlink()
    with pytest.raises(InputError, match=r"image \S*images/val/f2.jpg does not exist"):
        build_camvid(camvid)


def test_images_without_labels_are_fine_where_none_are_asked_for(camvid: Path):
    dataset = DATASETS.build(
        {
            "type": "mmtokmerge.CamVidDataset",
            "data_root": str(camvid),
            "data_prefix": {"img_path": "images/val"},
            "pipeline": PIPELINE,
        }
    )
    assert "gt_seg_map" not in dataset[0]


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.6, 0.99])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_cut_off_image_is_named(tmp_path: Path, suffix: str, keep: float):
    path = write(tmp_path / f"f{suffix}", noise())
    load = TRANSFORMS.build({"type": "mmtokmerge.LoadImage"})
    assert load({"img_path": str(path)})["img"].shape == (HEIGHT, WIDTH, 3)
    cut(path, keep)
    with pytest.raises(InputError, match=rf"cannot read image {re.escape(str(path))}: "):
        load({"img_path": str(path)})


def test_whole_jpegs_of_other_writers_are_read(tmp_path: Path):
    """A thumbnail with its own end marker in front, and bytes after the end, are both common."""
    load = TRANSFORMS.build({"type": "mmtokmerge.LoadImage"})
    jpeg = write(tmp_path / "f.jpg", noise()).read_bytes()
    thumbnail = b"Exif\0\0" + write(tmp_path / "t.jpg", noise(1)[:8, :8]).read_bytes()
    with_thumbnail = (
        jpeg[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + jpeg[2:]
    )
    path = tmp_path / "g.jpg"
    for data in (jpeg + b"\0" * 64, with_thumbnail):
        path.write_bytes(data)
        assert load({"img_path": str(path)})["img"].shape == (HEIGHT, WIDTH, 3)
    path.write_bytes(with_thumbnail[:-200])
    with pytest.raises(InputError, match="cut off"):
        load({"img_path": str(path)})


def test_progressive_jpeg(tmp_path: Path):
    path = tmp_path / "f.jpg"
    assert cv2.imwrite(str(path), noise(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    load = TRANSFORMS.build({"type": "mmtokmerge.LoadImage"})
    assert load({"img_path": str(path)})["img"].shape == (HEIGHT, WIDTH, 3)
    cut(path)
    with pytest.raises(InputError, match="cut off"):
        load({"img_path": str(path)})


def test_file_that_is_no_image(camvid: Path):
    (camvid / "images/val/f1.jpg").write_text("<html>not found</html>")
    with pytest.raises(InputError, match=r"image \S*f1.jpg: it is not an image"):
        build_camvid(camvid)[0]
    (camvid / "annotations/val/f2.png").write_text("<html>not found</html>")
    with pytest.raises(InputError, match=r"cannot read label \S*f2.png"):
        build_camvid(camvid)[1]


def test_float_image_and_file_gone_after_the_start(camvid: Path):
    load = TRANSFORMS.build({"type": "mmtokmerge.LoadImage", "to_float32": True})
    assert load({"img_path": str(camvid / "images/val/f1.jpg")})["img"].dtype == np.float32
    with pytest.raises(InputError, match=r"cannot read image gone.jpg: No such file"):
        load({"img_path": "gone.jpg"})


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (ids(0, 12, 40), r"label \S*f1.png holds ids outside the classes: 12, 40; allowed are 0"),
        (ids(0, 1, shape=(HEIGHT, WIDTH + 1)), r"label \S*f1.png is 33x24 pixels .* is 32x24"),
        (noise(), r"label \S*f1.png has 3 channels"),
        (ids(3).astype(np.uint16) + 256, r"ids outside the classes: 259;"),
    ],
)
def test_wrong_labels_are_named(camvid: Path, label: np.ndarray, sentence: str):
    write(camvid / "annotations/val/f1.png", label)
    with pytest.raises(InputError, match=sentence):
        build_camvid(camvid)[0]


def test_zero_label_is_counted_in_the_files_own_ids(tmp_path: Path):
    write(tmp_path / "images/f.jpg", noise())
    write(tmp_path / "annotations/f.png", ids(0, 151))
    with pytest.raises(InputError, match="classes: 151; allowed are 0 to 150, and 255"):
        build("ADE20KDataset", tmp_path, "images", "annotations")[0]


def test_cut_off_label_is_named(camvid: Path):
    cut(camvid / "annotations/val/f1.png")
    with pytest.raises(InputError, match=r"cannot read label \S*f1.png: the file is cut off"):
        build_camvid(camvid)[0]


def test_label_check_needs_the_number_of_classes(camvid: Path):
    results = {
        "seg_map_path": str(camvid / "annotations/val/f1.png"),
        "seg_fields": [],
    }
    with pytest.raises(InputError, match="set num_classes"):
        TRANSFORMS.build({"type": "mmtokmerge.LoadSegAnnotations"})(dict(results))
    with pytest.raises(InputError, match="classes: 10; allowed are 0 to 9"):
        TRANSFORMS.build({"type": "mmtokmerge.LoadSegAnnotations", "num_classes": 10})(results)


def test_sentence_survives_a_loader_worker(camvid: Path):
    write(camvid / "annotations/val/f2.png", ids(0, 99))
    loader = DataLoader(build_camvid(camvid), num_workers=1, collate_fn=pseudo_collate)
    with pytest.raises(InputError, match=r"label \S*f2.png holds ids outside the classes: 99;"):
        list(loader)


def test_without_mmseg_the_rest_still_imports():
    code = (
        "import sys; sys.modules['mmseg'] = None\n"
        "import mmtokmerge.datasets, mmtokmerge.evaluation\n"
        "from mmtokmerge.registry import TRANSFORMS\n"
        "assert TRANSFORMS.get('mmtokmerge.LoadImage') is not None\n"
        "assert TRANSFORMS.get('mmtokmerge.LoadSegAnnotations') is None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def real_camvid() -> Path:
    data = os.environ.get("MMTOKMERGE_DATA", Path(__file__).parents[2] / "shared" / "data")
    return Path(data) / "camvid"


@pytest.mark.skipif(not real_camvid().is_dir(), reason="needs CamVid in MMTOKMERGE_DATA")
def test_real_camvid():
    dataset = build_camvid(real_camvid())
    samples = [dataset[i] for i in range(0, len(dataset), 10)]
    assert len(dataset) == 101
    assert {s["gt_seg_map"].shape for s in samples} == {(360, 480)}
    assert set(np.unique([s["gt_seg_map"] for s in samples])) == {*range(11), 255}


@pytest.mark.parametrize(
    ("classes", "zero", "values", "sentence"),
    [
        (("road", "car"), False, (0, 255), "the classes are 0 and 1 .*write 1 where they have 255"),
        (("road", "car"), True, (0, 255), "the classes are 1 and 2, .*write 2 where"),
        (("car",), False, (0, 255), "write 1 where they have 255"),
        (("road", "road", "car"), False, (0, 1, 2), "names road twice"),
        (("road", "car"), False, (0, 1, 255), None),
        (("road", "car"), True, (0, 1, 2), None),
    ],
)
def test_masks_of_black_and_white(
    tmp_path: Path, classes: tuple[str, ...], zero: bool, values: tuple[int, ...], sentence: Any
) -> None:
    for name in "ab":
        write(tmp_path / f"images/{name}.png", np.zeros((4, 4, 3), np.uint8))
        write(tmp_path / f"labels/{name}.png", ids(*values))
    config = dict(
        type="mmtokmerge.FolderDataset",
        data_root=str(tmp_path),
        data_prefix=dict(img_path="images", seg_map_path="labels"),
        img_suffix=".png",
        seg_map_suffix=".png",
        metainfo=dict(classes=classes, palette=[[i, i, i] for i in range(len(classes))]),
        reduce_zero_label=zero,
        pipeline=[],
    )
    if sentence is None:
        assert len(DATASETS.build(config)) == 2
        return
    with pytest.raises(InputError, match=sentence):
        DATASETS.build(config)
