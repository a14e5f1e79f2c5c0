"""Checkpoints that a kill at any moment does not lose."""

from __future__ import annotations

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from mmtokmerge.engine.atomic_backend import ATOMIC_BACKEND, AtomicLocalBackend
from mmtokmerge.engine.resume_schedule import check_resumed, follow_config
from mmtokmerge.errors import InputError
from mmtokmerge.registry import HOOKS

STEPS = ("iter", "epoch")
"""What a checkpoint's meta says of where a run stands."""


class _DeferredRemoval(AtomicLocalBackend):
    """Remembers which files to remove, and removes them when told."""

    def __init__(self) -> None:
        self.doomed: list[str] = []

    def remove(self, filepath: Any) -> None:
        self.doomed.append(str(filepath))

    def flush(self, keep: set[str]) -> None:
        for path in self.doomed:
            if path not in keep and self.isfile(path):
                super().remove(path)
        self.doomed.clear()


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` for a local disk, with the same arguments.

    A checkpoint takes its name only when it is whole, and an older one that ``max_keep_ckpts`` or
    ``save_best`` replaces is removed only after the newer one is written (mmengine does it the
    other way round).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._local = self.backend_args is None and self.file_client_args is None
        if self._local:
            self.backend_args = {"backend": ATOMIC_BACKEND}

    def before_train(self, runner: Any) -> None:
        """Find the folder, and put off removals from here on."""
        super().before_train(runner)
        if self._local:
            self.file_backend = _DeferredRemoval()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Raise InputError when told to resume from a file that holds weights alone."""
        if runner._resume:
            lacking = what_lacks(runner, checkpoint)
            if lacking:
                raise InputError(
                    f"Cannot resume from {runner._load_from}: {lacking}; set load_from without "
                    "resume to start a new run from its weights."
                )
            follow_config(runner, checkpoint)
            check_resumed(runner, checkpoint)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_replaced()

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self._remove_replaced()

    def _remove_replaced(self) -> None:
        if not self._local or not is_main_process():
            return
        best = [getattr(self, "best_ckpt_path", None)]
        best += getattr(self, "best_ckpt_path_dict", {}).values()
        self.file_backend.flush(keep={str(path) for path in [self.last_ckpt, *best] if path})


def what_lacks(runner: Any, checkpoint: Any) -> str | None:
    """What a run needs to go on and a checkpoint does not hold, for people; None if nothing."""
    meta, hub = checkpoint.get("meta"), checkpoint.get("message_hub")
    if meta is None or hub is None:
        return "it holds weights alone, no training state"
    if not isinstance(meta, dict) or not all(isinstance(meta.get(k), int) for k in STEPS):
        return "its meta does not say the iteration and epoch"
    if not isinstance(hub, dict) or not {"log_scalars", "runtime_info"} <= set(hub):
        return "its message_hub does not hold what was logged"
    if "optimizer" not in checkpoint:
        return "it holds no state of the optimizer (it was saved with save_optimizer=False)"
    if runner.param_schedulers and "param_schedulers" not in checkpoint:
        return "it holds no learning-rate schedule (it was saved with save_param_scheduler=False)"
    own = getattr(getattr(runner, "optim_wrapper", None), "optimizer", None)
    saved = checkpoint["optimizer"]
    if own is not None and isinstance(saved, dict) and "param_groups" in saved:
        here, there = len(own.param_groups), len(saved["param_groups"])
        if here != there:
            return f"its optimizer has {there} groups of parameters, the config's {here}"
    return None
