"""An exported file in a segmentor's place, for the test tool's evaluators and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor, nn

from mmtokmerge.deploy import load_exported
from mmtokmerge.errors import InputError
from mmtokmerge.registry import MODELS


@MODELS.register_module()
class ExportedSegmentor(EncoderDecoder):
    """Predicts with a file of ``mmtokmerge export``, whole images or windows as the config tests.

    Args:
        file: ``*.onnx``, ``*.xml`` or ``*.pt2`` that returns logits of normalised images.
        data_preprocessor: The preprocessor of the network that was exported.
        test_cfg: The same.
        compute: See :func:`mmtokmerge.deploy.load_exported`.

    Raises:
        InputError: There is no such file, or it returns labels or takes images as they are.
    """

    def __init__(
        self,
        file: str,
        data_preprocessor: Mapping[str, Any],
        test_cfg: Mapping[str, Any],
        compute: str = "fp32",
    ) -> None:
        BaseModule.__init__(self)
        self.exported = load_exported(file, compute=compute)
        told = self.exported.metadata
        if told.get("task") != "segmentation":
            raise InputError(f"{file} was not exported from a segmentor by mmtokmerge export")
        if told.get("labels") or told.get("normalise"):
            raise InputError(
                f"{file} was exported with --labels or --normalise: the test tool needs logits of "
                "normalised images, export it without"
            )
        self.data_preprocessor = MODELS.build(dict(data_preprocessor))
        self.test_cfg = test_cfg
        self.train_cfg = None
        self.align_corners = bool(told["align_corners"])
        self.out_channels = self.num_classes = int(told["num_classes"])
        self.decode_head = _Head(self.out_channels, self.align_corners, told.get("threshold"))

        self.num_inputs = self.num_beyond = 0
        """Images, or windows of them, that were run, and those that merged beyond a threshold."""

    def encode_decode(self, inputs: Tensor, batch_img_metas: Any) -> Tensor:
        """Logits ``(B, classes, H, W)`` of normalised images."""
        logits, *beyond = self.exported(inputs)
        self.num_inputs += len(inputs)
        self.num_beyond += sum(int((each > 0).sum()) for each in beyond)
        return logits.to(inputs.device)

    def beyond(self) -> str | None:
        """What the file's ``max_tokens`` did, in a sentence; None where it has none."""
        if self.exported.metadata.get("max_tokens") is None:
            return None
        return (
            f"{self.num_beyond} of {self.num_inputs} inputs had more tokens than max_tokens "
            "allows, and merged their next similar ones beyond the threshold"
        )


class _Head(nn.Module):
    """What mmseg's segmentor asks of its head after the network."""

    def __init__(self, out_channels: int, align_corners: bool, threshold: float | None) -> None:
        super().__init__()
        self.out_channels = self.num_classes = out_channels
        self.align_corners = align_corners
        self.threshold = threshold  # of one channel for two classes
