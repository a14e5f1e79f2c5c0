"""mmengine's local backend with pictures that are written whole, or end the run in a sentence."""

from __future__ import annotations

import os.path as osp
from typing import Any

import numpy as np
from mmengine.visualization import LocalVisBackend, Visualizer

from mmtokmerge.visualization.pictures import write_picture


class WholePictures(LocalVisBackend):
    """In the place of a ``LocalVisBackend``, whose pictures are lost in silence on a full disk."""

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Write ``image (H, W, 3)`` RGB bytes to ``NAME_STEP.png``.

        Raises:
            InputError: It cannot be written.
        """
        self.experiment  # noqa: B018  makes the folders
        write_picture(osp.join(self._img_save_dir, f"{name}_{step}.png"), image)


def write_whole(visualizer: Visualizer) -> None:
    """Let a visualizer's local backends write pictures whole."""
    for name, backend in visualizer._vis_backends.items():
        if type(backend) is LocalVisBackend:
            whole = WholePictures.__new__(WholePictures)
            whole.__dict__.update(backend.__dict__)
            visualizer._vis_backends[name] = whole
