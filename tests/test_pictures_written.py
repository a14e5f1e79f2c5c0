"""Pictures and predictions are whole or end the run in a sentence, and any depth is drawn."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.visualization import LocalVisBackend, Visualizer

from mmtokmerge.errors import InputError
from mmtokmerge.reporting import files
from mmtokmerge.visualization.pictures import decode_picture, read_shown


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fsync)


def test_a_picture_of_a_full_disk_is_no_silence(tmp_path: Path, full_disk: None) -> None:
    from mmtokmerge.engine.hooks.whole_pictures import write_whole

    visualizer = Visualizer(vis_backends=[LocalVisBackend(str(tmp_path))], save_dir=str(tmp_path))
    write_whole(visualizer)
    write_whole(visualizer)
    with pytest.raises(InputError, match=r"a_3\.png.*No space left"):
        visualizer.add_image("a", np.zeros((4, 5, 3), np.uint8), 3)
    assert not list(tmp_path.rglob("*.png"))


def test_pictures_have_the_names_of_mmengines_backend(tmp_path: Path) -> None:
    from mmtokmerge.engine.hooks.whole_pictures import write_whole

    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    found = []
    for whole in (False, True):
        folder = tmp_path / str(whole)
        visualizer = Visualizer(vis_backends=[LocalVisBackend(str(folder))], save_dir=str(folder))
        if whole:
            write_whole(visualizer)
        visualizer.add_image("a", pixels, 3)
        (path,) = folder.rglob("*.png")
        found.append((path.relative_to(folder), cv2.imread(str(path)).tolist()))
    assert found[0] == found[1]


def test_saved_predictions_leave_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmtokmerge.evaluation import SavedPredictions

    path = tmp_path / "p.pkl"
    metric = SavedPredictions(str(path))
    metric.compute_metrics([{"a": 1}])
    assert pickle.loads(path.read_bytes()) == [{"a": 1}]

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(InputError, match="No space left"):
        metric.compute_metrics([{"b": 2}])
    assert pickle.loads(path.read_bytes()) == [{"a": 1}]
    assert list(tmp_path.iterdir()) == [path]


DEPTHS: dict[str, Any] = {
    "gray, 8 bits": (".png", np.uint8, ()),
    "gray, 16 bits": (".png", np.uint16, ()),
    "gray, floats": (".tif", np.float32, ()),
    "colour, 16 bits": (".png", np.uint16, (3,)),
    "colour, floats": (".tif", np.float32, (3,)),
    "4 channels, 8 bits": (".png", np.uint8, (4,)),
    "4 channels, 16 bits": (".tif", np.uint16, (4,)),
    "4 channels, floats": (".tif", np.float32, (4,)),
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_any_depth_is_drawn_as_three_bytes(kind: str, tmp_path: Path) -> None:
    suffix, dtype, channels = DEPTHS[kind]
    ramp = np.linspace(0, 1, 6 * 8).reshape(6, 8)
    picture = ramp.reshape(6, 8, *(1 for _ in channels)) * np.ones(channels or ())
    scale = 1.0 if dtype is np.float32 else np.iinfo(dtype).max
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), (picture * scale).astype(dtype))
    shown = read_shown(str(path))
    assert shown.shape == (6, 8, 3) and shown.dtype == np.uint8
    assert np.abs(shown[..., 0].astype(float) - ramp * 255).max() < 2


def test_what_is_no_picture_is_said() -> None:
    for content in (b"", b"no picture"):
        with pytest.raises(InputError, match=r"a\.png is cut off or no picture"):
            decode_picture(np.frombuffer(content, np.uint8), "a.png")
