"""The wheel: whole, described, and usable from an empty folder by names alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from engine_helpers import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git tracks, without a network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    done = subprocess.run(
        [*command, "-w", str(folder), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-800:]
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, built likewise."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", str(folder)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    return next(folder.glob("*.tar.gz"))


def test_an_index_would_take_both(wheel: Path, sdist: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_the_source_archive_carries_what_the_wheel_is_built_from(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files", "mmtokmerge", "configs", "tools"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert set(tracked) - names == set()
    assert {"README.md", "LICENSE", "model-index.yml"} <= names


def test_the_wheel_carries_configs_tools_weights_and_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.py")}
    assert configs <= {n.removeprefix("mmtokmerge/.mim/") for n in names}
    for name in (
        "mmtokmerge/.mim/tools/train.py",
        "mmtokmerge/.mim/tools/dist_train.sh",
        "mmtokmerge/.mim/model-index.yml",
        "mmtokmerge/assets/b0_streets.pth",
        "mmtokmerge/py.typed",
        "mmtokmerge/commands/main.py",
    ):
        assert name in names
    assert not [n for n in names if "__pycache__" in n or n.startswith("tests/")]
    entry = next(n for n in names if n.endswith("entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(entry).decode()
    assert "mmtokmerge = mmtokmerge.commands.main:console" in text


def test_everything_works_by_name_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    assert subprocess.run([*install, str(wheel)], check=False).returncode == 0
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-m", "mmtokmerge", *map(str, words)]
        return subprocess.run(
            command, cwd=work, env=env, capture_output=True, text=True, check=False
        )

    where = "import mmtokmerge; print(mmtokmerge.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=work, env=env, capture_output=True, text=True, check=True
    )
    assert str(site) in found.stdout
    demo = run("demo", "--images", 1, "--runs", 1, "--work-dir", work / "demo")
    assert demo.returncode == 0, demo.stderr[-800:]
    rows = json.loads((work / "demo/table.json").read_text())
    fused = "the same, fused attention"
    assert {"mmseg's own model", fused, "none", "hq", "fast", "plus", "n2d", "downsample"} == {
        row["name"] for row in rows
    }
    weights = site / "mmtokmerge/assets/b0_streets.pth"
    street = min((work / "demo/streets").rglob("*leftImg8bit.png"))
    predicted = run("predict", "b0_demo_fast", weights, street, "--out", work / "p")
    assert predicted.returncode == 0, predicted.stderr[-800:]
    assert len(list((work / "p").glob("*.png"))) == 2
    data = f"test_dataloader.dataset.data_root={work}/demo/streets"
    workers = ["test_dataloader.num_workers=0", "val_dataloader.num_workers=0"]
    tested = run("test", "b0_demo_hq", weights, "--cfg-options", data, *workers)
    assert tested.returncode == 0, tested.stderr[-800:]
    code = (
        "import sys; from mmtokmerge.inferencers import MMSegInferencer as Inferencer\n"
        "print(Inferencer('b0_demo_fast', device='cpu')(sys.argv[1])['predictions'].shape)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(street)]
    by_name = subprocess.run(
        command, cwd=work, env=env, capture_output=True, text=True, check=False
    )
    assert "(512, 1024)" in by_name.stdout, by_name.stderr[-800:]
    wrong = run("train", "b0_demo_hqq")
    assert wrong.returncode == 1 and "did you mean" in wrong.stderr
