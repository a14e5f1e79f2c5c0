"""The policy for videos: what the previous frame told decides for the next."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.dist import get_world_size
from torch import Tensor

from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.models.policies.base import Policy, PolicyInput
from mmtokmerge.models.policies.frozen import FrozenNetwork
from mmtokmerge.models.policies.oracle import uniformity
from mmtokmerge.registry import MODELS

PREDICTION = "prediction"


@MODELS.register_module()
class PreviousFramePolicy(Policy):
    """Decides for a frame by the one before it (CTS, section 5.5 and table 7c).

    With another policy as source, that policy scores frame t for use at frame t + 1; a deployment
    may then run it in parallel to the segmentation network, here it runs before. With the source
    'prediction', the label map that the segmentor itself predicted for the previous frame gives
    the scores as :class:`mmtokmerge.OraclePolicy` takes them from the ground truth, and no further
    network runs.

    It has a memory: frames come one at a time, in eval mode, in the order of their names, in which
    numbers count as numbers. It forgets at a frame of another sequence or size, when a sequence
    starts again with the frame it began with, and on :meth:`reset`. The same frame once more is
    answered as before. Images without a path go on with the sequence. Each sliding window goes by
    the same window of the previous frame.

    Args:
        source: Config of a policy, or 'prediction'.
        first: With 'prediction', the config of the policy for the first frame of a sequence; a
            policy as source scores the first frame itself.
        sequence: Regular expression that finds in a frame's ``img_path``, as its first group, the
            sequence that the frame is of; None takes the folder.

    Raises:
        TypeError: If a policy is none, or ``sequence`` no string.
        ValueError: If a setting is unknown, missing or would do nothing; at a frame, in training,
            for a batch of several, if ``sequence`` finds nothing, or out of order.
    """

    def __init__(
        self,
        source: Mapping[str, Any] | str,
        first: Mapping[str, Any] | None = None,
        sequence: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(source, str) and source != PREDICTION:
            raise InputError(
                f"sharing.policy.source={source!r} is unknown, allowed are a policy's config and "
                f"{PREDICTION!r}"
            )
        self.observes = source == PREDICTION
        if first is not None and not self.observes:
            raise InputError(
                "sharing.policy.first does nothing: a policy as source scores the first frame of a "
                f"sequence itself; first goes with source={PREDICTION!r}"
            )
        self.asked = _build(first, "first") if self.observes else _build(source, "source")
        self.needs_labels = self.asked.needs_labels
        self.sequence = _read_sequence(sequence)
        self.reset()

    def reset(self) -> None:
        """Forget: the next frame is the first of a sequence."""
        self._path: str | None = None
        self._name: str | None = None  # of the sequence
        self._opening: str | None = None
        self._size: tuple[int, int] | None = None
        # By window, in the order of a frame's windows; a prediction is of the whole frame.
        self._before: dict[int, Tensor] = {}
        self._now: dict[int, Tensor] = {}
        self._window: int | None = None  # the next one of the open frame

    def check(self) -> None:
        self.asked.check()

    @contextmanager
    def frame(
        self, size: tuple[int, int], metas: Sequence[Mapping[str, Any]]
    ) -> Iterator[Tensor | None]:
        self._check_use(len(metas))
        if metas[0].get("flip"):
            raise InputError("PreviousFramePolicy takes no flipped images: test without flips")
        self._step(metas[0].get("img_path"), size)
        self._window = 0
        try:
            yield self._before.get(0) if self.observes else None
        finally:
            self._window = None

    def observe(self, prediction: Tensor) -> None:
        # What is predicted while sharing is off is not for the next frame to go by.
        if self._window:
            self._now = {0: prediction}

    def forward(self, inputs: PolicyInput) -> Tensor:
        self._check_use(len(inputs.images))
        if self._window is not None:
            return self._score(inputs)
        if self.observes and self._path is None:
            raise InputError(
                f"PreviousFramePolicy with source={PREDICTION!r} works where predictions are made, "
                "under model.type='mmtokmerge.SharingEncoderDecoder', and nowhere else"
            )
        if self._path is not None:
            return self._aside(inputs)
        with self.frame((inputs.images.shape[2], inputs.images.shape[3]), [{}]):
            return self._score(inputs)

    def _aside(self, inputs: PolicyInput) -> Tensor:
        """Scores of a run between the frames of a video, such as a timed one; nothing moves on."""
        own, before = self.asked(inputs), self._before.get(0)
        return own if before is None or before.shape != own.shape else before.to(own.device)

    def _score(self, inputs: PolicyInput) -> Tensor:
        window = self._window or 0
        self._window = window + 1
        if not self.observes:
            self._now[window] = self.asked(inputs)
            return self._before.get(window, self._now[window]).to(inputs.images.device)
        if 0 in self._before and inputs.labels is not None:  # the labels are those, carried along
            return uniformity(inputs.labels, 2 * inputs.patch_size, inputs.cells)
        return self.asked(inputs)

    def check_cell(self, cell: int) -> None:
        self.asked.check_cell(cell)

    def _check_use(self, images: int) -> None:
        if get_world_size() > 1:
            raise InputError(
                "PreviousFramePolicy goes by the order of frames, which several processes deal out "
                "among them: test with one"
            )
        if self.training:
            raise InputError(
                "PreviousFramePolicy goes by the order of frames, which training does not have: "
                "train with the policy that it asks, and set it for the test"
            )
        if images != 1:
            raise InputError(
                f"PreviousFramePolicy takes one frame at a time, got a batch of {images}: set "
                "batch_size=1 for the test"
            )

    def _step(self, path: str | None, size: tuple[int, int]) -> None:
        """Go on to a frame: what was found for the last becomes what decides, or is forgotten."""
        if path is not None and path == self._path:
            if size != self._size:
                raise InputError(
                    f"PreviousFramePolicy got the frame {path} in two sizes, {_text(self._size)} "
                    f"and {_text(size)}: test at a single scale"
                )
            return
        name = None if path is None else self._name_of(path)
        if size != self._size or self._starts(path, name):
            self.reset()
            self._opening = path
        elif self._now:
            self._before, self._now = self._now, {}
        self._path, self._name, self._size = path, name, size

    def _starts(self, path: str | None, name: str | None) -> bool:
        """Whether a frame is the first of a sequence.

        Raises:
            ValueError: If it is of the same sequence as the last frame, but of a time before.
        """
        if path is None or self._path is None:
            return False
        if path == self._opening or name != self._name:
            return True
        if _order(path) < _order(self._path):
            raise InputError(
                f"PreviousFramePolicy got the frame {path} after {self._path}: frames of a "
                "sequence must come in the order of their names, without shuffle; sequences are "
                "told apart by sharing.policy.sequence"
            )
        return False

    def _name_of(self, path: str) -> str:
        """The sequence that a frame is of."""
        if self.sequence is None:
            return os.path.dirname(path)
        found = self.sequence.search(path)
        if found is None or found[1] is None:
            raise InputError(
                f"sharing.policy.sequence={self.sequence.pattern!r} finds no sequence in {path}"
            )
        return found[1]


def _build(config: Any, key: str) -> Policy:
    if not isinstance(config, Mapping):
        raise InputTypeError(f"sharing.policy.{key} must be a policy's config, got {config!r}")
    built = MODELS.build(dict(config))
    if not isinstance(built, Policy) or isinstance(built, PreviousFramePolicy):
        raise InputTypeError(f"sharing.policy.{key}={config!r} is no policy for a single frame")
    network = getattr(built, "network", None)
    if isinstance(network, FrozenNetwork):
        network.key = f"sharing.policy.{key}.checkpoint"
    return built


def _read_sequence(sequence: str | None) -> re.Pattern[str] | None:
    if sequence is None:
        return None
    if not isinstance(sequence, str):
        raise InputTypeError(
            f"sharing.policy.sequence must be a regular expression, got {sequence!r}"
        )
    try:
        pattern = re.compile(sequence)
    except re.error as error:
        raise InputError(
            f"sharing.policy.sequence={sequence!r} is no regular expression: {error}"
        ) from error
    if not pattern.groups:
        raise InputError(
            f"sharing.policy.sequence={sequence!r} has no group, such as in '([^/]+)_[0-9]+.png'"
        )
    return pattern


def _order(path: str) -> list[Any]:
    """What sorts names by the numbers in them: strings and numbers in turn."""
    parts = re.split("([0-9]+)", path)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _text(size: tuple[int, int] | None) -> str:
    return "none" if size is None else f"{size[0]}x{size[1]}"
