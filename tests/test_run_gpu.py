"""The GPU benchmarks' parts: named, listed with configs that exist, tried on a CPU, and resumed."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PARTS = [
    "tests",
    "graph",
    "compile",
    "large",
    "peers",
    "matching",
    "vit",
    "images",
    "train",
    "unpadded",
    "table5",
]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(REPO / "benchmarks" / "run_gpu.sh"), *words],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=REPO,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.mark.parametrize("part", PARTS)
def test_a_part_lists_files_that_exist(part: str) -> None:
    done = run(part, "out", "--list", CHECKPOINT="weights.pth", IMAGES="folder")
    assert done.returncode == 0, done.stderr
    named = re.findall(r"(?:configs|benchmarks|tests)/\S+\.py", done.stdout)
    assert named and all((REPO / name).is_file() for name in named), named
    assert not (REPO / "out").exists()


def test_a_part_that_is_none_is_a_sentence() -> None:
    for words in ((), ("encoders",)):
        done = run(*words)
        assert done.returncode == 2
        assert done.stderr.strip().endswith("is no part, allowed are " + " ".join(PARTS) + ".")


def test_rows_are_kept_and_the_rest_is_measured_later(tmp_path: Path) -> None:
    """A part without time left says what it did not measure; run again, it goes on."""
    settings = dict(SMOKE="1", PRESETS="none")
    cut = run("train", str(tmp_path), **settings, SECONDS_OF_PART="5")
    assert cut.returncode == 1 and "not measured: train b0 (no time left" in cut.stderr
    done = run("train", str(tmp_path), **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((tmp_path / "train.csv").open()))
    assert [row["model"] for row in rows] == ["stock fused", "b0_cityscapes_none"]
    assert all(float(row["median_ms"]) > 0 for row in rows)
    again = run("train", str(tmp_path), **settings)
    assert again.returncode == 0 and "train b0 is there" in again.stdout
    assert list(csv.DictReader((tmp_path / "train.csv").open())) == rows
    assert {path.name for path in tmp_path.iterdir()} == {"train.csv", "train.log"}
