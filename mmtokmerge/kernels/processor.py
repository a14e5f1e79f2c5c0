"""What is known of the processor that torch runs on."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


@cache
def products_are_slow() -> bool:
    """Whether torch's own products, MKL's, take slower instructions than the processor has.

    MKL chooses by the maker: on AMD's processors, also with AVX-512, it takes AVX2, and torch's
    fused attention took 1.3 to 1.5 times as long as oneDNN's products; on Intel's (Sapphire Rapids)
    these took 1.5 to 2.7 times as long as it (``benchmarks/kernels_cpu.py``). Others were not
    measured: there torch's own are taken.
    """
    return torch.backends.mkl.is_available() and processor_maker() == "AuthenticAMD"


def processor_maker() -> str:
    """The maker as the processor says it, such as 'AuthenticAMD'; '' where it cannot be told."""
    if CPUINFO.is_file():
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("vendor_id"):
                return line.split(":", 1)[1].strip()
        return ""
    named = platform.processor()
    return next((m for m in ("AuthenticAMD", "GenuineIntel") if m in named), "")
