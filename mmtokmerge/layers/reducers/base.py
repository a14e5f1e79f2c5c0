"""What every reducer of tokens has: where it acts, on what, and what it does with a group."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.checks import boolean, is_number, is_whole, number_in, one_of
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.merging import TokenAssignment

BETWEEN, AFTER = "between", "after"
POSITIONS = (BETWEEN, AFTER)
FEATURES = ("X", "K", "Q", "V")
CLASS_ATTENTION = "class"
"""What a reducer gets that asks for no feature of the tokens but for how much the class token
attends to each: ``(B, M, 1)``, the mean over the heads."""
OPERATIONS = ("mean", "random", "max")
COUNTS = ("batch", "image")


class Reducer(nn.Module):
    """Merges tokens in one layer or several; a subclass says which stand together.

    Args:
        layer: Layer that it acts in, counted from 1, or a list of layers.
        position: 'between' attention and MLP, or 'after' the MLP (ALGM, table 10b).
        feature: What is compared: the tokens 'X', or the keys 'K', queries 'Q' or values 'V' of the
            layer's attention, averaged over the heads (ALGM, table 10f).
        operation: A group becomes the 'mean' of its tokens, weighted by what they stand for, or a
            'random' one of them (ALGM, table 10c), or in each channel the 'max', the value farthest
            from zero (CubistMerge).
        reduce: False gives every token of a group the group's value and keeps them all (ALGM, table
            6: denoising without balancing).

    Raises:
        TypeError: If a layer is not an int.
        ValueError: If a layer is below 1 or named twice, or a word is unknown.
    """

    def __init__(
        self,
        layer: int | Sequence[int],
        position: str = "between",
        feature: str = "X",
        operation: str = "mean",
        reduce: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _read_layers(layer)
        for name, value, allowed in (
            ("position", position, POSITIONS),
            ("feature", feature, FEATURES),
            ("operation", operation, OPERATIONS),
        ):
            one_of(name, value, allowed)
        boolean("reduce", reduce)
        self.position = position
        self.feature = feature
        self.operation = operation
        self.reduce = reduce

    @abstractmethod
    def match(
        self, feature: Tensor, assignment: TokenAssignment | None, hw: tuple[int, int]
    ) -> TokenAssignment:
        """Which rows stand together.

        Args:
            feature: ``(B, M, D)`` what is compared, one row for each group of ``assignment``.
            assignment: From the N patches to the M rows; None where nothing has merged yet.
            hw: The grid of the patches.

        Returns:
            An assignment of the M rows.
        """

    def weights(self, feature: Tensor, sizes: Tensor | None) -> Tensor | None:
        """What the rows of a group are averaged by, ``(B, M)``: what they stand for.

        Args:
            feature: ``(B, M, D)`` what was compared.
            sizes: ``(B, M)`` patches that each row stands for; None where each is one.
        """
        return sizes

    def num_groups(self, num_tokens: int, grid: tuple[int, int]) -> int | None:
        """Tokens that one of its layers leaves of ``num_tokens``; None where the image decides."""
        return None

    def forward(
        self,
        tokens: Tensor,
        feature: Tensor,
        assignment: TokenAssignment | None,
        hw: tuple[int, int],
    ) -> tuple[Tensor, TokenAssignment | None, TokenAssignment]:
        """Merge tokens.

        Args:
            tokens: ``(B, M, C)``, the class token not among them.
            feature: ``(B, M, D)`` what is compared.
            assignment: From the N patches to the M rows; None where nothing has merged yet.
            hw: The grid of the patches.

        Returns:
            The tokens ``(B, M', C)``; the assignment of the N patches to the M' rows; and the step
            that this reducer made, an assignment of the M rows.
        """
        step = self.match(feature, assignment, hw)
        sizes = None if assignment is None else assignment.sizes.expand(tokens.shape[0], -1)
        weights = self.weights(feature, sizes)
        if self.operation == "max":
            rows = step.strongest(tokens, sizes)
        else:
            rows = (step.pick if self.operation == "random" else step.merge)(tokens, weights)
        if not self.reduce:
            return step.unmerge(rows), assignment, step
        return rows, step if assignment is None else assignment.compose(step), step

    def extra_repr(self) -> str:
        return f"layer={self.layers}, position={self.position!r}, feature={self.feature!r}"


class ThresholdReducer(Reducer):
    """Merges what is more similar than a threshold, so that every image keeps its own number.

    Args:
        threshold: Cosine above which tokens merge, or 'auto': the number that
            ``tools/calibrate_threshold.py`` wrote into the checkpoint.
        count: In training, every image of a batch merges as many as the one that merges least
            ('batch', ALGM, section 3.3), or as many as its own ('image'). At inference each image
            always keeps its own number.
        max_tokens: Tokens that an image keeps at most, an int, or a float as a fraction of the
            patches; None for as many as the threshold leaves. An image that would keep more merges
            its next similar tokens too, others are padded: the shapes are known, which graphs,
            exports and compilers need. ``mmtokmerge export --cap`` finds it on training images.
        **kwargs: Arguments of :class:`Reducer`.

    Raises:
        TypeError: If the threshold is neither a number nor 'auto', or max_tokens no number.
        ValueError: If a word is unknown; at the first forward, if 'auto' found no number.
    """

    def __init__(
        self,
        threshold: float | str = "auto",
        count: str = "batch",
        max_tokens: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_tokens = _read_most(max_tokens)
        if max_tokens is not None and not self.reduce:
            raise InputError("max_tokens does nothing with reduce=False, which keeps all tokens")
        if isinstance(threshold, str) and threshold != "auto":
            raise InputTypeError(f"threshold must be a number or 'auto', got {threshold!r}")
        if threshold != "auto":
            number_in("threshold", threshold, -1, 1)
        one_of("count", count, COUNTS)
        self.auto = threshold == "auto"
        self.count = count
        self._known = not self.auto
        value = torch.tensor(math.nan if self.auto else float(threshold))
        self.tau: Tensor
        self.register_buffer("tau", value, persistent=self.auto)

    @property
    def threshold(self) -> Tensor:
        """The threshold, a scalar on the module's device.

        Raises:
            ValueError: If it is 'auto' and no checkpoint brought a number.
        """
        if not self._known:
            if bool(self.tau.isnan()):
                raise InputError(
                    f"threshold='auto' of {type(self).__name__} found no threshold: run "
                    "tools/calibrate_threshold.py, then test the checkpoint that it writes, or "
                    "name it as backbone.calibration to train, or give a number"
                )
            self._known = True
        return self.tau

    @threshold.setter
    def threshold(self, value: float) -> None:
        self.tau.fill_(value)
        self._known = not math.isnan(value)

    def most(self, grid: tuple[int, int]) -> int | None:
        """Tokens that an image keeps at most; None for as many as the threshold leaves."""
        if isinstance(self.max_tokens, float):
            return max(1, math.ceil(self.max_tokens * grid[0] * grid[1] - 1e-6))
        return self.max_tokens

    def num_groups(self, num_tokens: int, grid: tuple[int, int]) -> int | None:
        """See :class:`Reducer`: known with ``max_tokens``."""
        most = self.most(grid)
        return None if most is None else min(most, num_tokens)

    @property
    def shares_count(self) -> bool:
        """Whether the images of a batch merge the same number now."""
        return self.training and self.count == "batch"

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        tau = self.tau  # a cast of the model to half precision must not move the threshold
        # torch gives _apply no types.
        super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        if self.tau.dtype != tau.dtype:
            self.tau = tau.to(self.tau.device)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        brought = state_dict.get(f"{prefix}tau")
        if self.auto and brought is not None:
            self._known = not bool(brought.isnan())  # asked here, not in a forward

    def extra_repr(self) -> str:
        shown = "'auto'" if self.auto else f"{float(self.tau):.4g}"
        capped = "" if self.max_tokens is None else f", max_tokens={self.max_tokens}"
        return f"{super().extra_repr()}, threshold={shown}{capped}"


def read_share(keep: Any) -> float:
    """A share of tokens that is left, above 0, at most 1.

    Raises:
        ValueError: It is not.
    """
    if number_in("keep", keep, 0, 1) == 0:
        raise InputError("keep must be above 0, got 0")
    return float(keep)


def sizes_if_padded(assignment: TokenAssignment | None, batch: int) -> Tensor | None:
    """Patches that each row stands for, ``(batch, M)``; None where no row is padding."""
    if assignment is None or not assignment.padded:
        return None
    return assignment.sizes.expand(batch, -1)


def refuse_padded(reducer: Reducer, assignment: TokenAssignment | None) -> None:
    """Raise where a reducer that leaves every image as many tokens meets different numbers.

    Raises:
        InputError: It does.
    """
    if assignment is not None and assignment.padded:
        raise InputError(
            f"{type(reducer).__name__} merges the same number of tokens of every image, but a "
            "reducer before it left the images of this batch with different numbers: use batches "
            "of 1"
        )


def _read_most(value: Any) -> int | float | None:
    if value is None:
        return None
    if not is_number(value):
        raise InputTypeError(f"max_tokens must be an int or a fraction, got {value!r}")
    if value <= 0 or (isinstance(value, float) and not value <= 1):
        raise InputError(
            f"max_tokens={value} must be an int from 1 up, or a float above 0, at most 1, as a "
            "fraction of the patches"
        )
    return value


def _read_layers(layer: int | Sequence[int]) -> tuple[int, ...]:
    layers = (layer,) if isinstance(layer, int) else layer
    if not isinstance(layers, (list, tuple)) or any(not is_whole(number) for number in layers):
        raise InputTypeError(f"layer must be an int or a list of ints, got {layer!r}")
    if not layers or min(layers) < 1:
        raise InputError(f"layer counts from 1, got {layer!r}")
    if len(set(layers)) < len(layers):
        raise InputError(f"layer names a layer twice: {layer!r}")
    return tuple(layers)
