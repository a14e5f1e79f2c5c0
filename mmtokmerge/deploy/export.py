"""From a model to a file that a runtime takes, for one size or for a range of sizes."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.checks import one_of, whole_number
from mmtokmerge.deploy.compare import Agreement, compare
from mmtokmerge.deploy.runtimes import METADATA, leaves, load_exported, need
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.modes import in_eval_mode
from mmtokmerge.merging import StageMerging
from mmtokmerge.merging.grid import same_share

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
PRECISIONS = ("fp32", "fp16")
OPSET = 20
SMALLEST, LARGEST, BATCHES = 256, 4096, 64
BOUND = {"fp32": 1e-4, "fp16": 3e-2}
"""Worst difference of a file from its model, relative to the model's largest output."""


@dataclass(frozen=True)
class Sizes:
    """Which images a file takes.

    Args:
        static: The example's batch, height and width alone.
        smallest: Least height and width.
        largest: Greatest height and width.
        batches: Greatest batch.
    """

    static: bool = False
    smallest: int = SMALLEST
    largest: int = LARGEST
    batches: int = BATCHES

    def __post_init__(self) -> None:
        for name in ("smallest", "largest", "batches"):
            whole_number(name, getattr(self, name), 1)
        if not self.static and not SMALLEST <= self.smallest < self.largest:
            raise InputError(
                f"sizes from {self.smallest} to {self.largest} cannot be exported: a file for "
                f"several sizes begins at {SMALLEST} pixels or more (take --static below), and "
                "ends above where it begins"
            )

    def dims(self) -> dict[int, Any]:
        """What :func:`torch.export.export` takes: batch, height and width of the first input."""
        if self.static:
            return {}
        low, high = self.smallest, self.largest
        sides = {
            axis: torch.export.Dim(name, min=low, max=high)
            for axis, name in ((2, "height"), (3, "width"))
        }
        if self.batches == 1:
            return sides
        return {0: torch.export.Dim("batch", min=1, max=self.batches), **sides}

    def generic(self, channels: int, dtype: torch.dtype) -> Tensor:
        """A batch of which no side is a number that the network has elsewhere, nor 1."""
        height = min(self.smallest + 33, self.largest)
        width = min(self.smallest + 99, self.largest)
        height -= height == width
        return torch.zeros(min(2, self.batches), channels, height, width, dtype=dtype)

    def check(self, example: Tensor) -> None:
        """Refuse an example that the file would not take.

        Raises:
            InputError: It is none of images, not in fp32, or out of the range.
        """
        if example.dim() != 4 or example.dtype != torch.float32:
            raise InputError(
                f"the example must be images (B, C, H, W) in fp32, got {tuple(example.shape)} in "
                f"{example.dtype}"
            )
        inside = all(self.smallest <= side <= self.largest for side in example.shape[2:])
        if not self.static and not (inside and 1 <= len(example) <= self.batches):
            raise InputError(
                f"the example {tuple(example.shape)} is not of the sizes to export: batches of 1 "
                f"to {self.batches}, {self.smallest} to {self.largest} pixels on a side"
            )

    def examples(self, example: Tensor) -> list[Tensor]:
        """Images to check a file with: the example, and of a range two of other sizes."""
        if self.static:
            return [example]
        generator = torch.Generator().manual_seed(0)
        least, most = self.smallest, min(self.largest, 2 * self.smallest)
        sides = ((1, most, min(most, least + 33)), (3, least, min(most, least + 97)))
        others = [
            torch.randn(batch, example.shape[1], height, width, generator=generator)
            for batch, height, width in sides
            if batch <= self.batches
        ]
        scale = example.float().std() or torch.tensor(1.0)
        return [example, *(other * scale + example.float().mean() for other in others)]


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how well it agrees with the model.

    Args:
        path: The file.
        format: 'onnx', 'openvino' or 'torch'.
        precision: 'fp32' or 'fp16'.
        sizes: Which images it takes.
        agreements: What each check found.
        metadata: What is written into the file.
    """

    path: Path
    format: str
    precision: str
    sizes: Sizes
    agreements: list[Agreement] = field(default_factory=list)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """Worst difference, relative to the model's largest output."""
        return max(each.difference for each in self.agreements)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.format}, {self.precision}"]
        lines += [f"  {each}" for each in self.agreements]
        return "\n".join(lines)


