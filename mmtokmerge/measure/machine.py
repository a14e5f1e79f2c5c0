"""What a result was measured on."""

from __future__ import annotations

import os
import platform
import re
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mmtokmerge import __version__

PACKAGES = {
    "mmengine": ("mmengine", "onedl-mmengine"),
    "mmcv": ("mmcv", "onedl-mmcv", "mmcv-lite"),
    "mmsegmentation": ("mmsegmentation", "onedl-mmsegmentation"),
    "mmpose": ("mmpose", "onedl-mmpose"),
}
# What decides whether memory that was freed is mapped anew, which takes much of a CPU's time.
ALLOCATOR = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def describe_machine(device: str) -> dict[str, Any]:
    """Processor, graphics card, versions and the settings of torch that change its speed."""
    facts: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if device == "cuda" else cpu_model(),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "allocator": ", ".join(
            f"{key}={os.environ[key]}" for key in ALLOCATOR if key in os.environ
        ),
        "mmtokmerge": __version__,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    for package, distributions in PACKAGES.items():
        facts[package] = _installed(distributions)
    if device == "cuda":
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
        facts["tf32_matmul"] = torch.backends.cuda.matmul.allow_tf32
        facts["tf32_conv"] = torch.backends.cudnn.allow_tf32
    return facts


def cpu_model() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def slug(text: str) -> str:
    """Text that can stand in a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def _installed(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None
