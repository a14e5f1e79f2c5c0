"""Seeds every training iteration."""

from __future__ import annotations

from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook

from mmtokmerge.engine.seeding import mix_seeds, seed_everything
from mmtokmerge.registry import HOOKS


@HOOKS.register_module()
class IterSeedHook(Hook):
    """Seeds dropout and drop path from (seed, process, iteration), so that a resume is exact.

    Samples are seeded by :mod:`mmtokmerge.engine.seeding`.
    """

    priority = "VERY_LOW"

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed this iteration's forward and backward pass."""
        seed_everything(mix_seeds(runner.seed, get_rank(), runner.iter))
