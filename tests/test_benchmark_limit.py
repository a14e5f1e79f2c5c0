"""The limit of a speed-up: the formula by hand, and shares measured on steps of known length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mmtokmerge.benchmark.candidates import build_candidates
from mmtokmerge.benchmark.limit import Limits, limit_by_shares, reference_of
from mmtokmerge.benchmark.options import Settings
from mmtokmerge.benchmark.run import run
from mmtokmerge.engine.launch import load_config
from mmtokmerge.errors import InputError
from mmtokmerge.measure.part_timing import part_shares
from mmtokmerge.merging.segformer.cost import StageCost

ROOT = Path(__file__).resolve().parents[1]


class Clock:
    """A clock that only modules move on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class EvalSpec(nn.Module):
    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self):
        self.clock.now += self.seconds


def stage(projections, attention, matching=0):
    return StageCost(
        (1, 1),
        (1, 1),
        queries=1,
        keys=1,
        patch_embedding=7,
        spatial_reduction=7,
        projections=projections,
        matching=matching,
        attention=attention,
        mix_ffn=7,
    )


def test_shares_shrink_with_their_operations():
    full = [stage(30, 70), stage(50, 50)]
    merged = [stage(10, 15, matching=999), stage(50, 50)]
    # half of the time becomes a quarter of that: 1 / (0.2 + 0.3 + 0.5 / 4)
    assert limit_by_shares([0.5, 0.2], full, merged) == pytest.approx(1 / 0.625)
    assert limit_by_shares([0.5, 0.2], full, full) == pytest.approx(1)


def test_what_was_reached_is_a_fraction():
    limits = Limits("none", speedup=1.2, operations=1.5, shares=None)
    assert limits.reached(limits.operations) == pytest.approx(0.8)
    assert limits.reached(limits.shares) is None


def test_parts_are_timed_inside_the_step(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("mmtokmerge.measure.part_timing.time.perf_counter", clock)
    slow, quick, rest = (EvalSpec(clock, seconds) for seconds in (0.6, 0.1, 0.2))

    def step():
        for module in (quick, slow, rest, quick):
            module()

    shares = part_shares(step, {"slow": [slow], "quick": [quick]}, "cpu", runs=3)
    assert shares == {"slow": pytest.approx(0.6), "quick": pytest.approx(0.2)}
    assert not slow._forward_hooks and not slow._forward_pre_hooks
    with pytest.raises(RuntimeError, match="the step calls no module of 'rest'"):
        part_shares(slow, {"rest": [rest]}, "cpu", runs=1)


@pytest.fixture(scope="module")
def candidates():
    names = ("none", "hq", "n2d", "downsample")
    paths = [str(ROOT / f"configs/segformerpp/b0_demo_{name}.py") for name in names]
    settings = Settings(shapes=((64, 96),))
    return build_candidates([(path, load_config(path)) for path in paths], ["stock"], settings)


def test_a_run_says_what_each_model_reached(candidates):
    settings = Settings(shapes=((64, 96),), part="encoder", runs=2, warmup=1, limit=True)
    times = iter([0, 0, 0, 0, 0, *[20, 10, 8, 5, 4] * 2])

    def timer(step):
        step()
        return float(next(times))

    stock, none, hq, n2d, downsample = run(candidates, settings, timer=timer)
    assert stock.limits is None and none.limits is None
    assert hq.limits.reference == "b0_demo_none"
    assert hq.limits.speedup == pytest.approx(10 / 8)
    assert n2d.limits.speedup == pytest.approx(10 / 5)
    assert hq.limits.operations == pytest.approx(none.flops / hq.flops)
    # nothing can pass what is left when attention costs nothing
    assert 1 < hq.limits.shares < 20 and 1 < n2d.limits.shares < 20
    assert downsample.limits.shares is None and downsample.limits.operations > 3


def test_a_compiled_model_has_no_parts_to_time(candidates, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    settings = Settings(((64, 96),), part="encoder", runs=1, warmup=1, limit=True, compile=True)
    hq = run(candidates, settings)[2]
    assert hq.limits.operations > 1 and hq.limits.shares is None


def test_without_an_unmerged_model_there_is_no_limit(candidates):
    assert reference_of(candidates).name == "b0_demo_none"
    with pytest.raises(InputError, match="every config merges: add one with merging='none'"):
        reference_of([each for each in candidates if each.name != "b0_demo_none"])
