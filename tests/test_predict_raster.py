"""Predicting GeoTIFFs and pictures in windows: same labels, place on earth, little memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from engine_helpers import ROOT, run_tool
from PIL import Image

from mmtokmerge.errors import InputError, UnreadableInput
from mmtokmerge.inference import raster
from mmtokmerge.inference.sources import read_picture
from mmtokmerge.inference.tiles import (
    IN_MEMORY,
    edge_weights,
    predict_regions,
    predict_tiles,
    tile_starts,
)

rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
WEIGHTS = ROOT / "mmtokmerge/assets/b0_streets.pth"
PLACE = rasterio.Affine(0.2, 0.0, 500000.0, 0.0, -0.2, 5400000.0)


def write_tiff(path: Path, bands: np.ndarray, **profile: Any) -> None:
    count, height, width = bands.shape
    options = dict(driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype)
    with rasterio.open(path, "w", **options, **profile) as file:
        file.write(bands)


def drawn(*shape: int, top: int = 255, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape).astype(kind)


def whole(picture: raster.Raster) -> np.ndarray:
    return picture.read(slice(0, picture.shape[0]), slice(0, picture.shape[1]))


@pytest.mark.parametrize("name", ["rgb.png", "gray.png", "alpha.png", "rgb.tif", "deep.png"])
def test_a_window_is_what_the_whole_picture_has_there(tmp_path: Path, name: str) -> None:
    pixels = drawn(70, 90, 4)
    path = tmp_path / name
    kept = {"gray": pixels[..., 0], "alpha": pixels}.get(path.stem, pixels[..., :3])
    if path.stem == "deep":
        cv2.imwrite(str(path), pixels[..., 0].astype(np.uint16) * 200 + 7)
    else:
        Image.fromarray(kept).save(path)
    expected = read_picture(str(path))
    with raster.Raster(str(path)) as picture:
        assert np.array_equal(whole(picture), expected)
        window = picture.read(slice(11, 40), slice(5, 83))
        assert np.array_equal(window, expected[11:40, 5:83])
        assert picture.unknown(slice(0, 9), slice(0, 9)) is None


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(drawn(20, 30, top=3)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "p.png")
    with raster.Raster(str(tmp_path / "p.png")) as found:
        assert np.array_equal(whole(found)[..., ::-1], np.asarray(picture.convert("RGB")))


def test_depth_is_stretched_over_the_picture_without_what_is_no_data(tmp_path: Path) -> None:
    """By hand: values 100 to 300, 9999 for no data; 100 becomes 0, 200 becomes 128, 300 is 255."""
    bands = np.full((3, 4, 6), 200, np.uint16)
    bands[:, 0, 0], bands[:, 1, 1], bands[:, 3] = 100, 300, 9999
    write_tiff(tmp_path / "d.tif", bands, nodata=9999)
    with raster.Raster(str(tmp_path / "d.tif")) as found:
        pixels = whole(found)
        assert pixels[0, 0, 0] == 0 and pixels[1, 1, 0] == 255 and pixels[0, 1, 0] == 128
        unknown = found.unknown(slice(0, 4), slice(0, 6))
    assert unknown is not None and unknown[3].all() and not unknown[:3].any()


def test_a_file_cut_off_is_a_sentence(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", drawn(3, 300, 300), compress="deflate")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    (tmp_path / "b.tif").write_bytes(b"no picture")
    for name in ("a.tif", "b.tif"):
        with (
            pytest.raises(UnreadableInput, match=rf"{name} is cut off or no picture"),
            raster.Raster(str(tmp_path / name)) as picture,
        ):
            whole(picture)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_what_is_written_in_windows_is_whole_or_not_there(tmp_path: Path, suffix: str) -> None:
    pixels = drawn(300, 520, 3)
    write_tiff(tmp_path / "a.tif", pixels.transpose(2, 0, 1), crs="EPSG:32632", transform=PLACE)
    out = tmp_path / "deeper" / f"o{suffix}"
    with raster.Raster(str(tmp_path / "a.tif")) as like:
        with raster.written(out, like, 3, np.uint8) as write:
            for top in (0, 123):
                bottom = 123 if top == 0 else 300
                write(slice(top, bottom), slice(0, 520), pixels[top:bottom])
        before = out.read_bytes()
        with (
            pytest.raises(KeyboardInterrupt),
            raster.written(out, like, 3, np.uint8) as write,
        ):
            write(slice(0, 9), slice(0, 9), pixels[:9, :9])
            raise KeyboardInterrupt
        with (
            pytest.raises(InputError, match=r"Cannot write .*x\.tif"),
            raster.written(Path("/proc/x.tif"), like, 1, np.uint8),
        ):
            pass
    assert out.read_bytes() == before and [p.name for p in out.parent.iterdir()] == [out.name]
    assert np.array_equal(cv2.imread(str(out))[..., ::-1], pixels)
    if suffix == ".tif":
        with rasterio.open(out) as file:
            assert file.transform == PLACE and file.crs.to_epsg() == 32632


@pytest.mark.parametrize("shape", [(150, 210), (64, 300), (130, 64), (40, 50)])
@pytest.mark.parametrize("overlap", [0, 7, 48])
@pytest.mark.parametrize("held", [IN_MEMORY, 0])
def test_regions_are_the_weighted_mean_of_all_tiles(
    shape: tuple[int, int], overlap: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a loop over all tiles; scores depend on the place in the tile."""
    monkeypatch.setattr("mmtokmerge.inference.tiles.IN_MEMORY", held)
    picture, tile = drawn(*shape, 3), 64
    noise = np.random.default_rng(1).random((5, tile, tile)).astype(np.float32)

    def scores(part: np.ndarray) -> np.ndarray:
        height, width = part.shape[:2]
        return noise[:, :height, :width] + part[..., 0] / 255

    sums = np.zeros((5, *shape))
    for top in tile_starts(shape[0], tile, overlap):
        for left in tile_starts(shape[1], tile, overlap):
            place = (slice(top, top + tile), slice(left, left + tile))
            part = picture[place]
            sums[:, place[0], place[1]] += scores(part) * edge_weights(*part.shape[:2])
    assert np.array_equal(predict_tiles(picture, scores, tile, overlap), sums.argmax(0))
    seen = np.zeros(shape, int)

    def read(rows: slice, columns: slice) -> np.ndarray:
        return picture[rows, columns]

    for rows, columns, pixels, labels in predict_regions(shape, read, scores, tile, overlap):
        seen[rows, columns] += 1
        assert np.array_equal(pixels, picture[rows, columns])
        assert labels.shape == pixels.shape[:2]
    assert (seen == 1).all()


