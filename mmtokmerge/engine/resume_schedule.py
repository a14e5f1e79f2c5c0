"""A resumed run whose config has another schedule than its checkpoint follows the config."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper

IGNORED = {
    *("last_step", "_global_step", "_last_value", "verbose", "base_values", "param_name"),
    *("best", "num_bad_epochs", "cooldown_counter", "last_epoch"),  # of ReduceOnPlateau
}
"""What a scheduler's state says of where it stands, not of which schedule it is."""


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
        for group, moved in zip(found["param_groups"], stand_in.param_groups):
            group["lr"] = moved["lr"]
    print_log(
        f"The checkpoint's learning-rate schedule is not the config's ({'; '.join(changes[:3])}): "
        f"the config's is followed from {reached} on, with a learning rate of "
        f"{stand_in.param_groups[0]['lr']:.3g} now.",
        "current",
        logging.WARNING,
    )


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
