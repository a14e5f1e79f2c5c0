"""JBD's tables turned into COCO's format, and the generated stick figures."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmtokmerge.commands.main import main
from mmtokmerge.datasets.keypoints.jumper import JUMPER_KEYPOINTS, JUMPER_LINKS
from mmtokmerge.datasets.keypoints.stick_figures import FigureSet, make_stick_figures
from mmtokmerge.errors import InputError

TEMPLATE = "{event}_{frame_num:05d}.jpg"


def run_tool(name: str, *arguments: object) -> None:
    words = ["data", name.removesuffix(".py"), *(str(argument) for argument in arguments)]
    with redirect_stderr(StringIO()) as errors:
        status = main(words)
    if status:
        sys.exit(errors.getvalue().strip())


def make_row(frame: int, start: float = 10.0, seen: int = 20) -> dict[str, Any]:
    """A row whose keypoints lie on a line; those from ``seen`` on are not visible."""
    row: dict[str, Any] = dict(event="rome", frame_num=frame)
    for index, name in enumerate(JUMPER_KEYPOINTS):
        row.update({f"{name}_x": start + index, f"{name}_y": start + 2 * index})
        row[f"{name}_s"] = int(index < seen)
    return row


def write_table(path: Path, rows: list[dict[str, Any]], delimiter: str = ";") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_images(folder: Path, *frames: int) -> Path:
    folder.mkdir()
    for frame in frames:
        Image.new("RGB", (120, 90)).save(folder / f"rome_{frame:05d}.jpg")
    return folder


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_become_coco_files(
    tmp_path: Path, delimiter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images", 1, 2)
    rows = [make_row(1), make_row(2, 20, seen=3), make_row(3, seen=0), make_row(3, seen=0)]
    table = write_table(tmp_path / "train.csv", rows, delimiter)
    left_out = tmp_path / "left_out.txt"
    options = ("--images", images, "--out", tmp_path / "out", "--image-name", TEMPLATE)
    run_tool("jbd.py", table, *options, "--margin", 0.1, "--list", left_out)
    printed = capsys.readouterr().out.replace("\n", "")
    assert "2 athletes in 2 images; left out: 2 without a visible athlete" in printed
    assert left_out.read_text().split() == ["rome_00003.jpg"] * 2
    content = json.loads((tmp_path / "out" / "train.json").read_text())
    assert content["images"] == [
        dict(id=1, file_name="rome_00001.jpg", width=120, height=90),
        dict(id=2, file_name="rome_00002.jpg", width=120, height=90),
    ]
    first, second = content["annotations"]
    assert (first["num_keypoints"], second["num_keypoints"]) == (20, 3)
    assert first["keypoints"][:6] == [10, 10, 2, 11, 12, 2]
    assert second["keypoints"][9:] == [0] * 51
    # 19 wide, 38 tall, 3.8 beyond on each side
    assert first["bbox"] == pytest.approx([6.2, 6.2, 26.6, 45.6])
    assert content["categories"][0]["keypoints"] == list(JUMPER_KEYPOINTS)
    assert content["categories"][0]["skeleton"][0] == [1, 2]
    assert len(content["categories"][0]["skeleton"]) == len(JUMPER_LINKS)


def test_athletes_outside_the_image_are_left_out_and_a_single_keypoint_has_a_box(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images", 1, 2)
    table = write_table(tmp_path / "train.csv", [make_row(1, 500), make_row(2, 20, seen=1)])
    options = ("--images", images, "--out", tmp_path / "out", "--image-name", TEMPLATE)
    run_tool("jbd.py", table, *options)
    printed = capsys.readouterr().out.replace("\n", "")
    assert "1 athletes in 1 images; left out: 1 without a visible athlete" in printed
    (annotation,) = json.loads((tmp_path / "out" / "train.json").read_text())["annotations"]
    assert annotation["bbox"] == [19, 19, 2, 2]


def test_boxes_are_clipped_and_places_decide_without_flags(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 1)
    row = {key: value for key, value in make_row(1, 60).items() if not key.endswith("_s")}
    row.update(head_x="", head_y="", neck_x=0, neck_y=0, image="rome_00001.jpg")
    table = write_table(tmp_path / "val.csv", [row])
    run_tool("jbd.py", table, "--images", images, "--out", tmp_path)
    (annotation,) = json.loads((tmp_path / "val.json").read_text())["annotations"]
    assert annotation["keypoints"][:6] == [0] * 6
    assert annotation["num_keypoints"] == 13  # five lie below the image of 90 rows
    x, y, width, height = annotation["bbox"]
    assert y + height == 90 and x + width <= 120 and min(x, y) > 0


def fail(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The sentence with which the converter ends."""
    with pytest.raises(SystemExit) as ended:
        run_tool("jbd.py", *arguments)
    return str(ended.value)


