"""What was measured of one model at one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from mmtokmerge.benchmark.limit import Limits
from mmtokmerge.benchmark.options import Shape
from mmtokmerge.benchmark.policy_cost import PolicyCost
from mmtokmerge.measure.timing import Summary, summarise


@dataclass
class Result:
    """One candidate at one shape; None where it did not run or a value could not be had.

    Args:
        shape: Image ``(H, W)`` in pixels.
        name: The name of the candidate.
        is_baseline: Whether others are compared with it.
        batch_size: Images of a step.
        samples: Milliseconds of each step, in the order of the rounds; with ``images`` the median
            of the rounds for each image of the set.
        setup: Seconds until the first step had ended: exporting, compiling, and the step.
        peak_memory: MiB of weights, optimizer state and what a step adds.
        flops: FLOPs of the forward pass of one image.
        flops_source: How they were found.
        tokens: For each stage of MiT++ its grid ``(h, w)``, the queries kept and the keys kept.
        kept: Patches of a plain ViT, and the tokens after each of its reducers, for one image.
        merging_share: Share of the step that a plain ViT's reducers take.
        policy: What the policy of a plain ViT's sharing costs; it is part of all else.
        speedup: For each baseline its time for an image over this one's, by medians; with
            ``images`` the mean of that ratio over the images.
        limits: What merging could reach.
        images: Real images; None on noise.
        note: Why it did not run.
    """

    shape: Shape
    name: str
    is_baseline: bool
    batch_size: int | None = None
    samples: list[float] = field(default_factory=list)
    setup: float | None = None
    peak_memory: float | None = None
    flops: int | None = None
    flops_source: str = ""
    tokens: list[tuple[tuple[int, int], int, int]] | None = None
    kept: dict[str, float] = field(default_factory=dict)
    merging_share: float | None = None
    policy: PolicyCost | None = None
    speedup: dict[str, float] = field(default_factory=dict)
    limits: Limits | None = None
    images: int | None = None
    note: str = ""

    @property
    def latency(self) -> Summary | None:
        """Milliseconds of a step."""
        return summarise(self.samples) if self.samples else None

    @property
    def images_per_second(self) -> float | None:
        """Images a second: at the median, or the mean over real images."""
        if self.latency is None or self.batch_size is None:
            return None
        if self.images is not None:
            return fmean(self.batch_size * 1e3 / sample for sample in self.samples)
        return self.batch_size * 1e3 / self.latency.median

    @property
    def steps_per_second(self) -> float | None:
        """Steps a second at the median."""
        return None if self.latency is None else 1e3 / self.latency.median


def compare(results: Sequence[Result]) -> None:
    """Set the speed-ups of one shape: images a second over those of each baseline."""
    for baseline in (each for each in results if each.is_baseline and each.samples):
        for result in (each for each in results if each.samples):
            result.speedup[baseline.name] = ratio(result, baseline)


def ratio(result: Result, base: Result) -> float:
    """Images a second of one over those of the other; of each image first, where they are real."""
    if result.images is not None:
        return fmean(other / own for own, other in zip(result.samples, base.samples))
    return (result.images_per_second or 0) / (base.images_per_second or 1)
