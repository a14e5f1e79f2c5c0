"""One image before and after merging: tokens, predictions with and without, and the difference."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from torch import nn

from mmtokmerge.datasets.transforms.files import read_image
from mmtokmerge.engine.loading import load_segmentor
from mmtokmerge.errors import InputError
from mmtokmerge.inference.predictor import classes_of, test_steps
from mmtokmerge.models.overrides import without_merging
from mmtokmerge.visualization.describe import name_of
from mmtokmerge.visualization.differences import colour_labels
from mmtokmerge.visualization.encode import encode_one
from mmtokmerge.visualization.figures import (
    class_legend,
    difference_panel,
    token_heading,
    token_panels,
)
from mmtokmerge.visualization.layout import Panel, panel_figure, panel_height
from mmtokmerge.visualization.record import merges_by_stage, reducers_of, sharings_of

WIDTH = 480


def overview_figure(
    cfg: Config,
    checkpoint: str,
    image: str,
    stages: Sequence[int] | None = None,
    block: str | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """Draw an image, its merged tokens, and the predictions with merging and without.

    Args:
        cfg: The config of a segmentor that merges; its test pipeline prepares the image.
        checkpoint: Weights of the model.
        image: An image file.
        stages: Stages, counted from 1, whose tokens are drawn; all if None. Only for encoders
            with stages: of a plain ViT each reducer's are drawn.
        block: 'first' or 'last', the block of each stage that is drawn; 'first' if None.
        device: Where the models run.

    Returns:
        The figure ``(H, W, 3)`` uint8 RGB.

    Raises:
        InputError: If a file is missing or does not fit, none of ``stages`` merges, or ``stages``
            or ``block`` is given for an encoder without stages.
    """
    check_merging(cfg)
    shown = mmcv.bgr2rgb(read_image(image, "image", "color", "cv2"))  # (H, W, 3)
    batch = load_image(cfg, image)
    model = load_segmentor(cfg, checkpoint, device)
    if (stages or block) and not merges_by_stage(model):
        raise InputError(
            f"--stage and --block choose tokens of stages, but the encoder of {cfg.filename} "
            "has none that merge: leave them out to draw each reducer."
        )
    block = block or "first"
    pixels, records, note = encode_one(model, batch, block=block)
    if stages:
        records = [tokens for tokens in records if tokens.stage in stages]
        if not records:
            listed = ", ".join(map(str, stages))
            raise InputError(f"The config {cfg.filename} merges nothing in stages {listed}.")
    merged = predict(model, batch)
    unmerged = predict_without_merging(model, batch, cfg, checkpoint, device)
    seen = pixels.permute(1, 2, 0).byte().cpu().numpy()  # (H, W, 3)
    classes, palette = classes_of(cfg)
    height, width = shown.shape[:2]
    top = [
        Panel(shown, "Image", f"{height}×{width} pixels"),
        Panel(
            colour_labels(shown, unmerged, palette), "Prediction without merging", "same weights"
        ),
        Panel(
            colour_labels(shown, merged, palette),
            "Prediction with merged tokens",
            f"{kind_of_merging(model, cfg)} merging",
        ),
        difference_panel(shown, unmerged, merged),
    ]
    panels = token_panels(seen, records, (panel_height(shown, WIDTH), WIDTH))
    rows = [top, *(panels[start : start + 4] for start in range(0, len(panels), 4))]
    heading = token_heading(Path(image).name, records, block, note)
    legend = class_legend((unmerged, merged), classes, palette)
    return panel_figure(rows, heading, legend, WIDTH)


def check_merging(cfg: Config) -> None:
    """Raise InputError if the config's backbone has no merging to draw."""
    backbone = cfg.get("model", {}).get("backbone", {})
    parts = (backbone.get("reducers"), backbone.get("sharing"))
    if backbone.get("merging", "none") == "none" and not any(parts):
        raise InputError(
            f"The config {cfg.filename} merges no tokens (model.backbone has neither merging nor "
            "reducers nor sharing): take one such as configs/segformerpp/b0_camvid_hq.py."
        )


def kind_of_merging(model: nn.Module, cfg: Config) -> str:
    """The preset's name, 'custom', or what acts, such as 'CTS' or 'CLAP and GBM'."""
    shared = ["CTS" for _ in sharings_of(model)]
    reducers = " and ".join([*shared, *(name_of(reducer) for reducer in reducers_of(model))])
    merging = cfg.model.backbone.get("merging")
    return reducers or (merging if isinstance(merging, str) else "custom")


def predict_without_merging(
    model: nn.Module, batch: dict, cfg: Config, checkpoint: str, device: str
) -> np.ndarray:
    """The classes ``(H, W)`` that the same weights predict where nothing is merged."""
    with without_merging(model):
        return predict(model, batch)


def load_image(cfg: Config, path: str) -> dict:
    """One image as a test batch, prepared by the config's test pipeline without its labels."""
    init_default_scope(cfg.get("default_scope", "mmseg"))
    return pseudo_collate([Compose(test_steps(cfg))(dict(img_path=path))])


@torch.no_grad()
def predict(model: nn.Module, batch: dict) -> np.ndarray:
    """The predicted classes ``(H, W)`` of a batch of one image."""
    return model.test_step(copy.deepcopy(batch))[0].pred_sem_seg.data[0].cpu().numpy()
