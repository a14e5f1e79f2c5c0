"""A resumed run whose config has another schedule than its checkpoint follows the config."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop

from mmtokmerge.errors import InputError

IGNORED = {
    *("last_step", "_global_step", "_last_value", "verbose", "param_name"),
    *("best", "num_bad_epochs", "cooldown_counter", "last_epoch"),  # of ReduceOnPlateau
}
"""What a scheduler's state says of where it stands, not of which schedule it is."""
OPTIONS = ("weight_decay", "betas", "momentum", "eps", "nesterov", "amsgrad")
"""Of a group of parameters, beside the learning rate, which the schedule has."""


def follow_config(runner: Any, checkpoint: dict[str, Any]) -> None:
    """Put the config's schedule, advanced to where the run stands, in place of the checkpoint's.

    A scheduler's state holds its end, so a longer schedule would go on with a learning rate of 0.
    Where the two differ it is said, and the learning rates are those that the config's schedule has
    at this step. Where they agree nothing changes.

    Args:
        runner: mmengine's, about to resume.
        checkpoint: What it will resume from; changed in place.
    """
    saved, own = checkpoint.get("param_schedulers"), runner.param_schedulers
    if isinstance(own, dict) and own:
        print_log(
            "Several optimizers: their learning-rate schedules go on as the checkpoint has them, "
            "whatever the config says.",
            "current",
            logging.WARNING,
        )
    if not isinstance(saved, list) or not isinstance(own, list) or not own:
        return
    changes = _differences(saved, [scheduler.state_dict() for scheduler in own])
    if not changes:
        return
    if any(getattr(scheduler, "need_val_args", False) for scheduler in own):
        print_log(
            f"The checkpoint's learning-rate schedule is not the config's ({'; '.join(changes[:3])}"
            "), and what it did followed from validation: the checkpoint's goes on.",
            "current",
            logging.WARNING,
        )
        return
    optimizer = runner.optim_wrapper.optimizer
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    stand_in = torch.optim.SGD(groups, lr=rates[0])
    schedulers = runner._build_param_scheduler(
        copy.deepcopy(runner.cfg.param_scheduler), OptimWrapper(stand_in)
    )
    reached = _advance(schedulers, checkpoint["meta"], stand_in)
    checkpoint["param_schedulers"] = [scheduler.state_dict() for scheduler in schedulers]
    found = checkpoint.get("optimizer")
    if isinstance(found, Mapping) and len(found.get("param_groups", ())) == len(groups):
        for group, moved, rate in zip(found["param_groups"], stand_in.param_groups, rates):
            group["lr"], group["initial_lr"] = moved["lr"], rate
        base = found.get("base_param_settings")
        if isinstance(base, dict) and rates[0] > 0:  # what the log calls base_lr
            own_base = getattr(runner.optim_wrapper, "base_param_settings", None) or base
            start = own_base.get("initial_lr", own_base["lr"])
            base["lr"] = start * stand_in.param_groups[0]["lr"] / rates[0]
            base["initial_lr"] = start
    print_log(
        f"The checkpoint's learning-rate schedule is not the config's ({'; '.join(changes[:3])}): "
        f"the config's is followed from {reached} on, with a learning rate of "
        f"{stand_in.param_groups[0]['lr']:.3g} now.",
        "current",
        logging.WARNING,
    )


def check_resumed(runner: Any, checkpoint: dict[str, Any]) -> None:
    """Look at what a run goes on with, after :func:`follow_config`.

    The optimizer's options are the config's; where the checkpoint had others it is said, and so is
    a schedule of the config's own that leaves a learning rate of 0 for the rest.

    Args:
        runner: mmengine's, about to resume.
        checkpoint: What it will resume from; changed in place.

    Raises:
        InputError: The optimizer's state is not finite, or the run has ended.
    """
    name = getattr(runner, "_load_from", "the checkpoint")
    by_epoch = isinstance(getattr(runner, "_train_loop", None), EpochBasedTrainLoop)
    unit, key = ("epoch", "max_epochs") if by_epoch else ("iteration", "max_iters")
    done, last = checkpoint["meta"]["epoch" if by_epoch else "iter"], getattr(runner, key, None)
    if last is not None and done >= last:
        raise InputError(
            f"{name} is of {unit} {done}, and train_cfg ends at {last}: nothing is left to "
            f"train; a larger train_cfg.{key} goes on"
        )
    found = checkpoint.get("optimizer")
    if not isinstance(found, Mapping) or "param_groups" not in found:
        return
    for place, state in (found.get("state") or {}).items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and not bool(torch.isfinite(value).all()):
                raise InputError(
                    f"{name}: the optimizer's {key} of parameter {place} is not finite: an earlier "
                    "checkpoint may be whole"
                )
    rates = [float(group["lr"]) for group in found["param_groups"]]
    if not all(math.isfinite(rate) for rate in rates):
        raise InputError(f"{name}: the optimizer's learning rate is not finite")
    ends = [
        getattr(each, "end", math.inf) if each.by_epoch == by_epoch else math.inf
        for each in _listed(runner.param_schedulers)
    ]
    if ends and rates and not any(rates) and max(ends) <= done and last is not None:
        print_log(
            f"{name} is of {unit} {done} of {last}, but the config's param_scheduler has ended "
            "with a learning rate of 0, so nothing more would be learned: set its last end to "
            f"{last}.",
            "current",
            logging.WARNING,
        )
    own = runner.optim_wrapper.optimizer.param_groups if _has_one(runner) else []
    driven = {getattr(each, "param_name", "lr") for each in _listed(runner.param_schedulers)}
    if "momentum" in driven:  # of Adam and its kin it is the first of the betas
        driven.add("betas")
    said = []
    for group, other in zip(found["param_groups"], own):
        for key in set(OPTIONS) - driven:
            if key in group and key in other and group[key] != other[key]:
                said.append(f"{key} {group[key]} there, {other[key]} in the config")
                group[key] = other[key]
    if said:
        shown = "; ".join(dict.fromkeys(said))
        print_log(
            f"The checkpoint's optimizer is not the config's ({shown}): the config's is followed.",
            "current",
            logging.WARNING,
        )


def _listed(schedulers: Any) -> list[Any]:
    return schedulers if isinstance(schedulers, list) else []


def _has_one(runner: Any) -> bool:
    return isinstance(runner.optim_wrapper, OptimWrapper)


def _advance(schedulers: list[Any], meta: Mapping[str, Any], optimizer: Any) -> str:
    """Step schedulers as the run has, each iteration or at each epoch's end; says how far.

    How far comes from the run: a scheduler's own count begins at its ``begin`` and stands still
    from its ``end`` on.
    """
    iterations, epochs = meta["iter"], meta["epoch"]
    optimizer.step()  # schedulers expect one before theirs
    length = max(1, iterations // epochs) if epochs else 0
    for number in range(1, iterations + 1):
        ends = length > 0 and number % length == 0 and number // length <= epochs
        for scheduler in schedulers:
            if ends or not scheduler.by_epoch:
                scheduler.step()
    return f"epoch {epochs}" if epochs else f"iteration {iterations}"


def _differences(saved: list[dict[str, Any]], own: list[dict[str, Any]]) -> list[str]:
    if len(saved) != len(own):
        return [f"{len(saved)} schedulers there, {len(own)} in the config"]
    return [
        f"param_scheduler.{index}.{key} {theirs.get(key)} there, {value} in the config"
        for index, (theirs, ours) in enumerate(zip(saved, own))
        for key, value in ours.items()
        if key not in IGNORED and key in theirs and theirs[key] != value
    ]
