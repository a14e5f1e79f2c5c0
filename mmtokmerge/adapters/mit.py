"""What SegFormer's encoders of all hosts share: stages of layers that merge around attention."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmtokmerge.adapters.base import Replacement, kind_of, replace_child
from mmtokmerge.adapters.report import EncoderPlan, LayerChange, Report, Size, TokenCount
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.attention import attend
from mmtokmerge.kernels.plain import call_linear, has_hooks
from mmtokmerge.layers.attention import MergingAttention, reduce_grid
from mmtokmerge.layers.mix_ffn import MixParts
from mmtokmerge.merging import StageMerging, read_merging
from mmtokmerge.merging.segformer.arch import MiTArch
from mmtokmerge.merging.segformer.cost import encoder_cost, total_macs


@dataclass(frozen=True)
class Kind:
    """How one host builds a layer.

    Args:
        attention: The layer's name of its attention.
        mlp: The layer's name of its MixFFN.
        attentions: The host's classes of attention, and what stands for each.
        mlps: The host's classes of MixFFN, and what stands for each.
        heads: Reads the heads of an attention.
        sr_ratio: Reads the spatial reduction of an attention.
        hidden: Reads the hidden channels of a MixFFN.
    """

    attention: str
    mlp: str
    attentions: dict[str, type[Replacement]]
    mlps: dict[str, type[Replacement]]
    heads: Callable[[Any], int]
    sr_ratio: Callable[[Any], int]
    hidden: Callable[[Any], int]


@dataclass(frozen=True)
class Stage:
    """One stage of a host's encoder.

    Args:
        path: The dotted name of its layers' list, from the encoder.
        layers: The layers of the stage.
        patches: The convolution of its patch embedding.
    """

    path: str
    layers: Iterable[nn.Module]
    patches: Any


class HostAttention(Replacement, MergingAttention):
    """In the place of a host's attention; a subclass says where the host has its parameters."""

    own = ("merging",)

    def attend_by(
        self, q: Tensor, kv: Tensor, bias: Tensor | None, layers: Sequence[Any], heads: int
    ) -> Tensor:
        """Attend with three linear layers ``(query, key, value)``: ``(B, N, C)``."""
        queries, keys, values = (
            call_linear(layer, x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for layer, x in zip(layers, (q, kv, kv))
        )
        y = attend(queries, keys, values, bias, dropout=self.dropped())
        return y.transpose(1, 2).flatten(2)

    def reduce(self, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """See :class:`MergingAttention`: by the host's ``sr`` and ``norm``, if named so."""
        return self.reduce_by(x, hw, self.sr_ratio, lambda: (self.sr, self.norm))

    def reduce_by(
        self,
        x: Tensor,
        hw: tuple[int, int],
        ratio: int,
        parts: Callable[[], tuple[nn.Module, nn.Module]],
    ) -> tuple[Tensor, tuple[int, int]]:
        """Reduce by a convolution and a norm, which are asked for where the ratio is above 1."""
        if ratio == 1:
            return x, hw
        sr, norm = parts()
        return reduce_grid(x, hw, sr, norm, int(ratio), self.merging.kv is not None)

    def dropped(self) -> float:
        """Probability of dropping an attention weight now."""
        return self.drop_rate() if self.training else 0.0

    @abstractmethod
    def drop_rate(self) -> float:
        """The host's probability of dropping an attention weight in training."""


class HostMixFFN(Replacement):
    """In the place of a host's MixFFN that takes tokens and their grid; products channels-last."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """As the host's: ``(B, h*w, C)``."""
        parts = self.parts()
        if parts.are_plain() and not has_hooks(self.dwconv):
            return parts.feed(x, (height, width))
        out: Tensor = self.host_forward(x, height, width)
        return out

    @abstractmethod
    def parts(self) -> MixParts:
        """The host's modules, in the order in which they act."""


def check(merging: Any, proportional: bool | None, given: Mapping[str, Any]) -> None:
    """Refuse a setting that is wrong, before anything is changed.

    Raises:
        InputError: It is, or an option is given that a SegFormer does not have.
    """
    for name, value in given.items():
        if name != "proportional":
            raise InputError(f"{name}={value!r} is for plain ViTs, and this is a SegFormer")
    settings = read_merging(merging, proportional)
    if any(setting.reuse > 1 for setting in settings):
        raise InputError("merging: reuse is for mmtokmerge.MiTPlusPlus, not for a host's encoder")


def apply_to_stages(
    host: str,
    kind: Kind,
    stages: Sequence[Stage],
    path: str,
    merging: Any,
    proportional: bool | None,
) -> Report:
    """Put merging into the layers of one encoder.

    Args:
        host: The host's name for the report.
        kind: How it builds a layer.
        stages: The four stages of the encoder.
        path: The encoder's dotted name in the model.
        merging: A preset's name or four stage dicts, see :func:`mmtokmerge.merging.read_merging`.
        proportional: As in :class:`mmtokmerge.MiTPlusPlus`.

    Raises:
        InputError: The layers are of a version that is not known, or a setting is wrong.
    """
    settings = read_merging(merging, proportional)
    if len(stages) != 4:
        raise InputError(f"{host}: merging is for encoders of four stages, got {len(stages)}")
    unknown = _unknown(kind, next(iter(stages[0].layers)))
    if unknown:
        raise InputError(f"nothing of {host} could be changed: {unknown}")
    report = Report(host, merging, MiTPlan(_read_sizes(kind, stages), settings))
    for stage, setting in zip(stages, settings):
        for number, layer in enumerate(stage.layers):
            where = ".".join(filter(None, (path, stage.path, str(number))))
            _change(kind, layer, setting, where, report)
    if not report.layers:
        reasons = sorted({why for _, why in report.left_alone})
        raise InputError(f"nothing of {host} could be changed: {'; '.join(reasons)}")
    return report


def _change(kind: Kind, layer: Any, setting: StageMerging, where: str, report: Report) -> None:
    unknown = _unknown(kind, layer)
    if unknown:
        report.left_alone.append((where, unknown))
        return
    parts = []
    for name, table, attributes in (
        (kind.attention, kind.attentions, dict(merging=setting)),
        (kind.mlp, kind.mlps, {}),
    ):
        try:
            replace_child(layer, name, table[kind_of(getattr(layer, name))], **attributes)
            parts.append(name)
        except InputError as why:
            report.left_alone.append((f"{where}.{name}", str(why)))
    if parts:
        report.layers.append(LayerChange(where, " and ".join(parts)))


def _unknown(kind: Kind, layer: Any) -> str:
    """Why a layer cannot be changed, '' where it can."""
    found = [kind_of(getattr(layer, name, None)) for name in (kind.attention, kind.mlp)]
    if found[0] in kind.attentions and found[1] in kind.mlps:
        return ""
    return f"its attention and MLP are {found[0]} and {found[1]}, which this version does not know"


class MiTPlan(EncoderPlan):
    """Tokens and operations of SegFormer's encoder, by :func:`encoder_cost`.

    Args:
        arch: Sizes of the encoder.
        settings: What each stage merges.
    """

    def __init__(self, arch: MiTArch, settings: Sequence[StageMerging]) -> None:
        self.arch = arch
        self.settings = settings

    def heads(self) -> Sequence[str]:
        """See :class:`EncoderPlan`."""
        return "queries", "keys and values"

    def rows(self, size: Size) -> list[tuple[Any, ...]]:
        """See :class:`EncoderPlan`."""
        rows = []
        for index, cost in enumerate(encoder_cost(self.arch, self.settings, size)):
            counts = (
                TokenCount(grid[0] * grid[1], left)
                for grid, left in ((cost.grid, cost.queries), (cost.reduced_grid, cost.keys))
            )
            rows.append((f"stage {index + 1}", self.arch.num_layers[index], *counts))
        return rows

    def macs(self, size: Size) -> tuple[int, int]:
        """See :class:`EncoderPlan`."""
        before, after = (
            total_macs(encoder_cost(self.arch, settings, size))
            for settings in ([StageMerging()] * 4, self.settings)
        )
        return before, after


@dataclass(frozen=True)
class HostArch(MiTArch):
    """Sizes of a host's encoder, whose channels need be no multiple of its heads.

    Args:
        widths: Channels of each stage.
    """

    widths: tuple[int, ...] = ()

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return self.widths


def _read_sizes(kind: Kind, stages: Sequence[Stage]) -> HostArch:
    """The encoder's sizes, as its modules say."""
    first = [next(iter(stage.layers)) for stage in stages]
    attentions = [getattr(layer, kind.attention) for layer in first]
    patches = [stage.patches for stage in stages]
    widths = tuple(int(conv.out_channels) for conv in patches)
    return HostArch(
        embed_dims=widths[0],
        num_layers=_four(len(list(stage.layers)) for stage in stages),
        num_heads=_four(map(kind.heads, attentions)),
        sr_ratios=_four(map(kind.sr_ratio, attentions)),
        patch_sizes=_four(conv.kernel_size[0] for conv in patches),
        strides=_four(conv.stride[0] for conv in patches),
        mlp_ratio=kind.hidden(getattr(first[0], kind.mlp)) // widths[0],
        widths=widths,
    )


def _four(values: Iterable[Any]) -> tuple[int, int, int, int]:
    first, second, third, fourth = (int(value) for value in values)
    return first, second, third, fourth