MEMORY = """
import resource, sys
import numpy as np
from mmtokmerge.inference import raster
from mmtokmerge.inference.tiles import predict_regions
from pathlib import Path
path = sys.argv[1]
scores = lambda part: np.zeros((19, *part.shape[:2]), np.float32)
with raster.Raster(path) as picture, raster.written(
    Path(path + ".out.tif"), picture, 1, np.uint8
) as write:
    for rows, columns, _, labels in predict_regions(picture.shape, picture.read, scores, 256, 32):
        write(rows, columns, labels)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_the_memory_does_not_grow_with_the_picture(tmp_path: Path) -> None:
    assert resource.RUSAGE_SELF == 0
    peaks = []
    for side in (1024, 12288):
        path = tmp_path / f"{side}.tif"
        profile = dict(driver="GTiff", count=3, height=side, width=side, dtype="uint8", tiled=True)
        with rasterio.open(path, "w", compress="deflate", **profile):
            pass  # blocks that were never written are zeros
        command = [sys.executable, "-c", MEMORY, str(path)]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
    picture = 12288**2 * 3 // 2**20
    assert picture == 432
    assert peaks[1] < peaks[0] + 160, peaks  # GDAL's blocks and the scores between rows of tiles


@pytest.mark.slow
def test_the_verb_keeps_the_georeference(tmp_path: Path) -> None:
    pixels = drawn(100, 160, 3)
    bands = pixels.transpose(2, 0, 1).copy()
    bands[:, :20] = 0
    write_tiff(tmp_path / "a.tif", bands, crs="EPSG:32632", transform=PLACE, nodata=0)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    words = ["b0_demo_hq", WEIGHTS, tmp_path / "a.tif", tmp_path / "b.png", "--out"]
    tiles = ["--tile", 64, "--overlap", 32]
    found = {}
    for name, options in {"whole": ["--compare", "none"], "tiled": tiles}.items():
        run = run_tool("predict.py", *words, tmp_path / name, *options)
        assert run.status == 0, run.output
        made = {p.name for p in (tmp_path / name).iterdir() if p.is_file()}
        assert {"a_labels.tif", "a_overlay.tif", "b_labels.png", "b_overlay.png"} <= made
        with rasterio.open(tmp_path / name / "a_labels.tif") as file:
            assert file.transform == PLACE and file.crs.to_epsg() == 32632 and file.nodata == 255
            found[name] = file.read(1)
        assert (found[name][:20] == 255).all() and found[name][20:].max() < 19
    with_tiles = cv2.imread(str(tmp_path / "tiled/b_labels.png"), cv2.IMREAD_UNCHANGED)
    assert with_tiles.shape == (100, 160)
    again = run_tool("predict.py", *words, tmp_path / "tiled", *tiles)
    assert "2 of 2 are there already" in again.output
