"""Running exported files: onnxruntime, OpenVINO, torch."""

from __future__ import annotations

import json
from abc import abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmtokmerge.checks import one_of
from mmtokmerge.errors import InputError

METADATA = "mmtokmerge"
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
COMPUTES = ("fp32", "bf16", "fp16")


def need(made: str) -> None:
    """Check that what a format needs is installed.

    Raises:
        InputError: A package is missing.
    """
    missing = [name for name in PACKAGES[made] if find_spec(name) is None]
    if missing:
        raise InputError(
            f"format {made} needs {' and '.join(missing)}: pip install 'mmtokmerge[deploy]'"
        )


class Exported:
    """An exported file, ready to run.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = json.loads(self.read_metadata() or "{}")

    @abstractmethod
    def run(self, images: Tensor) -> list[Tensor]:
        """What the file makes of a batch ``(B, C, H, W)`` in fp32."""

    @abstractmethod
    def read_metadata(self) -> str | None:
        """The JSON text that was written into the file."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Run a batch of images ``(B, C, H, W)``.

        Raises:
            InputError: The file does not take such a batch.
        """
        self.check(images)
        return self.run(images.detach().cpu().float().contiguous())

    def check(self, images: Tensor) -> None:
        """Refuse a batch outside of the sizes that the file was made for."""
        shape, sizes = self.metadata.get("shape"), self.metadata.get("range")
        if shape is None:
            return
        if sizes is None:
            if list(images.shape) != shape:
                raise InputError(f"{self.path} takes {shape} alone, got {list(images.shape)}")
            return
        low, high, batches = sizes
        right = all(low <= side <= high for side in images.shape[2:])
        if not right or not 1 <= len(images) <= batches:
            raise InputError(
                f"{self.path} takes batches of 1 to {batches} images of {low} to {high} "
                f"pixels on a side, got {list(images.shape)}"
            )


class OnnxFile(Exported):
    """A ``*.onnx`` in onnxruntime.

    Args:
        path: The file.
        threads: Threads; torch's number where None.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        super().__init__(path)

    def read_metadata(self) -> str | None:
        """See :class:`Exported`."""
        found: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        return found.get(METADATA)

    def run(self, images: Tensor) -> list[Tensor]:
        """See :class:`Exported`."""
        name = self.session.get_inputs()[0].name
        return [torch.from_numpy(out) for out in self.session.run(None, {name: images.numpy()})]


class OpenVINOFile(Exported):
    """A ``*.xml`` in OpenVINO on the CPU.

    Args:
        path: The file.
        threads: Threads; torch's number where None.
        compute: 'fp32', or 'bf16' or 'fp16' where the processor has them.
    """

    def __init__(self, path: Path, threads: int | None = None, compute: str = "fp32") -> None:
        import openvino

        names = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
        core = openvino.Core()
        self.network = core.read_model(str(path))
        self.compiled = core.compile_model(
            self.network,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": names[compute],
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        super().__init__(path)

    def read_metadata(self) -> str | None:
        """See :class:`Exported`."""
        if not self.network.has_rt_info(METADATA):
            return None
        return str(self.network.get_rt_info(METADATA).astype(str))

    def run(self, images: Tensor) -> list[Tensor]:
        """See :class:`Exported`."""
        found = self.compiled([images.numpy()])
        return [torch.from_numpy(found[port].copy()) for port in self.compiled.outputs]


class TorchFile(Exported):
    """A ``*.pt2`` of :mod:`torch.export`.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        extra = {METADATA: ""}
        self.module = torch.export.load(path, extra_files=extra).module()
        self._text = extra[METADATA]
        super().__init__(path)

    def read_metadata(self) -> str | None:
        """See :class:`Exported`."""
        return self._text

    @torch.no_grad()
    def run(self, images: Tensor) -> list[Tensor]:
        """See :class:`Exported`."""
        return leaves(self.module(images))


def load_exported(
    path: str | Path, *, threads: int | None = None, compute: str = "fp32"
) -> Exported:
    """Load a file that :func:`mmtokmerge.deploy.export` wrote.

    Args:
        path: ``*.onnx``, ``*.xml`` or ``*.pt2``.
        threads: Threads of onnxruntime and OpenVINO; torch's number where None.
        compute: What OpenVINO computes in: 'fp32', 'bf16' or 'fp16'.

    Raises:
        InputError: There is no such file, it is none, or its runtime is not installed.
    """
    file = Path(path)
    one_of("compute", compute, COMPUTES)
    if not file.is_file():
        raise InputError(f"There is no exported file at {file}.")
    made = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}.get(file.suffix)
    if made is None:
        raise InputError(f"{file}: an exported file ends with .onnx, .xml or .pt2")
    if compute != "fp32" and made != "openvino":
        raise InputError(f"compute={compute!r} is for OpenVINO's files (*.xml), not for {file}")
    need(made)
    try:
        if made == "onnx":
            return OnnxFile(file, threads)
        return OpenVINOFile(file, threads, compute) if made == "openvino" else TorchFile(file)
    except Exception as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise InputError(f"{file} cannot be loaded: {type(error).__name__}: {first}") from error


def is_exported(path: str | Path) -> bool:
    """Whether a path names an exported file, not a checkpoint."""
    return Path(path).suffix in (".onnx", ".xml", ".pt2")


def leaves(out: Any) -> list[Tensor]:
    """The tensors that a model returned, in their order."""
    if isinstance(out, Tensor):
        return [out]
    if out is None or isinstance(out, (bool, int, float, str)):
        return []  # a runtime returns tensors alone
    values = out.values() if hasattr(out, "values") else out
    return [leaf for value in values for leaf in leaves(value)]
