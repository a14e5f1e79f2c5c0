"""Images of a config that an exported file is calibrated on and compared with its model by."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from mmtokmerge.deploy import Sizes
from mmtokmerge.deploy.runtimes import Exported, leaves
from mmtokmerge.errors import InputError
from mmtokmerge.measure.inputs import network_inputs
from mmtokmerge.measure.samples import Samples
from mmtokmerge.models.whole_network import WholeNetwork
from mmtokmerge.reporting.console import progress_bar

CALIBRATION = 64
"""Training images that int8 and caps are calibrated on."""
NEAR = 0.5
"""Pixels of the network's image by which a keypoint may differ and still agree."""
LEAST = {"fp32": 0.999, "fp16": 0.99, "int8": 0.9}
"""Share of equal labels or keypoints below which a file is refused."""


def inputs_of(cfg: Any, model: Any, split: str, number: int) -> Iterator[list[Tensor]]:
    """What the network is given of each image: windows of it, or its boxes."""
    for batch in Samples(cfg, split, number, labels=False):
        if hasattr(model, "decode_head"):
            yield network_inputs(model, batch)
        else:
            yield [model.data_preprocessor(copy.deepcopy(batch), False)["inputs"]]


def calibration_images(
    cfg: Any, model: Any, number: int | None, normalise: bool, console: Console
) -> list[Tensor]:
    """Batches of the config's training images, as the test pipeline makes them of test images.

    Raises:
        InputError: There are fewer images.
    """
    total = len(Samples(cfg, "train", labels=False))
    if number is not None and number > total:
        raise InputError(f"--calibration {number} is more than the {total} training images.")
    number = min(CALIBRATION, total) if number is None else number
    batches: list[Tensor] = []
    with progress_bar(console, "reading images", number) as advance:
        for parts in inputs_of(cfg, model, "train", number):
            for images in parts:
                if normalise:  # the file normalises by itself
                    images = images * model.data_preprocessor.std + model.data_preprocessor.mean
                batches.append(images)
            advance()
    return batches[:number]


class Check:
    """Compares a file with its model on images of the config's test set.

    Their sizes are looked at when this is made, so that images that the file will not take are
    known before it is written; none is held in between.

    Args:
        cfg: The config.
        model: The segmentor or pose estimator that was exported.
        network: What is exported of it.
        number: How many images.
        sizes: Which images the file will take.
        shape: The shape of its batch, where it takes one size alone.
        console: Where progress is shown.

    Raises:
        InputError: There are fewer images, or the file will not take one.
    """

    def __init__(
        self,
        cfg: Any,
        model: Any,
        network: WholeNetwork,
        number: int,
        sizes: Sizes,
        shape: Sequence[int],
        console: Console,
    ) -> None:
        self.cfg, self.model = cfg, model
        self.network = network
        self.number = number
        self.console = console
        self.share = 0.0
        for images in self._inputs("looking at test images"):
            if sizes.static and list(images.shape) != list(shape):
                raise InputError(
                    f"--check: the test's network sees {list(images.shape)}, but a --static file "
                    f"takes {list(shape)} alone: give --shape, or test in windows of that size"
                )
            if not sizes.static:
                sizes.check(images)

    @torch.no_grad()
    def __call__(self, exported: Exported, precision: str) -> None:
        """Set ``share``, the equal labels or keypoints.

        Raises:
            InputError: Fewer agree than must.
        """
        equal = total = 0
        for images in self._inputs("checking"):
            found, expected = exported(images)[0], leaves(self.network(images))[0]
            same = self._same(found, expected)
            equal, total = equal + int(same.sum()), total + same.numel()
        self.share = equal / max(total, 1)
        if self.share < LEAST[precision]:
            raise InputError(
                f"the file was not written: on {self.number} images of the test set {self.what} "
                f"agree on {self.share:.3%}, at least {LEAST[precision]:.1%} must in {precision}"
            )

    def _inputs(self, words: str) -> Iterator[Tensor]:
        with progress_bar(self.console, words, self.number) as advance:
            for parts in inputs_of(self.cfg, self.model, "test", self.number):
                yield from parts
                advance()

    @property
    def what(self) -> str:
        """What is compared."""
        return "labels" if self.network.segments else "keypoints"

    def _same(self, found: Tensor, expected: Tensor) -> Tensor:
        network = self.network
        if network.segments:
            return network.labels_of(found) == network.labels_of(expected)
        if network.decoding is None:  # heatmaps
            return found.flatten(2).argmax(2) == expected.flatten(2).argmax(2)
        return (found - expected).norm(dim=-1) <= NEAR
