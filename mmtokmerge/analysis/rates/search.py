"""A search for the merging of MiT++ that no other beats in mIoU and speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from random import Random
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.analysis.experiment import ResultStore
from mmtokmerge.analysis.front import pareto_front
from mmtokmerge.analysis.rates.space import (
    Merging,
    changes,
    merges_no_more,
    merging_config,
    mix,
    presets,
)
from mmtokmerge.measure.evaluate import EvalSpec, Measurement, Setting, measure
from mmtokmerge.measure.inputs import network_inputs
from mmtokmerge.measure.timing import cuda_timer, interleave, wall_timer
from mmtokmerge.models.overrides import merging_as

Progress = Callable[[Merging], AbstractContextManager[Callable[[], None]]]

TIMED_IMAGES = 3
TIMED_ROUNDS = 3
TIMED_PER_TESTED = 4
"""How many settings may be timed for each one that is tested."""
MIX_SHARE = 0.25
"""How often two settings of the front are mixed; else one of them is changed."""
TRIES = 50


@dataclass(frozen=True)
class Tested:
    """A setting and what it reached.

    Args:
        number: Counted from 1 in the order of the search.
        merging: The setting.
        found: What was measured.
    """

    number: int
    merging: Merging
    found: Measurement

    @property
    def miou(self) -> float:
        """Mean intersection over union, in percent."""
        return self.found.miou

    @property
    def speed(self) -> float:
        """Throughput relative to no merging."""
        return self.found.speed


@dataclass
class RateSearch:
    """Tests the presets, then changes of whatever is on the front.

    A setting is first timed on a few images. It is not tested where it is no faster than no
    merging, or no faster than a tested setting that merges no more in any stage: more merging is
    taken to give no better mIoU.

    Args:
        model: A segmentor with a MiT++ in eval mode.
        spec: Images, metric, timing.
        store: Where finished settings are kept; with them a search takes the same way again.
        progress: Makes a context, named by a setting, that gives what is called after each image.
        budget: Settings to test besides the presets and the config's own merging.
        seed: Random seed of the search.
    """

    model: nn.Module
    spec: EvalSpec
    store: ResultStore
    progress: Progress
    budget: int
    seed: int = 0
    tested: dict[Merging, Tested] = field(default_factory=dict)
    skipped: dict[Merging, str] = field(default_factory=dict)
    """Settings that were only timed, and why."""
    _images: list[Tensor] = field(default_factory=list)

    @property
    def baseline(self) -> Tested:
        """Without merging."""
        return self.tested[presets()["none"]]

    def front(self) -> list[Tested]:
        """What nothing tested beats, from the slowest to the fastest."""
        return pareto_front(list(self.tested.values()))

    def run(self) -> None:
        """Search until the budget is spent or nothing new is found."""
        backbone: Any = self.model.backbone
        for known in dict.fromkeys([*presets().values(), tuple(backbone.merging)]):
            self._test(known)
        begun, rng = len(self.tested), Random(self.seed)
        while len(self.tested) - begun < self.budget:
            if len(self.skipped) >= (TIMED_PER_TESTED - 1) * self.budget:
                return
            merging = self._propose(rng)
            if merging is None:
                return
            self._try(merging)

    def _propose(self, rng: Random) -> Merging | None:
        """A new setting near the front; None where none is found."""
        parents = [each.merging for each in self.front()]
        backbone: Any = self.model.backbone
        for _ in range(TRIES):
            merging = rng.choice(parents)
            if len(parents) > 1 and rng.random() < MIX_SHARE:
                merging = mix(merging, rng.choice(parents), rng)
            else:
                for _ in range(rng.choice((1, 1, 2))):
                    merging = rng.choice(changes(merging, backbone.arch.num_layers))
            if merging not in self.tested and merging not in self.skipped:
                return merging
        return None

    def _try(self, merging: Merging) -> None:
        """Time a setting, and test it where it may be worth it."""
        record = self.store.get(_values(merging))
        if record is None:
            speed = self._quick_speed(merging)
            reason = self._hopeless(merging, speed)
            if reason is not None:
                record = {"values": _values(merging), "speed": speed, "skipped": reason}
                self.store.put(_values(merging), record)
        if record is not None and "skipped" in record:
            self.skipped[merging] = record["skipped"]
        else:
            self._test(merging)

    def _hopeless(self, merging: Merging, speed: float) -> str | None:
        """Why a setting need not be tested, None where it should."""
        if speed <= 1:
            return "no faster than no merging"
        for other in self.tested.values():
            if other.speed >= speed and merges_no_more(other.merging, merging):
                return f"no faster than number {other.number}, which merges no more"
        return None

    def _test(self, merging: Merging) -> None:
        setting, reference = self._setting(merging), self._setting(presets()["none"])
        record = self.store.get(setting.values)
        if record is None:
            same = setting.values == reference.values
            with self.progress(merging) as advance:
                found = measure(reference if same else setting, reference, self.spec, advance)
            self.store.put(setting.values, found.to_json())
        else:
            found = Measurement.from_json(record)
        self.tested[merging] = Tested(len(self.tested) + 1, merging, found)

    @torch.no_grad()
    def _quick_speed(self, merging: Merging) -> float:
        """Throughput relative to no merging on a few images, timed in turn."""
        settings = {
            "own": self._setting(merging),
            "reference": self._setting(presets()["none"]),
        }
        timer = cuda_timer if self.spec.device.startswith("cuda") else wall_timer
        totals = dict.fromkeys(settings, 0.0)
        for image in self._timed_images():
            steps = {name: partial(_run, setting, image) for name, setting in settings.items()}
            interleave(steps, 1, timer)  # warms up
            for name, times in interleave(steps, TIMED_ROUNDS, timer).items():
                totals[name] += median(times)
        return totals["reference"] / totals["own"]

    def _timed_images(self) -> Sequence[Tensor]:
        if not self._images:
            for batch in islice(self.spec.samples, TIMED_IMAGES):
                self._images.extend(network_inputs(self.model, batch, self.spec.shape))
        return self._images

    def _setting(self, merging: Merging) -> Setting:
        backbone = self.model.backbone
        return Setting(_values(merging), self.model, lambda: merging_as(backbone, merging))


def choose(search: RateSearch, max_loss: float) -> Tested:
    """The fastest setting that loses at most ``max_loss`` points of mIoU against no merging."""
    enough = search.baseline.miou - max_loss
    good = [each for each in search.tested.values() if each.miou >= enough]
    return max(good, key=lambda each: (each.speed, each.miou), default=search.baseline)


def _values(merging: Merging) -> Mapping[str, Any]:
    return {"merging": merging_config(merging)}


def _run(setting: Setting, image: Tensor) -> None:
    with setting.active():
        setting.model(image, None, mode="tensor")