def export(
    model: nn.Module,
    example: Tensor,
    out: str | Path,
    *,
    format: str | None = None,
    sizes: Sizes | None = None,
    precision: str = "fp32",
    metadata: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write a model into a file for a runtime, and check that the file gives what the model gives.

    The model is any of ours, or another package's, with merging by number or rate or without. What
    keeps as many tokens as an image allows, by a threshold, has no graph that holds for the next
    image and is refused.

    Args:
        model: The model, which takes one batch of images ``(B, C, H, W)``.
        example: Such a batch.
        out: The file: ``*.onnx``, ``*.xml`` (OpenVINO) or ``*.pt2`` (torch).
        format: 'onnx', 'openvino' or 'torch'; by the file's ending where None.
        sizes: Which images the file takes; every batch and size of a range where None.
        precision: Of the weights in the file, 'fp32' or 'fp16' (OpenVINO).
        metadata: JSON values to write into the file, such as classes and normalisation.

    Returns:
        What was written, and how well it agrees with the model at several sizes and batches.

    Raises:
        InputError: The model cannot be exported, the runtime is not installed, or the file differs
            from the model; no file is then left.
    """
    path = Path(out)
    made = format or next((k for k, v in FORMATS.items() if v == path.suffix), None)
    if made is None:
        raise InputError(f"{path}: a file to export to ends with {', '.join(FORMATS.values())}")
    one_of("format", made, tuple(FORMATS))
    if path.suffix != FORMATS[made]:
        raise InputError(f"{path}: a file of format {made} ends with {FORMATS[made]}")
    one_of("precision", precision, PRECISIONS)
    if precision == "fp16" and made != "openvino":
        raise InputError("precision='fp16' is for OpenVINO, which computes in what its device has")
    need(made)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    chosen = Sizes() if sizes is None else sizes
    chosen.check(example)
    odd = {str(p.dtype) for p in model.parameters() if p.is_floating_point()} - {"torch.float32"}
    if odd:
        raise InputError(f"the model must be in fp32 to be exported, it has {', '.join(odd)}")
    _check_rates(model, chosen)
    taken = sorted(set(metadata or {}) & {"precision", "static", "shape", "range"})
    if taken:
        raise InputError(f"metadata: {', '.join(taken)} is written by the export itself")
    try:
        json.dumps(metadata or {})
    except (TypeError, ValueError) as error:
        raise InputError(f"metadata must be JSON values: {error}") from error
    written = {
        **(metadata or {}),
        "precision": precision,
        "static": chosen.static,
        "shape": list(example.shape),
        "range": None if chosen.static else [chosen.smallest, chosen.largest, chosen.batches],
    }
    with in_eval_mode(model):
        program = _record(model, example, chosen)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            draft = Path(folder) / path.name
            _write(program, example, draft, made, precision, written)
            found = compare(model, load_exported(draft), chosen.examples(example))
            report = ExportReport(path, made, precision, chosen, found, written)
            if not report.worst <= BOUND[precision]:
                raise InputError(
                    f"{path} was not written: the exported file differs from the model by "
                    f"{report.worst:.1e} of its largest output, allowed are {BOUND[precision]:.0e}"
                )
            for each in Path(folder).iterdir():
                shutil.move(str(each), path.parent / each.name)
    return report


def _record(model: nn.Module, example: Tensor, sizes: Sizes) -> Any:
    """The model's graph.

    Raises:
        InputError: It depends on what the images show, or on a size.
    """
    dims = sizes.dims()
    if dims:  # a batch of 1 would be taken for a constant, and equal sides for one number
        example = sizes.generic(example.shape[1], example.dtype)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    example = example.to(device)
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(
                Tensors(model), (example,), dynamic_shapes=(dims,) if dims else None, strict=False
            )
    except InputError:
        raise
    except Exception as error:
        if "DataDependent" in type(error).__name__:
            raise InputError(
                "a graph cannot be recorded where what runs depends on what an image shows, as "
                "merging by a threshold does: take a fixed number or rate, such as ToMe, "
                "LocalMergingByRate and GlobalMergingByRate"
            ) from error
        first = str(error).strip().splitlines()[0][:200]
        raise InputError(
            f"{type(model).__name__} cannot be exported ({type(error).__name__}: {first})"
        ) from error
    return program


class Tensors(nn.Module):
    """A model that returns its tensors alone, in their order, which is all that a runtime has.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images ``(B, C, H, W)`` to the model's tensors."""
        return tuple(leaves(self.model(images)))


def _write(
    program: Any, example: Tensor, path: Path, made: str, precision: str, metadata: Any
) -> None:
    text = json.dumps(metadata)
    if made == "torch":
        torch.export.save(program, path, extra_files={METADATA: text})
        return
    onnx_path = path if made == "onnx" else path.with_suffix(".onnx")
    try:
        with torch.no_grad(), quiet():
            converted: Any = torch.onnx.export(program, dynamo=True, opset_version=OPSET)
    except Exception as error:
        causes = [line for line in str(error).splitlines() if line.startswith("<class")]
        reason = (causes or [type(error).__name__])[0][:200]
        raise InputError(f"the graph has no ONNX form: {reason}") from error
    model: Any = converted.model
    model.metadata_props[METADATA] = text
    model.graph.inputs[0].name = "images"
    converted.save(str(onnx_path))
    if made == "onnx":
        return
    import openvino

    network = openvino.convert_model(str(onnx_path))
    network.set_rt_info(text, METADATA)
    openvino.save_model(network, str(path), compress_to_fp16=precision == "fp16")
    for each in onnx_path.parent.glob(f"{onnx_path.name}*"):
        each.unlink()


def _check_rates(model: nn.Module, sizes: Sizes) -> None:
    """Refuse a rate that counts otherwise in whole numbers than in floats, at any size."""
    if sizes.static:
        return
    most = (sizes.largest // 4) ** 2
    for module in model.modules():
        setting = getattr(module, "merging", None)
        if not isinstance(setting, StageMerging):
            continue
        for matcher in (setting.q, setting.kv):
            if matcher is not None and not same_share(matcher.rate, most):
                raise InputError(
                    f"a rate of {matcher.rate} rounds differently in a file for several sizes: "
                    "take --static, or a rate of fewer decimals"
                )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporter prints of its own progress."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch.fx", "torch.export")
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    for logger, _ in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
