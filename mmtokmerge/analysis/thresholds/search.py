"""The smallest threshold that costs no mIoU, and what every other threshold gives (ALGM*)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from mmtokmerge.analysis.experiment import ResultStore, Values
from mmtokmerge.analysis.front import crossing
from mmtokmerge.measure.evaluate import EvalSpec, Measurement, Setting, measure
from mmtokmerge.models.overrides import THRESHOLD, merging_as, without_merging

BASELINE: Values = {"reduction": "none"}
CONFIGURED: Values = {"reduction": "as configured"}
Progress = Callable[[str], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class Target:
    """A wanted throughput and what reached it (ALGM, table 9).

    Args:
        speed: Wanted, relative to the baseline.
        found: What was measured at the interpolated threshold; None where no threshold reaches it.
    """

    speed: float
    found: Measurement | None


@dataclass
class Search:
    """Measures settings of one model's reducers once each.

    Args:
        model: A segmentor with a plain ViT, in eval mode.
        baseline: The model whose mIoU counts as unmerged: the same one, or one trained without.
        spec: Images, metric, timing.
        store: Where finished settings are kept.
        progress: Makes a context, named by a setting, that gives what is called after each image.
        name: What is searched over: 'threshold', or 'num_merged' for ToMe.
    """

    model: nn.Module
    baseline: nn.Module
    spec: EvalSpec
    store: ResultStore
    progress: Progress
    name: str = THRESHOLD
    measured: dict[float, Measurement] = field(default_factory=dict)
    """By value of ``name``."""

    def run_baseline(self) -> Measurement:
        """Measure the model whose mIoU is to be kept, without merging."""
        plain = Setting(BASELINE, self.baseline, partial(without_merging, self.baseline.backbone))
        return self._measure(plain, plain)

    def run_configured(self) -> Measurement:
        """Measure the model with the thresholds that its config and checkpoint give."""
        return self._measure(Setting(CONFIGURED, self.model), self._reference())

    def run(self, value: float) -> Measurement:
        """Measure one value of ``name``, the same for all reducers that have it."""
        backbone = self.model.backbone
        setting = Setting(
            {self.name: value}, self.model, lambda: merging_as(backbone, {self.name: value})
        )
        self.measured[value] = self._measure(setting, self._reference())
        return self.measured[value]

    def refine(self, quality: float, steps: int) -> None:
        """Halve the gap below the smallest threshold that keeps ``quality``, ``steps`` times."""
        for _ in range(steps):
            star = self.star(quality)
            below = [tau for tau in self.measured if star is not None and tau < star]
            if star is None or not below:
                return
            self.run(round((star + max(below)) / 2, 6))

    def star(self, quality: float) -> float | None:
        """ALGM*: the smallest threshold measured whose mIoU is not below ``quality``.

        Of numbers of merged tokens it is the largest.
        """
        kept = [value for value, each in self.measured.items() if each.miou >= quality]
        return (min if self.name == THRESHOLD else max)(kept, default=None)

    def reach(self, speed: float) -> Target:
        """Measure the threshold at which, between two measured ones, a throughput is expected."""
        points = [(tau, each.speed) for tau, each in self.measured.items()]
        tau = crossing([*points, (1.0, 1.0)], speed)
        return Target(speed, None if tau is None else self.run(round(tau, 6)))

    def _reference(self) -> Setting:
        return Setting(BASELINE, self.model, partial(without_merging, self.model.backbone))

    def _measure(self, setting: Setting, reference: Setting) -> Measurement:
        record = self.store.get(setting.values)
        if record is None:
            with self.progress(describe(setting.values)) as advance:
                found = measure(setting, reference, self.spec, advance)
            self.store.put(setting.values, found.to_json())
            return found
        return Measurement.from_json(record)


def describe(values: Values) -> str:
    """A setting in words."""
    if values == BASELINE:
        return "no merging"
    if values == CONFIGURED:
        return "as configured"
    return ", ".join(
        f"tau {value:g}" if name == THRESHOLD else f"{value:g} merged a layer"
        for name, value in values.items()
    )


def even_steps(low: float, high: float, count: int) -> list[float]:
    """``count`` numbers from ``low`` to ``high``, evenly spaced."""
    if count == 1:
        return [high]
    return [round(low + (high - low) * step / (count - 1), 6) for step in range(count)]
