"""A trained model on arrays instead of a data set: scores and labels, or keypoints."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from torch import nn

from mmtokmerge.engine.launch import import_scope
from mmtokmerge.errors import InputError


def classes_of(cfg: Config) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    """Names and colours of the classes of a config's test set, whose files are not read.

    Raises:
        InputError: The data set names none.
    """
    from mmseg.registry import DATASETS

    dataset = cfg.test_dataloader.dataset
    meta = {**(DATASETS.get(dataset.type).METAINFO or {}), **dataset.get("metainfo", {})}
    if "classes" not in meta or "palette" not in meta:
        raise InputError(
            f"The data set {dataset.type} of {cfg.filename} names no classes or colours."
        )
    return meta["classes"], meta["palette"]


def test_steps(cfg: Config) -> list[dict[str, Any]]:
    """The config's test pipeline without its labels."""
    loader = cfg.get("test_dataloader") or {}
    dataset = loader.get("dataset") or {}
    while "dataset" in dataset:  # RepeatDataset and its like
        dataset = dataset["dataset"]
    steps = dataset.get("pipeline")
    if not steps:
        raise InputError(f"The config {cfg.filename} has no test_dataloader.dataset.pipeline.")
    kept = [step for step in steps if not step["type"].endswith("Annotations")]
    return [
        dict(step, type="mmtokmerge.LoadImage") if "LoadImage" in step["type"] else step
        for step in kept
    ]


class SegmentationPredictor:
    """Labels and scores of pictures.

    Args:
        model: A segmentor in eval mode.
        cfg: The model's config, whose test pipeline prepares a picture.
    """

    def __init__(self, model: nn.Module, cfg: Config) -> None:
        init_default_scope("mmseg")
        self.model = model
        self.classes, self.palette = classes_of(cfg)
        self.pipeline = Compose(test_steps(cfg))

    def batch(self, picture: np.ndarray, name: str = "picture") -> dict[str, Any]:
        """A picture ``(H, W, 3)`` BGR as a test batch."""
        height, width = picture.shape[:2]
        sample = dict(
            img=picture, img_path=name, img_shape=(height, width), ori_shape=(height, width)
        )
        return pseudo_collate([self.pipeline(sample)])

    @torch.no_grad()
    def labels(self, picture: np.ndarray) -> np.ndarray:
        """The class of each pixel ``(H, W)`` int64."""
        return self._predict(picture).pred_sem_seg.data[0].cpu().numpy()

    @torch.no_grad()
    def scores(self, picture: np.ndarray) -> np.ndarray:
        """Probabilities ``(classes, H, W)`` float32."""
        logits = self._predict(picture).seg_logits.data.float()
        if len(logits) == 1:  # one output for two classes
            one = logits.sigmoid()
            return torch.cat([1 - one, one]).cpu().numpy()
        return logits.softmax(0).cpu().numpy()

    def _predict(self, picture: np.ndarray) -> Any:
        return self.model.test_step(copy.deepcopy(self.batch(picture)))[0]


class PosePredictor:
    """Keypoints of a picture's boxes.

    Args:
        model: A top-down pose estimator in eval mode.
        cfg: The model's config, whose test pipeline prepares a box.
    """

    def __init__(self, model: nn.Module, cfg: Config) -> None:
        import_scope("mmpose")
        init_default_scope("mmpose")
        self.model = model
        self.pipeline = Compose(test_steps(cfg))
        self.meta = model.dataset_meta or {}

    @torch.no_grad()
    def keypoints(self, picture: np.ndarray, boxes: np.ndarray | None = None) -> list[Any]:
        """Samples with ``pred_instances``, one for each box.

        Args:
            picture: ``(H, W, 3)`` BGR.
            boxes: ``(n, 4)`` left, top, right, bottom in pixels; the whole picture where None.
        """
        height, width = picture.shape[:2]
        if boxes is None:
            boxes = np.array([[0, 0, width, height]], dtype=np.float32)
        samples = [
            self.pipeline(
                dict(
                    img=picture,
                    img_path="picture",
                    img_shape=(height, width),
                    ori_shape=(height, width),
                    bbox=box[None].astype(np.float32),
                    bbox_score=np.ones(1, dtype=np.float32),
                    **self.meta,
                )
            )
            for box in boxes
        ]
        return list(self.model.test_step(pseudo_collate(samples)))
