"""Generated streets without end: every sample is a scene that no other sample shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmseg.datasets import BaseSegDataset, CityscapesDataset

from mmtokmerge.datasets.streets.scene import draw_street
from mmtokmerge.errors import InputError
from mmtokmerge.registry import DATASETS

STREAM = 2
"""The part of the seed that tells these scenes from those of a set's ``train`` and ``val``."""
SMALLEST_SIDE = 32


@DATASETS.register_module()
class EndlessStreets(BaseSegDataset):
    """Street scenes with Cityscapes' classes, drawn when they are asked for; for training.

    Scene ``i`` depends on ``seed``, ``i`` and ``sizes`` alone, so a run that is resumed goes on
    with the scenes that it would have seen.

    Args:
        num_scenes: Number of scenes, the dataset's length.
        sizes: Heights and widths in pixels, of which each scene has one, drawn by its own seed.
        seed: Another seed gives other streets.
        pipeline: Transforms; those that load a file are left out, since the samples hold ``img``
            and ``gt_seg_map``.
        serialize_data: As mmseg's data sets take it; there is no list to serialize.

    Raises:
        InputError: A number or a size is too small.
    """

    METAINFO = CityscapesDataset.METAINFO

    def __init__(
        self,
        num_scenes: int = 100_000,
        sizes: Sequence[tuple[int, int]] = ((512, 1024),),
        seed: int = 0,
        pipeline: Sequence[Any] = (),
        serialize_data: bool = False,
    ) -> None:
        if num_scenes < 1 or seed < 0:
            raise InputError(
                f"EndlessStreets: num_scenes must be at least 1 and seed at least 0, got "
                f"{num_scenes} and {seed}"
            )
        pairs = isinstance(sizes, Sequence) and all(isinstance(each, Sequence) for each in sizes)
        if not pairs or not sizes or min(map(min, sizes)) < SMALLEST_SIDE:
            raise InputError(
                f"EndlessStreets: sizes must hold heights and widths of at least {SMALLEST_SIDE} "
                f"pixels, got {sizes}"
            )
        self.num_scenes = num_scenes
        self.sizes = [tuple(size) for size in sizes]
        self.seed = seed
        drawn = [step for step in pipeline if not _reads_a_file(step)]
        super().__init__(pipeline=drawn, serialize_data=serialize_data)

    def full_init(self) -> None:
        """Nothing to list: scenes are drawn one by one."""
        self._fully_initialized = True

    def __len__(self) -> int:
        return self.num_scenes

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Draw scene ``idx``."""
        rng = np.random.default_rng([self.seed, STREAM, int(idx)])
        image, label = draw_street(rng, *self.sizes[rng.integers(len(self.sizes))])
        return dict(
            img=image,
            img_shape=image.shape[:2],
            ori_shape=image.shape[:2],
            img_path=f"street_{self.seed}_{idx}",
            gt_seg_map=label,
            seg_fields=["gt_seg_map"],
            sample_idx=int(idx),
        )


def _reads_a_file(step: Any) -> bool:
    """Whether a transform of a pipeline is one of those that load images or labels."""
    return isinstance(step, dict) and str(step.get("type", "")).rpartition(".")[2].startswith(
        "Load"
    )
