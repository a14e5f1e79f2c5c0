"""Predicting own pictures: what is read, tiles, resumed and shared runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from engine_helpers import ROOT, run_tool
from PIL import Image

from mmtokmerge.errors import InputError
from mmtokmerge.inference.run import own_device, share
from mmtokmerge.inference.sources import Source, find_sources, frames_of, read_picture
from mmtokmerge.inference.tiles import count_tiles, predict_tiles, tile_starts

WEIGHTS = ROOT / "mmtokmerge/assets/b0_streets.pth"


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_pictures_of_any_kind_are_read(tmp_path: Path) -> None:
    pixels = picture()
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "alpha.png")
    cv2.imwrite(str(tmp_path / "deep.png"), pixels[..., 0].astype(np.uint16) * 257)
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    turned.save(tmp_path / "exif.jpg", exif=exif, quality=95)
    assert np.array_equal(read_picture(str(tmp_path / "rgb.png"))[..., ::-1], pixels)
    for name in ("gray.png", "alpha.png", "deep.png"):
        read = read_picture(str(tmp_path / name))
        assert read.shape == (40, 60, 3) and read.dtype == np.uint8, name
    assert read_picture(str(tmp_path / "exif.jpg")).shape == (60, 40, 3)
    deep = read_picture(str(tmp_path / "deep.png"))
    assert deep.min() == 0 and deep.max() == 255
    (tmp_path / "cut.png").write_bytes((tmp_path / "rgb.png").read_bytes()[:30])
    with pytest.raises(InputError, match=r"cut\.png is cut off or no picture"):
        read_picture(str(tmp_path / "cut.png"))


def test_folders_globs_videos_and_cameras_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    (folder / "deeper").mkdir(parents=True)
    for name in ("a.png", "b.JPG", "deeper/a.png"):
        Image.fromarray(picture()).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    assert [s.name for s in find_sources([str(folder)])] == ["a", "b", "deeper/a"]
    assert [s.name for s in find_sources([str(folder / "*.png")])] == ["a"]
    twice = find_sources([str(folder / "a.png"), str(folder / "deeper/a.png")])
    assert [s.name for s in twice] == ["a", "a_2"]
    assert find_sources(["0"]) == [Source("0", "camera_0", True)]
    for wrong in (str(tmp_path / "none.png"), str(folder / "notes.txt"), str(folder / "*.gif")):
        with pytest.raises(InputError, match=r"\w"):
            find_sources([wrong])


def test_the_frames_of_a_video(tmp_path: Path) -> None:
    path = str(tmp_path / "v.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 5, (60, 40))
    for _ in range(4):
        writer.write(picture())
    writer.release()
    frames = list(frames_of(Source(path, "v", True)))
    assert len(frames) == 4 and frames[0].shape == (40, 60, 3)


@pytest.mark.parametrize("shape", [(100, 130), (64, 64), (40, 200), (65, 64)])
@pytest.mark.parametrize("overlap", [0, 16, 40])
def test_tiles_cover_every_pixel_and_blend_to_the_whole(
    shape: tuple[int, int], overlap: int
) -> None:
    """Scores that depend on the pixel alone give the same labels whole and in tiles."""
    pixels = np.random.default_rng(1).integers(0, 255, (*shape, 3), dtype=np.uint8)
    calls: list[tuple[int, ...]] = []

    def scores(part: np.ndarray) -> np.ndarray:
        calls.append(part.shape)
        return part.transpose(2, 0, 1).astype(np.float32)

    found = predict_tiles(pixels, scores, 64, overlap)
    assert np.array_equal(found, pixels.argmax(2))
    assert len(calls) == count_tiles(shape, 64, overlap)
    assert max(max(c[:2]) for c in calls) <= 64


def test_where_tiles_begin() -> None:
    assert tile_starts(50, 64, 8) == [0]
    assert tile_starts(64, 64, 8) == [0]
    assert tile_starts(65, 64, 8) == [0, 1]
    starts = tile_starts(1000, 64, 8)
    assert starts[-1] == 1000 - 64
    assert all(b - a <= 56 for a, b in itertools.pairwise(starts))


def test_the_memory_of_tiles_does_not_grow_with_the_height() -> None:
    import tracemalloc

    def peak(height: int) -> int:
        pixels = np.zeros((height, 256, 3), np.uint8)
        tracemalloc.start()
        predict_tiles(pixels, lambda p: np.zeros((19, *p.shape[:2]), np.float32), 128, 32)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    labels = 256 * 96 * 37
    assert peak(512 + 96 * 37) < peak(512) + labels + 2**20


def test_processes_share_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [Source(str(i), str(i)) for i in range(7)]
    found = []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        found += share(sources)
    assert sorted(found, key=lambda s: s.path) == sources


@pytest.mark.slow
def test_the_verb_by_a_presets_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(picture(96, 160)).save(tmp_path / f"{name}.png")
    out = tmp_path / "out"
    words = ["b0_demo_hq", WEIGHTS, tmp_path / "*.png", "--out", out, "--tokens"]
    first = run_tool("predict.py", *words, "--compare", "none")
    assert first.status == 0, first.output
    kinds = ("overlay", "labels", "tokens", "compare")
    assert {p.name for p in out.glob("*.png")} == {f"{n}_{k}.png" for n in "ab" for k in kinds}
    labels = cv2.imread(str(out / "a_labels.png"), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (96, 160) and labels.max() < 19
    (out / "b_labels.png").unlink()
    again = run_tool("predict.py", *words)
    assert "1 of 2 are there already" in again.output and (out / "b_labels.png").is_file()
    tiled = run_tool(
        "predict.py", *words[:3], "--out", tmp_path / "t", "--tile", 64, "--overlap", 32
    )
    assert tiled.status == 0 and (tmp_path / "t/a_labels.png").is_file()


@pytest.mark.slow
def test_keypoints_as_json(tmp_path: Path) -> None:
    pytest.importorskip("mmpose")
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    from mmtokmerge.pose import import_mmpose

    import_mmpose()
    from mmpose.registry import MODELS

    config = ROOT / "configs/segformerpp/b0_stick_none.py"
    with DefaultScope.overwrite_default_scope("mmpose"):
        model = MODELS.build(Config.fromfile(config).model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pth")
    Image.fromarray(picture(64, 48)).save(tmp_path / "a.png")
    words = ["b0_stick_none", tmp_path / "w.pth", tmp_path / "a.png", "--out", tmp_path / "o"]
    result = run_tool("predict.py", *words)
    assert result.status == 0, result.output
    found = json.loads((tmp_path / "o/a_keypoints.json").read_text())
    assert len(found) == 1 and len(found[0]["keypoints"]) == 20


def predict(*words: object) -> str:
    """What `predict` prints, whether it ends well or not."""
    result = run_tool("predict.py", "b0_demo_hq", WEIGHTS, *words)
    return result.output


def test_one_broken_picture_does_not_stop_the_others(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(folder / name), picture(64, 96))
    (folder / "b.png").write_bytes(b"no picture")
    said = predict(folder, "--out", out, "--tile", 64, "--overlap", 8)
    assert "error: 1 of 3 inputs were left out" in said and "b.png is cut off" in said
    assert {p.name for p in out.glob("*_labels.png")} == {"a_labels.png", "c_labels.png"}


def test_results_of_other_settings_are_not_taken_for_these(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(64, 96))
    words = (tmp_path / "a.png", "--out", tmp_path / "out")
    assert "1 pictures or frames" in predict(*words)
    assert "1 of 1 are there already" in predict(*words)
    said = predict(*words, "--compare", "none", "--tile", 64, "--overlap", 8)
    assert "1 of 1 are there of another input or other settings" in said
    assert "1 pictures or frames" in said
    assert (tmp_path / "out" / "a_compare.png").is_file()


def test_results_of_another_picture_are_not_taken_for_this_one(tmp_path: Path) -> None:
    path, out = tmp_path / "a.png", tmp_path / "out"
    cv2.imwrite(str(path), picture(64, 96))
    predict(path, "--out", out)
    cv2.imwrite(str(path), picture(96, 64))
    said = predict(path, "--out", out)
    assert "1 of 1 are there of another input or other settings" in said
    assert "1 pictures or frames" in said
    assert cv2.imread(str(out / "a_labels.png"), cv2.IMREAD_UNCHANGED).shape == (96, 64)


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(64, 96))
    assert "does not go with --tile" in predict(tmp_path / "a.png", "--tokens", "--tile", 256)
    assert "--compare is for pictures, but 0 is a video" in predict("0", "--compare", "none")


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert (own_device("cuda"), own_device("cuda:1"), own_device("cpu")) == (
        "cuda:3",
        "cuda:1",
        "cpu",
    )


def test_colours_are_laid_over_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmtokmerge.visualization import differences

    image, labels = picture(70, 50), np.arange(3500).reshape(70, 50) % 5 - 1
    palette = [[200, 10, 0], [3, 77, 9], [255, 255, 255]]
    whole = image.astype(float)
    known = (labels >= 0) & (labels < 3)
    whole[known] = np.round(whole[known] * 0.25 + np.array(palette)[labels[known]] * 0.75)
    monkeypatch.setattr(differences, "ROWS", 16)
    assert np.array_equal(differences.colour_labels(image, labels, palette), whole)
