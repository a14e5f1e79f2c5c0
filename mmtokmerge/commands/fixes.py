"""The one line that mends each way in which an environment is known to fail.

``mmtokmerge check`` looks up the error of a trial here. A fix may differ between the
maintained forks (distributions ``onedl-*``) and the upstream packages.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

TORCH = "torch==2.12.1 torchvision==0.27.1"
MM = "onedl-mmengine onedl-mmcv onedl-mmsegmentation onedl-mmpretrain timm"
POSE_NEEDS = "json_tricks munkres pycocotools scipy six xtcocotools"
UPSTREAM_MMCV = 'pip install -U openmim && mim install "mmcv==2.1.0"'
_IN_CHECKOUT = (Path(__file__).resolve().parents[2] / "Makefile").is_file()
FALLBACK = (
    "make install (it sets up, in .venv, versions that work together)"
    if _IN_CHECKOUT
    else "no one line mends this: docs/install.md of the project lists versions that were tried"
)


def torchvision_for(torch: str | None) -> str:
    """The torchvision that belongs to an installed torch 2.x, which stays as it is."""
    found = re.match(r"2\.(\d+)", torch or "")
    if found is None:
        return "install the torchvision that pytorch.org lists for your torch"
    return f"pip install --force-reinstall --no-deps 'torchvision==0.{int(found[1]) + 15}.*'"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


class Fix(NamedTuple):
    """A pattern of an error and the command that mends it, for forks and for upstream."""

    pattern: str
    forks: str
    upstream: str


def _same(pattern: str, fix: str) -> Fix:
    return Fix(pattern, fix, fix)


FIXES = (
    _same(r"No module named 'torch'", f"pip install {TORCH}"),
    _same(r"No module named 'torchvision'", torchvision_for(_installed("torch"))),
    _same(r"operator torchvision::nms does not exist", torchvision_for(_installed("torch"))),
    _same(
        r"not compiled with CUDA",
        "this torch is built for the CPU alone; pytorch.org names the build for a GPU",
    ),
    _same(
        r"no NVIDIA driver|No CUDA GPUs are available|No CUDA-capable device",
        "no package helps: see that nvidia-smi lists a GPU and CUDA_VISIBLE_DEVICES names it",
    ),
    _same(r"no kernel image is available", "install the torch built for this GPU: see pytorch.org"),
    _same(
        r"libGL\.so|libgthread",
        "pip uninstall -y opencv-python opencv-python-headless && "
        "pip install --no-deps opencv-python-headless==4.12.0.88",
    ),
    Fix(
        r"No module named 'mmcv(\.ops|\._ext)'",
        "MMCV_WITH_OPS=1 pip install --force-reinstall --no-deps --no-cache-dir "
        "--no-build-isolation onedl-mmcv==2.3.6",
        UPSTREAM_MMCV,
    ),
    _same(r"MMCV==\S+ is used but incompatible", UPSTREAM_MMCV),
    Fix(r"No module named 'mmengine'", f"pip install {MM}", "pip install mmengine==0.10.7"),
    Fix(r"No module named 'mmcv'", f"pip install {MM}", UPSTREAM_MMCV),
    Fix(
        r"No module named 'mmseg'",
        f"pip install {MM}",
        "pip install mmsegmentation==1.2.2 ftfy regex",
    ),
    Fix(
        r"No module named 'mmpose'",
        f"pip install onedl-mmdetection {POSE_NEEDS} && pip install --no-deps mmpose==1.3.2",
        f"pip install mmdet==3.3.0 {POSE_NEEDS} && pip install --no-deps mmpose==1.3.2",
    ),
    Fix(
        r"No module named 'mmdet'",
        "pip install onedl-mmdetection==3.5.1",
        "pip install mmdet==3.3.0",
    ),
    _same(
        r"No module named 'xtcocotools'",
        "pip install cython setuptools wheel && pip install --no-build-isolation xtcocotools",
    ),
    _same(r"NoneType takes no arguments", 'pip install "transformers<5"'),
    Fix(
        r"numpy\.dtype size changed|compiled using NumPy 1|_ARRAY_API not found",
        FALLBACK,
        'pip install "numpy<2" "opencv-python-headless<4.12"',
    ),
)
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "PIL": "pillow"}


def find_fix(error: str, upstream: bool) -> str:
    """The line that mends ``error``, the text of a failed trial; never empty.

    Args:
        error: What Python printed, traceback or last line.
        upstream: Whether the environment holds the upstream mm* packages rather than the forks.
    """
    for fix in FIXES:
        if re.search(fix.pattern, error, flags=re.IGNORECASE):
            return fix.upstream if upstream else fix.forks
    missing = re.search(r"No module named '(\w+)", error)
    if missing and not missing[1].startswith("mm"):
        return f"pip install {DISTRIBUTIONS.get(missing[1], missing[1])}"
    return FALLBACK
