"""Print what is installed, what works, and the fix for what does not.

Each part is tried in a Python of its own, so one that fails, or crashes, does not hide another.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmtokmerge import __version__
from mmtokmerge.commands.fixes import find_fix

TIMEOUT_S = 300
# Module -> the distributions that may hold it, the maintained fork first.
PACKAGES = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "mmengine": ("onedl-mmengine", "mmengine", "mmengine-lite"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmpose": ("onedl-mmpose", "mmpose"),
    "timm": ("timm",),
    "transformers": ("transformers",),
}
SEGMENTATION = """
import torch, mmseg.models
from mmtokmerge.registry import MODELS
encoder = MODELS.build(dict(type='mmtokmerge.MiTPlusPlus', arch='b0', merging='hq'))
maps = encoder.eval()(torch.zeros(1, 3, 64, 64))
print('MiT++ B0 ran with merged tokens,', len(maps), 'feature maps')
"""
POSE = """
from mmtokmerge._mmpose_import import import_mmpose
mmpose = import_mmpose()
from mmpose.models import HeatmapHead
HeatmapHead(8, 17, loss=dict(type='KeypointMSELoss', use_target_weight=True))
print('MMPose imports and builds a heatmap head')
"""
OPERATORS = """
import torch
from mmcv.ops import nms
nms(torch.tensor([[0., 0., 2., 2.]]), torch.ones(1), 0.5)
print('NMS ran')
"""
GPU = """
import torch
torch.ones(8, device='cuda').sum().item()
print(torch.cuda.device_count(), 'x', torch.cuda.get_device_name(0))
"""
TRIALS = {
    "segmentation": SEGMENTATION,
    "pose": POSE,
    "compiled operators": OPERATORS,
    "GPU": GPU,
}
OPTIONAL = {
    "pose": "needed by pose configs only",
    "compiled operators": "not needed by this package's own models",
    "GPU": "without it everything runs on the CPU",
}


class Result(NamedTuple):
    """What a trial gave: whether it worked, and its last printed line or its error."""

    works: bool
    detail: str


def find_distribution(module: str) -> tuple[str, str] | None:
    """The distribution that holds ``module`` and its version, or None where there is none."""
    for distribution in PACKAGES[module]:
        try:
            return distribution, version(distribution)
        except PackageNotFoundError:
            continue
    return None


def has_upstream() -> bool:
    """Whether the mm* packages found are the upstream ones (the forks are the default)."""
    found = [find_distribution(module) for module in ("mmengine", "mmcv", "mmseg")]
    names = [name for name, _ in filter(None, found)]
    return bool(names) and not any(name.startswith("onedl-") for name in names)


def try_code(code: str) -> Result:
    """Run ``code`` in a fresh Python of this environment and say whether it ended well."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Result(False, f"still running after {TIMEOUT_S} s")
    lines = (run.stdout if run.returncode == 0 else run.stderr).strip().splitlines()
    if run.returncode == 0:
        return Result(True, lines[-1] if lines else "")
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return Result(False, (errors or lines or [f"ended with status {run.returncode}"])[-1])


def versions_table() -> Table:
    """What is installed: module, version, and which distribution it came from."""
    table = Table("package", "version", "distribution", title=f"mmtokmerge {__version__}: found")
    table.add_row("python", platform.python_version(), sys.executable)
    for module in PACKAGES:
        found = find_distribution(module)
        if found is None:
            table.add_row(module, "[dim]not installed[/]", "")
            continue
        name, number = found
        kind = "fork" if name.startswith("onedl-") else "upstream"
        note = f"{name} ({kind})" if len(PACKAGES[module]) > 1 else name
        table.add_row(module, number, note)
    return table


def print_results(console: Console, results: dict[str, Result]) -> None:
    """A line for each part: works or not, what was seen; then the fix for what does not work."""
    table = Table("part", "works", "seen", title="tried")
    for part, result in results.items():
        mark = "[green]yes[/]" if result.works else "[red]no[/]"
        table.add_row(part, mark, escape(result.detail))
    console.print(table)
    if not all(result.works for result in results.values()):
        console.print(f"To mend it (pip stands for {sys.executable} -m pip):", soft_wrap=True)
    upstream = has_upstream()
    for part, result in results.items():
        if not result.works:
            note = f" ({OPTIONAL[part]})" if part in OPTIONAL else ""
            fix = escape(find_fix(result.detail, upstream))
            console.print(f"[bold]{part}[/]{note}:\n  {fix}", soft_wrap=True, highlight=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> int:
    """Print both tables and the fixes; return 0 if segmentation works and 1 if it does not."""
    console = Console()
    console.print(versions_table())
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = dict(zip(TRIALS, pool.map(try_code, TRIALS.values())))
    print_results(console, results)
    return 0 if results["segmentation"].works else 1
