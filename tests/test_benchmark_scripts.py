"""The small scripts of benchmarks/: another split of CamVid, and the kernels of a CPU."""

from __future__ import annotations

import csv
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmtokmerge.errors import InputError

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def split(data: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "camvid_holdout.py", data, out, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_holdout_links_whole_drives(tmp_path: Path) -> None:
    data, out = tmp_path / "camvid", tmp_path / "holdout"
    for name in ("a_1", "a_2", "b_1", "c_1"):
        for kind, suffix in (("images", "jpg"), ("annotations", "png")):
            file = data / kind / "train" / f"{name}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{kind} {name}")
    done = split(data, out, "--drive", "a")
    assert done.returncode == 0, done.stderr
    assert "2 images to train on, 2 to test on" in done.stdout
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        held = sorted(file.name for file in (out / kind / "val").iterdir())
        kept = sorted(file.name for file in (out / kind / "train").iterdir())
        assert (held, kept) == (
            [f"a_1.{suffix}", f"a_2.{suffix}"],
            [f"b_1.{suffix}", f"c_1.{suffix}"],
        )
        assert (out / kind / "val" / held[0]).read_text() == f"{kind} a_1"

    again = split(data, out, "--drive", "a")
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith(f"error: {out} exists already")
    wrong = split(data, tmp_path / "other", "--drive", "d")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1].endswith("take one of its drives, a, b, c")
    assert not (tmp_path / "other").exists()

    (data / "annotations" / "train" / "c_1.png").unlink()
    missing = split(data, tmp_path / "other", "--drive", "a")
    assert missing.returncode == 1 and "c_1.png is missing" in missing.stderr.splitlines()[-1]


def test_kernels_are_compared_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(BENCHMARKS / "kernels_cpu.py"))
    own = script["main"].__globals__
    monkeypatch.setitem(own, "PRODUCTS", [(64, 8, 8)])
    monkeypatch.setitem(own, "ATTENTION", [(600, 300, 1, 8)])
    out = tmp_path / "new" / "cpu"
    monkeypatch.setattr(sys, "argv", ["kernels_cpu.py", "--runs", "2", "--out", str(out)])
    script["main"]()
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [row["what"] for row in rows] == ["product", "attention"]
    assert all(float(row["ratio"]) > 0 for row in rows)
    assert "600 x 300, 1 x 8" in out.with_suffix(".md").read_text()


def encoders(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "encoders_gpu.py", "--device", "cpu", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_encoders_take_turns(tmp_path: Path) -> None:
    out = tmp_path / "encoders.csv"
    words = ("--merging", "none", "--rounds", "2", "--steps", "2", "--csv", str(out))
    done = encoders("--size", "b0:1x64x96:eager", *words)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(out.open()))
    assert [row["model"] for row in rows] == ["stock fused", "b0_none"]
    assert rows[0]["speedup_over_stock-fused"] == "1.0"
    assert all(row["note"] == "" and float(row["median_ms"]) > 0 for row in rows)


def test_an_encoder_that_is_not_ready_is_said(tmp_path: Path) -> None:
    out = tmp_path / "encoders.csv"
    words = ("--merging", "none", "--deadline", "0.1", "--csv", str(out))
    done = encoders("--size", "b0:1x64x96:eager", *words)
    assert done.returncode == 0, done.stderr
    assert {row["note"] for row in csv.DictReader(out.open())} == {"not ready after 0 s"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--size", "8x1024"], "--size '8x1024' must be [ARCH:]BxHxW[:MODE,...]"),
        (["--size", "b9:1x64x64"], "--size: arch 'b9' is unknown"),
        (["--size", "1x64x64:fast"], "--size: mode 'fast' is unknown"),
        (["--merging", "most"], "--merging 'most' is unknown"),
    ],
)
def test_a_size_that_is_none(words: list[str], sentence: str) -> None:
    script = runpy.run_path(str(BENCHMARKS / "encoders_gpu.py"))
    args = script["make_parser"]().parse_args(words)
    with pytest.raises(InputError, match=re.escape(sentence)):
        list(script["read_jobs"](args))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_layers_need_a_gpu() -> None:
    command = [sys.executable, BENCHMARKS / "layers_gpu.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: layers_gpu.py times GPU kernels, but torch finds no CUDA device here."
    )
