"""A segmentor outside the runner: to compare with, or to look at one image."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from mmseg.apis import init_model
from torch import nn

from mmtokmerge.engine.hooks.strict_load import check_weights
from mmtokmerge.engine.launch import check_checkpoint, load_config
from mmtokmerge.errors import InputError


def load_model(config: str | Config, checkpoint: str, device: str = "cpu") -> nn.Module:
    """Build a config's segmentor with all of a checkpoint's weights, in eval mode.

    Args:
        config: A config file, or what was read from one.
        checkpoint: A file or a URL.
        device: Where the model goes, as torch names it.

    Raises:
        InputError: The config or the checkpoint is missing or damaged, they do not fit, or the
            config has no segmentor.
    """
    cfg = load_config(config) if isinstance(config, str) else config
    check_checkpoint(checkpoint)
    if cfg.get("default_scope", "mmseg") != "mmseg" or "model" not in cfg:
        raise InputError(f"The config {cfg.filename} has no segmentation model.")
    model = init_model(cfg, checkpoint=None, device=device)
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu")
    check_weights(model, content, checkpoint)
    weights = content.get("state_dict", content)
    bare = {key.removeprefix("module."): value for key, value in weights.items()}
    model.load_state_dict(bare, strict=False)
    return model.eval()
