"""The speed-up over the unmerged encoder that merging cannot pass while the rest stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from mmtokmerge.benchmark.candidate_flops import stage_costs
from mmtokmerge.benchmark.candidates import Candidate
from mmtokmerge.benchmark.options import Settings, Shape
from mmtokmerge.errors import InputError
from mmtokmerge.layers import MultiheadAttention
from mmtokmerge.measure.part_timing import part_shares
from mmtokmerge.measure.timing import Step
from mmtokmerge.merging.segformer.cost import StageCost

SHARE_RUNS = 10


@dataclass(frozen=True)
class Limits:
    """What a model reached of the speed-up that its reference allows.

    Args:
        reference: Name of our own unmerged model, with the same encoder.
        speedup: Images a second over the reference's, by medians.
        operations: FLOPs of the reference over this model's, matching included; None where they
            could not be counted.
        shares: What remains if attention and projections shrink with their operations and
            everything else takes as long as in the reference; None where it was not measured.
    """

    reference: str
    speedup: float
    operations: float | None
    shares: float | None

    def reached(self, limit: float | None) -> float | None:
        """The fraction of a limit that the speed-up is."""
        return None if limit is None else self.speedup / limit


def reference_of(candidates: Sequence[Candidate]) -> Candidate:
    """Our own model that merges nothing.

    Raises:
        InputError: If there is none.
    """
    for candidate in candidates:
        spec = candidate.encoder
        merges = candidate.reducers if spec is None else spec.merges
        if not candidate.is_baseline and not merges:
            return candidate
    raise InputError(
        "--limit compares with our own encoder that merges nothing, but every config merges: add "
        "one with merging='none', or without reducers."
    )


def same_network(one: Candidate, other: Candidate) -> bool:
    """Whether two models differ in nothing but merging, as far as the encoder goes."""
    if one.encoder is not None and other.encoder is not None:
        return one.encoder.arch == other.encoder.arch
    own, others = (getattr(each.model.backbone, "arch", None) for each in (one, other))
    return type(one.model.backbone) is type(other.model.backbone) and own == others


def attention_shares(reference: Candidate, step: Step, settings: Settings) -> list[float]:
    """The share of a step that projections and attention of each stage of MiT++ take."""
    stages = {
        f"attention of stage {number}": _attentions(blocks)
        for number, (_, blocks, _) in enumerate(reference.model.backbone.layers, 1)
    }
    shares = part_shares(step, stages, settings.device, min(settings.runs, SHARE_RUNS))
    return list(shares.values())


def limit_by_shares(
    shares: Sequence[float], full: Sequence[StageCost], merged: Sequence[StageCost]
) -> float:
    """``1 / (rest + sum over stages of share * merged operations / full operations)``.

    Args:
        shares: Shares of the unmerged step that projections and attention of each stage take.
        full: Cost of the stages unmerged.
        merged: Their cost merged; matching does not count, so that it is at best hidden.
    """
    left = [share * _work(b) / _work(a) for share, a, b in zip(shares, full, merged)]
    return 1 / (1 - sum(shares) + sum(left))


def shares_limits(
    candidates: Sequence[Candidate],
    reference: Candidate,
    shares: Sequence[float],
    shape: Shape,
) -> Mapping[str, float]:
    """:func:`limit_by_shares` of every model with the reference's encoder, by name."""
    if reference.encoder is None:
        return {}
    full = stage_costs(reference.encoder, shape)
    return {
        each.name: limit_by_shares(shares, full, stage_costs(each.encoder, shape))
        for each in candidates
        if each.encoder is not None and each.encoder.downsample == 1
    }


def _attentions(blocks: nn.Module) -> list[nn.Module]:
    return [module for module in blocks.modules() if isinstance(module, MultiheadAttention)]


def _work(stage: StageCost) -> int:
    return stage.projections + stage.attention
