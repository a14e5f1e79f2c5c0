"""What a training cannot mean, seen while it runs: a loss that is no number, labels of no class."""

from __future__ import annotations

import math
from typing import Any

from mmengine.hooks import Hook

from mmtokmerge.errors import InputError
from mmtokmerge.registry import HOOKS

PATIENCE = 3
"""Losses in a row that are no number before a run ends: fp16 may skip a step."""
IMAGES = 40
"""Images without any label of a class, from the first on, before a run ends."""
LOOKED_AT = 400
"""Images whose labels are looked at; what is wrong with a data set shows in the first."""


@HOOKS.register_module()
class TrainingCheckHook(Hook):
    """Ends a run whose loss stays nan or infinite, and one whose labels no class has.

    Labels are looked at before they leave the CPU. On a GPU the loss is read every ten iterations,
    since reading it waits for the device.

    Raises:
        InputError: With the iteration, or with the image and the value.
    """

    priority = "LOW"

    def __init__(self) -> None:
        self._broken = 0
        self._seen = 0
        self._labelled = False

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Look at the batch's labels."""
        head = getattr(bare(runner.model), "decode_head", None)
        samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else None
        if head is None or not hasattr(head, "num_classes") or not samples:
            return
        if self._seen >= LOOKED_AT:
            return
        for sample in samples:
            labels = getattr(sample, "gt_sem_seg", None)
            if labels is None or labels.data.is_cuda:
                continue
            self._seen += 1
            most = int(labels.data.masked_fill(labels.data == head.ignore_index, -1).amax())
            self._labelled |= most >= 0
            if most >= head.num_classes:
                raise InputError(
                    f"the label of {sample.metainfo.get('img_path', 'an image')} has the value "
                    f"{most}, but the classes are 0 to {head.num_classes - 1}"
                )
        if not self._labelled and self._seen >= IMAGES:
            raise InputError(
                f"the first {self._seen} images have no pixel of any class, only "
                f"{head.ignore_index}, which is ignored: masks of two classes hold 0 and 1, and "
                "reduce_zero_label=True makes 0 ignored"
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look at the loss."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        if loss is None or (loss.is_cuda and batch_idx % 10):
            return
        value = float(loss.detach())
        self._broken = 0 if math.isfinite(value) else self._broken + 1
        if self._broken >= PATIENCE:
            raise InputError(
                f"The loss has been {value} for {self._broken} iterations, at iteration "
                f"{runner.iter + 1}: what the run learned is lost. A lower learning rate, a longer "
                "warm-up or --amp with bf16 helps; checkpoints from before are in the work_dir."
            )


def bare(model: Any) -> Any:
    """The model in what data parallelism wraps around it."""
    return getattr(model, "module", model)