def test_wrong_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "images", 1)
    table = tmp_path / "train.csv"
    options = ("--images", images, "--out", tmp_path / "out")
    named = (*options, "--image-name", TEMPLATE)
    assert f"cannot read the table {table}" in fail(capsys, table, *named)
    table.write_text("")
    assert f"the table {table} is empty" in fail(capsys, table, *named)
    rows = [{key: value for key, value in make_row(1).items() if key != "ltoe_y"}]
    write_table(table, rows)
    assert "lacks 1 of 40 columns for keypoints, such as ltoe_y" in fail(capsys, table, *named)
    write_table(table, [make_row(1), make_row(2)])
    assert "rome_00002.jpg does not exist, though line 3 of" in fail(capsys, table, *named)
    assert "names no image in a column" in fail(capsys, table, *options)
    wrong = fail(capsys, table, *options, "--image-name", "{city}.jpg")
    assert "does not fit line 2 of" in wrong and "event, frame_num" in wrong
    write_table(table, [dict(make_row(1), rkne_x="left")])
    assert "line 2 of" in (sentence := fail(capsys, table, *named))
    assert "has rkne_x='left', which is not a number" in sentence
    write_table(table, [make_row(1, seen=0)])
    assert "has no row with a visible athlete and an image" in fail(capsys, table, *named)
    assert "--margin is -1.0" in fail(capsys, table, *named, "--margin", -1)
    assert not (tmp_path / "out").exists()


def test_rows_without_image_are_counted_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images", 1)
    table = write_table(tmp_path / "train.csv", [make_row(1), make_row(2)])
    options = ("--images", images, "--out", tmp_path, "--image-name", TEMPLATE)
    run_tool("jbd.py", table, *options, "--skip-missing")
    assert "1 without image file" in capsys.readouterr().out.replace("\n", "")


def read_set(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_stick_figures_are_seeded_whole_and_within_their_image(tmp_path: Path) -> None:
    settings = FigureSet(train=6, val=2, height=96, width=128)
    assert make_stick_figures(tmp_path / "a", settings)
    assert make_stick_figures(tmp_path / "b", settings)
    assert read_set(tmp_path / "a") == read_set(tmp_path / "b")
    assert not make_stick_figures(tmp_path / "a", settings)
    content = json.loads((tmp_path / "a" / "annotations" / "train.json").read_text())
    assert len(content["annotations"]) == len(content["images"]) == 6
    for annotation in content["annotations"]:
        points = np.array(annotation["keypoints"]).reshape(20, 3)
        x, y, width, height = annotation["bbox"]
        assert (points[:, 2] == 2).all()
        assert x >= 0 and y >= 0 and x + width <= 128 and y + height <= 96
        assert (points[:, 0] >= x).all() and (points[:, 0] <= x + width).all()
        assert (points[:, 1] >= y).all() and (points[:, 1] <= y + height).all()
    other = FigureSet(train=6, val=2, height=96, width=128, seed=1)
    assert make_stick_figures(tmp_path / "b", other)
    assert read_set(tmp_path / "a") != read_set(tmp_path / "b")


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds no readable stick_figures\.json"):
        make_stick_figures(tmp_path, FigureSet(train=1, val=1))
    assert (tmp_path / "precious.txt").read_text() == "mine"
    with pytest.raises(InputError, match="height is 10, but must be at least 64"):
        FigureSet(height=10)
