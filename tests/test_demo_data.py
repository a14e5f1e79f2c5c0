"""The generated streets: the same bytes each time, all or nothing, and worth learning from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmtokmerge.datasets.demo_streets import META_FILE, StreetSet, make_demo_streets
from mmtokmerge.datasets.streets import CLASS
from mmtokmerge.datasets.streets.scene import draw_street
from mmtokmerge.errors import InputError
from mmtokmerge.registry import DATASETS

REPO = Path(__file__).parents[1]
SMALL = StreetSet(train=2, val=1, height=64, width=128)


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        total.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path):
    for name, settings in {
        "a": SMALL,
        "b": SMALL,
        "c": StreetSet(**{**vars(SMALL), "seed": 1}),
    }.items():
        assert make_demo_streets(tmp_path / name, settings)
    a, b, c = (digest(tmp_path / name) for name in "abc")
    assert a == b != c


def test_complete_set_is_kept_and_another_replaced(tmp_path: Path):
    root = tmp_path / "set"
    make_demo_streets(root, SMALL)
    before = (root / META_FILE).stat().st_mtime_ns
    assert not make_demo_streets(root, SMALL)
    assert (root / META_FILE).stat().st_mtime_ns == before
    assert make_demo_streets(root, StreetSet(train=1, val=1, height=64, width=128))
    assert json.loads((root / META_FILE).read_text())["train"] == 1
    assert len(list(root.rglob("train/**/*_leftImg8bit.png"))) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_interrupted_set_leaves_nothing(tmp_path: Path):
    def stop_after_one(jobs):
        yield jobs[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo_streets(tmp_path / "set", SMALL, stop_after_one)
    assert list(tmp_path.iterdir()) == []


def test_foreign_folder_is_not_touched(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds no readable demo_streets.json"):
        make_demo_streets(tmp_path, SMALL)
    assert (tmp_path / "thesis.tex").is_file()


@pytest.mark.parametrize("setting", ["train", "height", "seed"])
def test_wrong_number_is_refused(setting: str):
    with pytest.raises(InputError, match=f"{setting} is -1, but must be at least"):
        StreetSet(**{setting: -1})


def test_config_reads_the_set(tmp_path: Path, monkeypatch):
    make_demo_streets(tmp_path / "set", SMALL)
    monkeypatch.setenv("MMTOKMERGE_DEMO", str(tmp_path / "set"))
    init_default_scope("mmseg")
    config = Config.fromfile(REPO / "configs/_base_/datasets/demo.py")
    sample = DATASETS.build(config.val_dataloader.dataset)[0]
    assert sample["inputs"].shape == (3, 64, 128)
    assert sample["data_samples"].gt_sem_seg.shape == (64, 128)


def test_scenes_hold_the_small_classes_and_vary():
    scenes = [draw_street(np.random.default_rng(i), 256, 512) for i in range(12)]
    present = np.array([np.bincount(label.ravel(), minlength=256) > 0 for _, label in scenes])
    for name in ("fence", "pole", "traffic light", "traffic sign"):
        assert present[:, CLASS[name]].mean() > 0.8, name
    assert (present[:, :19].sum(axis=1) >= 11).all()
    assert not present[:, 19:255].any()
    brightness = [image.mean() for image, _ in scenes]
    assert np.std(brightness) > 5


def test_label_follows_the_picture():
    """Sky is drawn above road, and a region's pixels are alike: no shift between the two."""
    image, label = draw_street(np.random.default_rng(0), 256, 512)
    rows = np.arange(256)[:, None].repeat(512, axis=1)
    assert rows[label == CLASS["sky"]].max() < rows[label == CLASS["road"]].max()
    light = image.mean(axis=2)
    lamp_box, sky = light[label == CLASS["traffic light"]], light[label == CLASS["sky"]]
    assert np.median(lamp_box) < np.median(sky) - 40


def test_endless_streets_take_a_pipeline_that_loads_files() -> None:
    """Calibration runs training images through the test pipeline, which names the loading."""
    from mmengine.registry import DefaultScope

    from mmtokmerge.datasets.endless_streets import EndlessStreets

    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="mmtokmerge.LoadSegAnnotations"),
        dict(type="PackSegInputs"),
    ]
    with DefaultScope.overwrite_default_scope("mmseg"):
        sample = EndlessStreets(num_scenes=1, sizes=[(64, 128)], pipeline=pipeline)[0]
    assert tuple(sample["inputs"].shape) == (3, 64, 128)
    assert sample["data_samples"].gt_sem_seg.shape == (64, 128)
