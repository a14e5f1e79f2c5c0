"""What a training cannot mean ends it: losses that are no numbers, labels of no class."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmtokmerge.engine.hooks.training_checks import IMAGES, PATIENCE, TrainingCheckHook
from mmtokmerge.errors import InputError

HEAD = SimpleNamespace(num_classes=3, ignore_index=255)
RUNNER = SimpleNamespace(model=SimpleNamespace(decode_head=HEAD), iter=6)


def batch(*values: int) -> dict[str, Any]:
    labels = SimpleNamespace(data=torch.tensor([list(values)]))
    return {"data_samples": [SimpleNamespace(gt_sem_seg=labels, metainfo={"img_path": "a.png"})]}


def test_a_loss_that_stays_nan_ends_the_run() -> None:
    hook = TrainingCheckHook()
    for value in [float("nan")] * (PATIENCE - 1) + [1.0] + [float("inf")] * (PATIENCE - 1):
        hook.after_train_iter(RUNNER, 0, None, {"loss": torch.tensor(value)})
    with pytest.raises(InputError, match="The loss has been inf for 3 iterations, at iteration 7"):
        hook.after_train_iter(RUNNER, 0, None, {"loss": torch.tensor(float("inf"))})


def test_a_label_of_no_class_ends_the_run() -> None:
    hook = TrainingCheckHook()
    hook.before_train_iter(RUNNER, 0, batch(0, 2, 255))
    with pytest.raises(InputError, match=r"label of a\.png has the value 3, but the classes are 0"):
        hook.before_train_iter(RUNNER, 0, batch(0, 3))


def test_labels_that_are_all_ignored_end_the_run() -> None:
    hook = TrainingCheckHook()
    for _ in range(IMAGES - 1):
        hook.before_train_iter(RUNNER, 0, batch(255))
    with pytest.raises(InputError, match="the first 40 images have no pixel of any class"):
        hook.before_train_iter(RUNNER, 0, batch(255))


def test_a_data_set_with_few_labels_trains_on() -> None:
    hook = TrainingCheckHook()
    hook.before_train_iter(RUNNER, 0, batch(255))
    hook.before_train_iter(RUNNER, 0, batch(1))
    for _ in range(10 * IMAGES):
        hook.before_train_iter(RUNNER, 0, batch(255))


def test_what_has_no_labels_or_losses_is_left_alone() -> None:
    hook = TrainingCheckHook()
    hook.before_train_iter(RUNNER, 0, {"inputs": []})
    hook.before_train_iter(SimpleNamespace(model=torch.nn.Linear(1, 1)), 0, batch(7))
    hook.after_train_iter(RUNNER, 0, None, None)
