"""Peak memory of a step."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmtokmerge.models.policies import FrozenNetwork

MIB = 2**20
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
MEMINFO = Path("/proc/meminfo")


def peak_growth(step: Callable[[], Any], device: str) -> float | None:
    """MiB that a step needs on top of what is there before it.

    On a GPU what torch allocates; on Linux' CPUs the growth of the resident memory, after freed
    memory is handed back to the system; None on other systems.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    if not sys.platform.startswith("linux") or not CLEAR_REFS.exists():
        return None
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    try:
        CLEAR_REFS.write_text("5")  # resets VmHWM to the memory held now
    except OSError:
        return None
    resident = _kib(STATUS, "VmRSS")
    step()
    return max(0, _kib(STATUS, "VmHWM") - resident) / 1024


def held(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> float:
    """MiB of a model's weights and buffers, its policy's too, and of its optimizer's state."""
    tensors = [each for part in (model, *hidden_networks(model)) for each in weights_of(part)]
    if optimizer is not None:
        states = (value for state in optimizer.state.values() for value in state.values())
        tensors += [value for value in states if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers."""
    return [*model.parameters(), *model.buffers()]


def hidden_networks(model: nn.Module) -> list[nn.Module]:
    """The frozen networks that policies hold besides their submodules."""
    found = (getattr(module, "network", None) for module in model.modules())
    return [each.model for each in found if isinstance(each, FrozenNetwork)]


def would_fit(mib: float, device: str) -> bool:
    """Whether so much more memory is there; on a GPU the attempt tells, so yes."""
    if device == "cuda" or not MEMINFO.exists():
        return True
    return mib < 0.9 * _kib(MEMINFO, "MemAvailable") / 1024


def _kib(file: Path, key: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise RuntimeError(f"{file} has no line {key!r}")
