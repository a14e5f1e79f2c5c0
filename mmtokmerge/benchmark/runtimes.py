"""The models of a benchmark in several runtimes side by side: eager torch, compiled, exported."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mmtokmerge.checks import one_of
from mmtokmerge.deploy import Sizes, export, load_exported
from mmtokmerge.errors import InputError

if TYPE_CHECKING:
    from mmtokmerge.benchmark.candidates import Candidate

TORCH, COMPILE = "torch", "compile"
SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml"}
RUNTIMES = (TORCH, COMPILE, *SUFFIXES)
COMPUTES = {
    TORCH: ("fp32", "fp16", "bf16"),
    COMPILE: ("fp32", "fp16", "bf16"),
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}
"""What each computes in on a CPU."""


def check_runtimes(runtimes: Sequence[str], dtype: str, part: str, device: str) -> None:
    """Refuse a runtime that cannot do what is asked.

    Raises:
        InputError: One is unknown, named twice, or has no such precision, part or device.
    """
    for runtime in runtimes:
        one_of("--runtime", runtime, RUNTIMES)
        if runtimes.count(runtime) > 1:
            raise InputError(f"--runtime names {runtime} twice.")
        if dtype not in COMPUTES[runtime]:
            allowed = ", ".join(COMPUTES[runtime])
            raise InputError(f"--dtype {dtype} is not for --runtime {runtime}: it takes {allowed}.")
        if runtime in SUFFIXES and part == "head":
            raise InputError(f"--runtime {runtime} takes images, not --part head's features.")
        if runtime in SUFFIXES and device != "cpu":
            raise InputError(f"--runtime {runtime} is timed on the CPU, take --device cpu.")


def in_runtimes(candidates: Sequence[Candidate], runtimes: Sequence[str]) -> list[Candidate]:
    """Every candidate in every runtime; names say which where there are several.

    Models that are exported keep fp32: their runtime decides what it computes in.
    """
    if list(runtimes) == [TORCH]:
        return list(candidates)
    found = []
    for runtime in runtimes:
        for candidate in candidates:
            name = candidate.name if len(runtimes) == 1 else f"{candidate.name}, {runtime}"
            model = copy.deepcopy(candidate.model) if runtime in SUFFIXES else candidate.model
            found.append(replace(candidate, name=name, runtime=runtime, model=model))
    return found


def exported_step(
    network: nn.Module, images: Tensor, runtime: str, dtype: str
) -> Callable[[], Any]:
    """What runs a network's file, made for these images, on them.

    Raises:
        InputError: It cannot be exported.
    """
    folder = tempfile.TemporaryDirectory(prefix="mmtokmerge-benchmark-")
    path = Path(folder.name) / f"model{SUFFIXES[runtime]}"
    quantized = dict(precision="int8", calibration=[images]) if dtype == "int8" else {}
    export(network.eval(), images, path, sizes=Sizes(static=True), **quantized)
    exported = load_exported(path, compute="bf16" if dtype == "bf16" else "fp32")

    def step() -> Any:
        return exported.run(images)

    # The runtime may read the file while it runs: the folder is removed with the step.
    step.folder = folder  # type: ignore[attr-defined]
    return step
