"""What every policy of CTS is given, and gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.errors import InputError


@dataclass(frozen=True)
class Normalisation:
    """How a data preprocessor turned pixels into a network's input.

    Args:
        mean: The mean of each channel, subtracted; None where pixels are fed as they are.
        std: What each channel is then divided by.
        swapped: Whether the channels' order was reversed, from files' BGR to RGB, beforehand.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    swapped: bool = False

    @classmethod
    def of(cls, preprocessor: nn.Module) -> Normalisation:
        """That of mmengine's ``ImgDataPreprocessor`` or mmseg's ``SegDataPreProcessor``."""
        swapped = bool(getattr(preprocessor, "_channel_conversion", False))
        if not getattr(preprocessor, "_enable_normalize", False):
            return cls(swapped=swapped)
        mean, std = (getattr(preprocessor, name).flatten().tolist() for name in ("mean", "std"))
        return cls(tuple(mean), tuple(std), swapped)

    def apply(self, pixels: Tensor) -> Tensor:
        """Pixels ``(B, 3, H, W)``, 0 to 255 in BGR, to a network's input."""
        x = pixels.flip(1) if self.swapped else pixels
        if self.mean is None or self.std is None:
            return x
        return _affine(x, [1 / s for s in self.std], [-m / s for m, s in zip(self.mean, self.std)])

    def undo(self, inputs: Tensor) -> Tensor:
        """A network's input ``(B, 3, H, W)`` back to pixels, 0 to 255 in BGR."""
        x = inputs
        if self.mean is not None and self.std is not None:
            x = _affine(x, self.std, self.mean)
        return x.flip(1) if self.swapped else x

    def convert(self, inputs: Tensor, other: Normalisation) -> Tensor:
        """An input normalised this way, normalised the ``other`` way."""
        if self == other:
            return inputs
        precise = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        return other.apply(self.undo(precise)).to(inputs.dtype)


def _affine(x: Tensor, scale: Sequence[float], shift: Sequence[float]) -> Tensor:
    """Each channel of ``x (B, C, H, W)`` times its scale plus its shift; numbers, so no copies."""
    channels = [part * a + b for part, a, b in zip(x.unbind(1), scale, shift)]
    return torch.stack(channels, dim=1)


@dataclass(frozen=True, eq=False)
class PolicyInput:
    """What a policy decides by.

    Args:
        images: ``(B, 3, H, W)`` as the segmentation network is fed.
        hw: The grid ``(h, w)`` of its patches.
        patch_size: Side of a patch in pixels.
        normalisation: How the images were normalised; None where the backbone was not told.
        labels: ``(B, H, W)`` int64, the label map that the segmentor carries for policies with
            ``needs_labels``; None without one.
    """

    images: Tensor
    hw: tuple[int, int]
    patch_size: int
    normalisation: Normalisation | None = None
    labels: Tensor | None = None

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of superpatches, those that lie half outside the grid included."""
        return -(-self.hw[0] // 2), -(-self.hw[1] // 2)

    def normalised_as(self, other: Normalisation, owner: str) -> Tensor:
        """The images in another network's own normalisation.

        Raises:
            ValueError: If nobody said how the images are normalised.
        """
        if self.normalisation is None:
            raise InputError(
                f"{owner} does not know how its images are normalised: set model.type to "
                "'mmtokmerge.SharingEncoderDecoder', which tells it its data_preprocessor"
            )
        return self.normalisation.convert(self.images, other)


class Policy(nn.Module):
    """Scores superpatches, 2x2 patches each: the higher, the rather they share a token.

    A subclass that decides by a label map sets ``needs_labels``: the segmentor then carries one
    along with the images, through crops and flips. One that goes by predictions sets ``observes``:
    the segmentor then hands each of its own to ``observe``.
    """

    needs_labels = False
    observes = False

    @abstractmethod
    def forward(self, inputs: PolicyInput) -> Tensor:
        """Scores ``(B, ceil(h / 2), ceil(w / 2))`` of a grid of ``h x w`` patches."""

    def check_cell(self, cell: int) -> None:
        """Raise InputError where the policy is made for superpatches of another side in pixels."""

    def check(self) -> None:
        """Raise InputError where what the policy needs, such as weights, is not there.

        The tools call it before the first batch.
        """

    @contextmanager
    def frame(
        self, size: tuple[int, int], metas: Sequence[Mapping[str, Any]]
    ) -> Iterator[Tensor | None]:
        """Open while the segmentor predicts a batch, in one call of the policy or in windows.

        Args:
            size: ``(H, W)`` of the images as the network is fed.
            metas: What the pipeline noted of each image, such as ``img_path``.

        Yields:
            Label maps ``(B, H, W)`` to carry along instead of the ground truth; None without.
        """
        yield None

    def observe(self, prediction: Tensor) -> None:
        """Take the labels ``(B, H, W)`` that the segmentor predicted in the open frame."""
