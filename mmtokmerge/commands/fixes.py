"""The one line that mends each way in which an environment is known to fail.

``mmtokmerge check`` looks up the error of a trial here. A fix may differ between the
maintained forks (distributions ``onedl-*``) and the upstream packages.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TORCH = "torch==2.12.1 torchvision==0.27.1"
POSE_NEEDS = "json_tricks munkres pycocotools scipy six xtcocotools"
UPSTREAM_MMCV = 'pip install -U openmim && mim install "mmcv==2.1.0"'
FALLBACK = "make install (it sets up, in .venv, versions that work together)"


class Fix(NamedTuple):
    """A pattern of an error and the command that mends it, for forks and for upstream."""

    pattern: str
    forks: str
    upstream: str


def _same(pattern: str, fix: str) -> Fix:
    return Fix(pattern, fix, fix)


FIXES = (
    _same(r"No module named '(torch|torchvision)'", f"pip install {TORCH}"),
    _same(r"operator torchvision::nms does not exist", f"pip install --force-reinstall {TORCH}"),
    _same(r"not compiled with CUDA", f"pip install --force-reinstall {TORCH}"),
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
    Fix(r"No module named 'mmengine'", 'pip install -e ".[mm]"', "pip install mmengine==0.10.7"),
    Fix(r"No module named 'mmcv'", 'pip install -e ".[mm]"', UPSTREAM_MMCV),
    Fix(
        r"No module named 'mmseg'",
        'pip install -e ".[mm]"',
        "pip install mmsegmentation==1.2.2 ftfy regex",
    ),
    Fix(
        r"No module named 'mmpose'",
        'pip install -e ".[pose]" && pip install --no-deps mmpose==1.3.2',
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
