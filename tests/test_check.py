"""``mmtokmerge check``: its verdicts, its fixes and its exit status."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mmtokmerge.commands import check
from mmtokmerge.commands.fixes import FALLBACK, FIXES, find_fix, torchvision_for
from mmtokmerge.commands.main import main

REPO = Path(__file__).resolve().parents[1]


def run_check(*path: Path) -> subprocess.CompletedProcess[str]:
    """Run the module with folders in front of the import path."""
    search = os.pathsep.join(map(str, (*path, REPO)))
    return subprocess.run(
        [sys.executable, "-m", "mmtokmerge", "check"],
        env={**os.environ, "PYTHONPATH": search, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_environment_of_the_tests_can_segment() -> None:
    result = check.try_code(check.SEGMENTATION)
    assert result == check.Result(True, "MiT++ B0 ran with merged tokens, 4 feature maps")


def test_a_stack_without_mmseg_exits_1_and_says_the_fix(tmp_path: Path) -> None:
    broken = "raise ModuleNotFoundError(\"No module named 'mmseg'\")"
    for name in ("torch", "mmpose"):  # every part fails at once, none for want of a GPU
        (tmp_path / f"{name}.py").write_text(broken)
    run = run_check(tmp_path)
    assert run.returncode == 1, run.stderr
    for word in ("torchvision", "segmentation", "pose", "compiled operators", "GPU"):
        assert word in run.stdout
    assert "No module named 'mmseg'" in run.stdout
    assert "pip install onedl-mmengine" in run.stdout or "mmsegmentation==1.2.2" in run.stdout


def test_a_trial_reports_its_last_line() -> None:
    assert check.try_code("print('a'); print('b')") == check.Result(True, "b")
    failed = check.try_code("import no_such_package_here")
    assert failed == check.Result(
        False, "ModuleNotFoundError: No module named 'no_such_package_here'"
    )


def test_a_crash_and_a_hang_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    crashed = check.try_code("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert crashed == check.Result(False, "ended with status -9")
    monkeypatch.setattr(check, "TIMEOUT_S", 0.2)
    assert check.try_code("import time; time.sleep(30)").detail == "still running after 0.2 s"


def test_main_prints_a_fix_for_each_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works = check.Result(True, "")
    fails = check.Result(False, "ModuleNotFoundError: No module named 'mmcv._ext'")
    parts = dict.fromkeys(check.TRIALS.values(), works)
    monkeypatch.setattr(check, "try_code", lambda code: parts[code])
    assert main(["check"]) == 0
    assert "To mend it" not in capsys.readouterr().out
    parts[check.OPERATORS] = fails
    assert main(["check"]) == 0
    assert "not needed by this package's own models" in capsys.readouterr().out
    parts[check.SEGMENTATION] = fails
    assert main(["check"]) == 1


@pytest.mark.parametrize(
    ("error", "forks", "upstream"),
    [
        ("No module named 'torch'", "torch==2.12.1", "torch==2.12.1"),
        ("RuntimeError: operator torchvision::nms does not exist", "torchvision==0.27.*", "0.27.*"),
        ("No module named 'mmseg'", "onedl-mmsegmentation", "mmsegmentation==1.2.2"),
        ("No module named 'mmcv'", "onedl-mmcv", "mmcv==2.1.0"),
        ("No module named 'mmcv._ext'", "onedl-mmcv", "mim install"),
        ("AssertionError: MMCV==2.2.0 is used but incompatible.", "mmcv==2.1.0", "mmcv==2.1.0"),
        ("ImportError: libGL.so.1: cannot open shared object file", "headless", "headless"),
        ("TypeError: NoneType takes no arguments", "transformers<5", "transformers<5"),
        ("Found no NVIDIA driver on your system", "nvidia-smi", "nvidia-smi"),
        ("No module named 'ftfy'", "pip install ftfy", "pip install ftfy"),
        ("No module named 'cv2'", "opencv-python-headless", "opencv-python-headless"),
        ("No module named 'mmtokmerge.nothing'", FALLBACK, FALLBACK),
        ("something else", FALLBACK, FALLBACK),
    ],
)
def test_fixes(error: str, forks: str, upstream: str) -> None:
    assert forks in find_fix(error, upstream=False)
    assert upstream in find_fix(error, upstream=True)


def test_every_fix_is_one_line() -> None:
    assert all(fix and "\n" not in fix for row in FIXES for fix in (row.forks, row.upstream))


@pytest.mark.parametrize(
    ("installed", "upstream"),
    [
        ({}, False),
        ({"mmengine": "0.10.7", "mmcv": "2.1.0"}, True),
        ({"onedl-mmengine": "0.10.12"}, False),
    ],
)
def test_forks_and_upstream_are_told_apart(
    installed: dict[str, str], upstream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise check.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(check, "version", version)
    assert check.has_upstream() is upstream
    printed = io.StringIO()
    Console(width=160, file=printed).print(check.versions_table())
    for name, number in installed.items():
        assert f"{name} ({'upstream' if upstream else 'fork'})" in printed.getvalue()
        assert number in printed.getvalue()


def test_a_torch_that_is_there_is_never_replaced() -> None:
    for error in (
        "RuntimeError: operator torchvision::nms does not exist",
        "ModuleNotFoundError: No module named 'torchvision'",
        "AssertionError: Torch not compiled with CUDA enabled",
    ):
        for upstream in (False, True):
            assert " torch==" not in find_fix(error, upstream), error
    assert "torchvision==0.27." in torchvision_for("2.12.1+cu130")
    assert "torchvision==0.20." in torchvision_for("2.5.0")
