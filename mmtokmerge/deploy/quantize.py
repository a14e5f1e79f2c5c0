"""Post-training quantization to int8, calibrated on images: what is quantized, and what is not.

Weights and inputs of convolutions and of products with weights become int8. Left in floating point
are softmax and norms; the similarities that decide what merges, since a wrong match costs more than
a rounded weight; and depthwise convolutions, with which SegFormer's mIoU fell from 60 to 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.deploy.runtimes import Exported, leaves
from mmtokmerge.errors import InputError

BOUND = 0.3
"""Root mean square of the difference from the model, over that of the model's output."""
CHOICES = ("ArgMax", "TopK", "ReduceMax")
"""Operations that choose; a product that they look at is a similarity."""
THROUGH = (
    *("Reshape", "Transpose", "Where", "Clip", "Div", "Cast", "Mul", "Max", "Min"),
    *("Slice", "Concat", "Unsqueeze", "Squeeze", "Identity"),
)


def need_quantizer(made: str) -> None:
    """Check that what quantizes a format is installed.

    Raises:
        InputError: It is not, or the format has no int8.
    """
    if made == "torch":
        raise InputError("precision='int8' is for OpenVINO (*.xml) and ONNX (*.onnx)")
    if made == "openvino" and find_spec("nncf") is None:
        raise InputError("precision='int8' for OpenVINO needs nncf: pip install nncf")


def in_floating_point(graph: Any) -> list[str]:
    """Names of an ONNX graph's nodes that are not quantized: similarities, depthwise convolutions.

    Args:
        graph: The graph of an ``onnx.ModelProto``.
    """
    makers = {name: node for node in graph.node for name in node.output}
    found = set()
    for node in graph.node:
        if node.op_type == "Conv":
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            if groups > 1:
                found.add(node.name)
        if node.op_type not in CHOICES:
            continue
        waiting, seen = [node.input[0]], set()
        while waiting:
            name = waiting.pop()
            maker = makers.get(name)
            if maker is None or name in seen:
                continue
            seen.add(name)
            if maker.op_type in ("MatMul", "Gemm"):
                found.add(maker.name)
            elif maker.op_type in THROUGH:
                waiting += maker.input
    return sorted(found)


def quantize_openvino(network: Any, names: Sequence[str], batches: Sequence[Tensor]) -> Any:
    """Quantize an ``openvino.Model`` by NNCF.

    Args:
        network: The model in fp32.
        names: Nodes that stay in floating point.
        batches: Images ``(B, C, H, W)``.
    """
    import logging

    import nncf

    nncf.set_log_level(logging.ERROR)
    scope = nncf.IgnoredScope(names=list(names), types=["GroupConvolution"], validate=False)
    data = nncf.Dataset([batch.numpy() for batch in batches])
    return nncf.quantize(
        network,
        data,
        subset_size=len(batches),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=scope,
    )


def quantize_onnx(path: Path, out: Path, names: Sequence[str], batches: Sequence[Tensor]) -> None:
    """Quantize an ONNX file by onnxruntime: QDQ, a scale for each output channel of a weight.

    Args:
        path: The file in fp32.
        out: The new file.
        names: Nodes that stay in floating point.
        batches: Images ``(B, C, H, W)``.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {"images": batch.numpy()}

    quantize_static(
        str(path),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul"],
        nodes_to_exclude=list(names),
        extra_options=dict(MatMulConstBOnly=True),
    )


@torch.no_grad()
def worst_error(model: nn.Module, exported: Exported, batches: Sequence[Tensor]) -> float:
    """The greatest error, as :data:`BOUND` counts it, of any output on any batch."""
    worst = 0.0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    for batch in batches:
        expected = [out.cpu() for out in leaves(model(batch.to(device)))]
        for a, b in zip(exported(batch), expected, strict=True):
            worst = max(worst, _error(a, b))
    return worst


def _error(found: Tensor, expected: Tensor) -> float:
    """What :data:`BOUND` bounds; of labels, the share that differs."""
    if found.shape != expected.shape:
        return math.inf
    if not expected.is_floating_point():
        return float((found != expected).double().mean()) if expected.numel() else 0.0
    a, b = found.double(), expected.double()
    known = b.isfinite()
    size = (b[known] - b[known].mean()).square().mean().sqrt() if bool(known.any()) else 0.0
    error = (a - b)[known].square().mean().sqrt() if bool(known.any()) else 0.0
    return float(error) / (float(size) or 1.0)
