"""Token sharing: what a policy decides becomes an assignment of patches to tokens (CTS)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.checks import is_number
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.merging import TokenAssignment, superpatch_sharing
from mmtokmerge.merging.superpatch_sharing import count_shared
from mmtokmerge.models.policies.base import Normalisation, Policy, PolicyInput
from mmtokmerge.registry import MODELS

KEYS = ("policy", "num_shared", "threshold")


class TokenSharing(nn.Module):
    """``P = p(I)`` and the part of ``t_s`` that says which patches share (CTS, section 3.2).

    Args:
        policy: Config of a policy.
        num_shared: S, superpatches of 2x2 patches that share a token in every image: an int, or a
            float as a fraction of the whole superpatches of the grid.
        threshold: Instead of a number, the score, from 0 to below 1, above which a superpatch
            shares: each image of a batch keeps its own number of tokens.
        patch_size: Side of a patch in pixels, to check that the policy scores 2x2 of them.

    Raises:
        TypeError: If the policy is none, or the number has the wrong type.
        ValueError: If both or none of num_shared and threshold are given, or out of range; at the
            first forward, if a grid has fewer superpatches.
    """

    def __init__(
        self,
        policy: Mapping[str, Any],
        num_shared: int | float | None = None,
        threshold: float | None = None,
        patch_size: int | None = None,
    ) -> None:
        super().__init__()
        if (num_shared is None) == (threshold is None):
            raise InputError(
                "sharing takes either num_shared or threshold, got "
                f"num_shared={num_shared!r} and threshold={threshold!r}"
            )
        self.num_shared, self.threshold = _read_number(num_shared), _read_threshold(threshold)
        built = MODELS.build(dict(policy))
        if not isinstance(built, Policy):
            raise InputTypeError(f"sharing.policy={policy!r} is no policy")
        if patch_size is not None:
            built.check_cell(2 * patch_size)
        self.policy = built
        self.normalisation: Normalisation | None = None
        self._labels: Tensor | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], patch_size: int | None = None) -> TokenSharing:
        """Build from a config's ``sharing``, for patches of ``patch_size`` pixels.

        Raises:
            TypeError: If it is no dict with a policy.
            ValueError: If it has a key that there is not.
        """
        if not isinstance(config, Mapping) or not isinstance(config.get("policy"), Mapping):
            raise InputTypeError(f"sharing must be a dict with a policy, got {config!r}")
        unknown = sorted(set(config) - set(KEYS))
        if unknown:
            raise InputError(
                f"sharing.{unknown[0]} is unknown, allowed are {', '.join(map(repr, KEYS))}"
            )
        return cls(**config, patch_size=patch_size)

    def forward(
        self, images: Tensor, hw: tuple[int, int], patch_size: int
    ) -> TokenAssignment | None:
        """Which of the ``h * w`` patches of ``images (B, 3, H, W)`` share; None where none do."""
        if min(hw) < 2 or (self.threshold is None and self._count(hw) == 0):
            return None
        inputs = PolicyInput(images, hw, patch_size, self.normalisation, self._labels)
        with torch.no_grad():
            scores = self.policy(inputs)
        if self.threshold is not None:
            return superpatch_sharing(scores, hw, threshold=self.threshold)
        return superpatch_sharing(scores, hw, num_shared=self._count(hw))

    def _count(self, hw: tuple[int, int]) -> int:
        return count_shared(self.num_shared or 0, hw)

    @contextmanager
    def given(self, labels: Tensor | None) -> Iterator[None]:
        """While open, the policy is given the label maps ``(B, H, W)`` of the images."""
        before, self._labels = self._labels, labels
        try:
            yield
        finally:
            self._labels = before

    def extra_repr(self) -> str:
        if self.threshold is not None:
            return f"threshold={self.threshold}"
        return f"num_shared={self.num_shared}"


def _read_number(number: int | float | None) -> int | float | None:
    if number is None:
        return None
    if not is_number(number):
        raise InputTypeError(f"sharing.num_shared must be an int or a fraction, got {number!r}")
    if number < 0 or (isinstance(number, float) and not number <= 1):
        raise InputError(
            f"sharing.num_shared={number} must be an int from 0 up, or a float from 0 to 1 as a "
            "fraction of the superpatches"
        )
    return number


def _read_threshold(threshold: float | None) -> float | None:
    if threshold is None:
        return None
    if not is_number(threshold):
        raise InputTypeError(f"sharing.threshold must be a number, got {threshold!r}")
    if not 0 <= threshold < 1:
        raise InputError(
            f"sharing.threshold={threshold} must be from 0 to below 1, as the scores are"
        )
    return float(threshold)
