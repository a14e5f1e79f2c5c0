"""From a model to a file that a runtime takes, for one size or for a range of sizes."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.checks import one_of
from mmtokmerge.deploy.compare import Agreement, compare
from mmtokmerge.deploy.quantize import BOUND as INT8_BOUND
from mmtokmerge.deploy.quantize import (
    in_floating_point,
    need_quantizer,
    quantize_onnx,
    quantize_openvino,
    worst_error,
)
from mmtokmerge.deploy.runtimes import METADATA, Exported, leaves, load_exported, need
from mmtokmerge.deploy.sizes import Sizes
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.modes import in_eval_mode
from mmtokmerge.merging import StageMerging
from mmtokmerge.merging.grid import same_share
from mmtokmerge.merging.group_sums import sums_by_product

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
PRECISIONS = ("fp32", "fp16", "int8")
OPSET = 20
BOUND = {"fp32": 1e-4, "fp16": 3e-2}
"""Worst difference of a file from its model, relative to the model's largest output."""


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how well it agrees with the model.

    Args:
        path: The file.
        format: 'onnx', 'openvino' or 'torch'.
        precision: 'fp32', 'fp16' or 'int8'.
        sizes: Which images it takes.
        agreements: What each check found; of int8 those of the file before it was quantized.
        metadata: What is written into the file.
        error: Of int8: root mean square of the difference from the model over that of its output,
            the worst of the calibration images.
    """

    path: Path
    format: str
    precision: str
    sizes: Sizes
    agreements: list[Agreement] = field(default_factory=list)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    error: float | None = None

    @property
    def worst(self) -> float:
        """Worst difference, relative to the model's largest output."""
        return max(each.difference for each in self.agreements)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.format}, {self.precision}"]
        lines += [f"  {each}" for each in self.agreements]
        if self.error is not None:
            lines.append(f"  in int8, on the calibration images: error {self.error:.1%}")
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
    calibration: Sequence[Tensor] | None = None,
    check: Callable[[Exported, str], None] | None = None,
    scatter: bool = True,
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
        precision: Of the weights in the file, 'fp32', 'fp16' (OpenVINO), or 'int8' (OpenVINO and
            ONNX), see :mod:`mmtokmerge.deploy.quantize`.
        metadata: JSON values to write into the file, such as classes and normalisation.
        calibration: With int8: batches of real images, from which the ranges of int8 are taken.
        check: Called with the loaded file and its precision before the file takes its place; it
            raises InputError to refuse the file.
        scatter: Whether the graph may add by a scatter with a reduction, which TensorRT does not
            have; else groups are summed by a product with ones, which takes more operations.

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
    if (precision == "int8") != (calibration is not None):
        raise InputError("precision='int8' and calibration=, batches of real images, go together")
    if calibration is not None:
        need_quantizer(made)
        if not calibration:
            raise InputError("calibration holds no images")
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    chosen = Sizes() if sizes is None else sizes
    chosen.check(example)
    for batch in calibration or ():
        chosen.check(batch)
        if chosen.static and batch.shape != example.shape:
            raise InputError(
                f"calibration has images {tuple(batch.shape)}, but the file is to take "
                f"{tuple(example.shape)} alone"
            )
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
    with in_eval_mode(model), nullcontext() if scatter else sums_by_product():
        program = _record(model, example, chosen)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            draft = Path(folder) / path.name
            floats = "fp32" if precision == "int8" else precision
            in_floats = _write(program, draft, made, floats, written, scatter)
            found = compare(model, load_exported(draft), chosen.examples(example))
            report = ExportReport(path, made, precision, chosen, found, written)
            if not report.worst <= BOUND[floats]:
                raise InputError(
                    f"{path} was not written: the exported file differs from the model by "
                    f"{report.worst:.1e} of its largest output, allowed are {BOUND[floats]:.0e}"
                )
            if calibration is not None:
                measured = _quantize(model, draft, made, in_floats, calibration)
                report = replace(report, error=measured)
            if check is not None:
                check(load_exported(draft), precision)
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
    program: Any, path: Path, made: str, precision: str, metadata: Any, scatter: bool
) -> list[str]:
    """Write a graph; returns the names of its nodes that int8 leaves in floating point."""
    text = json.dumps(metadata)
    if made == "torch":
        buffer = BytesIO()  # torch's own writer ends the process on a full disk
        torch.export.save(program, buffer, extra_files={METADATA: text})
        path.write_bytes(buffer.getvalue())
        return []
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
    import onnx

    graph: Any = onnx.load(str(onnx_path), load_external_data=False).graph
    if not scatter:
        _refuse_reductions(graph)
    names = in_floating_point(graph)
    if made == "onnx":
        return names
    import openvino

    network = openvino.convert_model(str(onnx_path))
    network.set_rt_info(text, METADATA)
    openvino.save_model(network, str(path), compress_to_fp16=precision == "fp16")
    for each in onnx_path.parent.glob(f"{onnx_path.name}*"):
        each.unlink()
    return names


def _refuse_reductions(graph: Any) -> None:
    """Raise InputError where a graph adds, or takes the least or most, by a scatter."""
    for node in graph.node:
        if not node.op_type.startswith("Scatter"):
            continue
        for each in node.attribute:
            if each.name == "reduction" and each.s not in (b"", b"none"):
                raise InputError(
                    f"scatter=False: the graph has a {node.op_type} with reduction "
                    f"{each.s.decode()!r}, which has no other form here; MiT++'s presets and rates "
                    "have none"
                )


def _quantize(
    model: nn.Module, path: Path, made: str, names: Sequence[str], batches: Sequence[Tensor]
) -> float:
    """Put an int8 file in the place of one in floats; returns its error on the batches.

    Raises:
        InputError: It differs too much from the model.
    """
    images = [batch.detach().cpu().float().contiguous() for batch in batches]
    with quiet(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        if made == "onnx":
            quantize_onnx(path, draft, names, images)
            for each in path.parent.glob(f"{path.name}*"):
                each.unlink()
        else:
            import openvino

            network = openvino.Core().read_model(str(path))
            text = network.get_rt_info(METADATA).astype(str)
            quantized = quantize_openvino(network, names, images)
            quantized.set_rt_info(text, METADATA)
            openvino.save_model(quantized, str(draft), compress_to_fp16=False)
            del network, quantized  # they hold the old file of weights open
        for each in Path(folder).iterdir():
            shutil.move(str(each), path.parent / each.name)
    error = worst_error(model, load_exported(path), images)
    if not error <= INT8_BOUND:
        raise InputError(
            f"{path.name} was not written: in int8 it differs from the model by {error:.0%} of its "
            f"output (root mean square), allowed are {INT8_BOUND:.0%}"
        )
    return error


def _check_rates(model: nn.Module, sizes: Sizes) -> None:
    """Refuse a rate that counts otherwise in whole numbers than in floats, at any size."""
    if sizes.static:
        return
    most = (sizes.largest // 4) ** 2
    for module in model.modules():
        setting = getattr(module, "merging", None)
        if not isinstance(setting, StageMerging):
            continue
        for matcher in setting.bipartite:
            if not same_share(matcher.rate, most):
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
