"""A resume under another schedule follows the config, at the rates that it has there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

from mmtokmerge.engine.resume_schedule import check_resumed, follow_config
from mmtokmerge.errors import InputError


def schedule(end: int) -> list[dict[str, Any]]:
    return [
        dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3),
        dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=3, end=end),
    ]


def run(end: int, steps: int) -> tuple[Any, list[Any]]:
    """An optimizer and its schedulers after some steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedulers = build(schedule(end), OptimWrapper(optimizer))
    optimizer.step()
    for _ in range(steps):
        for each in schedulers:
            each.step()
    return optimizer, schedulers


def build(configs: list[dict[str, Any]], wrapper: OptimWrapper) -> list[Any]:
    return [PARAM_SCHEDULERS.build(c, default_args=dict(optimizer=wrapper)) for c in configs]


def runner_of(end: int) -> Any:
    optimizer, schedulers = run(end, 0)
    return SimpleNamespace(
        param_schedulers=schedulers,
        optim_wrapper=OptimWrapper(optimizer),
        cfg=SimpleNamespace(param_scheduler=schedule(end)),
        _build_param_scheduler=build,
    )


def checkpoint(end: int, steps: int) -> dict[str, Any]:
    optimizer, schedulers = run(end, steps)
    return {
        "optimizer": optimizer.state_dict(),
        "param_schedulers": [each.state_dict() for each in schedulers],
        "meta": {"iter": steps, "epoch": 0},
    }


def test_a_longer_schedule_is_followed_from_where_the_run_stands() -> None:
    content = checkpoint(end=10, steps=10)
    assert content["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0)
    follow_config(runner_of(20), content)
    wanted, schedulers = run(20, 10)
    rate = wanted.param_groups[0]["lr"]
    assert 0.5 < rate < 0.7
    assert content["optimizer"]["param_groups"][0]["lr"] == pytest.approx(rate)
    for state, each in zip(content["param_schedulers"], schedulers):
        assert state["end"] == each.end and state["last_step"] == each.last_step


def test_the_same_schedule_stays_as_it_was_saved() -> None:
    content = checkpoint(end=10, steps=4)
    before = [dict(state) for state in content["param_schedulers"]]
    follow_config(runner_of(10), content)
    assert content["param_schedulers"] == before


def resumed(end: int, steps: int, last: int) -> tuple[Any, dict[str, Any]]:
    content, runner = checkpoint(end, steps), runner_of(end)
    runner.max_iters, runner._load_from = last, "iter.pth"
    return runner, content


def test_a_run_that_has_ended_is_a_sentence() -> None:
    runner, content = resumed(10, 10, 10)
    with pytest.raises(InputError, match="nothing is left to train"):
        check_resumed(runner, content)


def test_a_rate_of_zero_until_the_end_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        "mmtokmerge.engine.resume_schedule.print_log", lambda text, *rest: said.append(text)
    )
    runner, content = resumed(10, 10, 20)
    follow_config(runner, content)
    check_resumed(runner, content)
    assert (
        "has ended with a learning rate of 0" in said[-1] and "set its last end to 20" in said[-1]
    )
    runner, content = resumed(20, 10, 20)
    check_resumed(runner, content)
    assert len(said) == 1


@pytest.mark.parametrize("where", ["state", "rate"])
def test_an_optimizer_that_is_not_finite_is_a_sentence(where: str) -> None:
    runner, content = resumed(20, 10, 20)
    if where == "state":
        content["optimizer"]["state"] = {0: {"exp_avg": torch.tensor([1.0, float("nan")])}}
    else:
        content["optimizer"]["param_groups"][0]["lr"] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        check_resumed(runner, content)


def test_the_configs_optimizer_is_followed() -> None:
    """Another learning rate and weight decay: at step 10 of 20 the rate is half of the config's."""
    runner, content = resumed(20, 10, 20)
    group = runner.optim_wrapper.optimizer.param_groups[0]
    group["lr"] = group["initial_lr"] = 4.0
    group["weight_decay"] = 0.3
    for each in runner.param_schedulers:
        each.base_values = [4.0]
    follow_config(runner, content)
    check_resumed(runner, content)
    found = content["optimizer"]["param_groups"][0]
    assert found["weight_decay"] == 0.3 and found["initial_lr"] == 4.0
    assert found["lr"] == pytest.approx(4 * (20 - 10) / (20 - 3), rel=0.1)
