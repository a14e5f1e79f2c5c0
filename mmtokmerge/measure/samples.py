"""Images of a config's training or test set, one after the other, as the test prepares them."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmtokmerge.errors import InputError


class Samples:
    """A fixed choice of images, each a batch of one as ``model.test_step`` takes it.

    Iterating loads the images anew, always in the same order.

    Args:
        cfg: A segmentation config.
        split: 'train' or 'test': whose images. Both go through the test pipeline, so nothing is
            augmented.
        num_images: How many, drawn at random without repeats; None takes all.
        seed: Random seed for drawing the images.
        labels: Whether the labels are loaded.

    Raises:
        InputError: If the config has no such data set, it is empty, or ``num_images`` is below 1 or
            more than it holds.
    """

    def __init__(
        self,
        cfg: Config,
        split: str,
        num_images: int | None = None,
        seed: int = 0,
        labels: bool = True,
    ) -> None:
        init_default_scope(cfg.get("default_scope", "mmseg"))
        if num_images is not None and num_images < 1:
            raise InputError(f"--num-images {num_images} must be at least 1.")
        self.dataset = DATASETS.build(_dataset(cfg, split, labels))
        total = len(self.dataset)
        if total == 0:
            raise InputError(f"The {split} set of {cfg.filename} is empty.")
        if num_images is not None and num_images > total:
            raise InputError(
                f"--num-images {num_images} is more than the {split} set of {cfg.filename} has, "
                f"which is {total}."
            )
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        self.indices = sorted(order[: num_images or total].tolist())

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes, palette and so on."""
        return self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in self.indices:
            yield pseudo_collate([self.dataset[index]])

    def fingerprint(self) -> str:
        """A hash of which images are taken, and of their and their labels' sizes and times."""
        digest = hashlib.sha256()
        for index in self.indices:
            info = self.dataset.get_data_info(index)
            for key in ("img_path", "seg_map_path"):
                path = info.get(key) or ""
                stat = os.stat(path) if os.path.isfile(path) else None
                facts = (path, stat and (stat.st_size, stat.st_mtime_ns))
                digest.update(repr(facts).encode())
        return digest.hexdigest()


def _dataset(cfg: Config, split: str, labels: bool) -> ConfigDict:
    loaders = {name: cfg.get(f"{name}_dataloader") for name in (split, "test")}
    for name, loader in loaders.items():
        if not loader or "dataset" not in loader:
            raise InputError(f"The config {cfg.filename} has no {name}_dataloader.dataset.")
    dataset = copy.deepcopy(loaders[split].dataset)
    while "dataset" in dataset:  # RepeatDataset and its like
        dataset = dataset.dataset
    prepared = loaders["test"].dataset
    if "datasets" in dataset or "pipeline" not in prepared:
        raise InputError(
            f"The {split}_dataloader.dataset of {cfg.filename} must be one data set, not several, "
            "and test_dataloader.dataset must have a pipeline."
        )
    dataset.serialize_data = False  # one process reads it; an empty set cannot be serialized
    steps = copy.deepcopy(prepared.pipeline)
    dataset.pipeline = [s for s in steps if labels or not s["type"].endswith("Annotations")]
    return dataset
