"""Real images, brought to the size of a benchmark."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor, nn

from mmtokmerge.benchmark.options import Shape
from mmtokmerge.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def find_images(
    folder: str | None, path: str, cfg: Config, number: int | None = None, seed: int = 0
) -> list[Path]:
    """The images of a folder and those below it, or of a config's validation set.

    Args:
        folder: The folder; None takes the data set.
        path: The path of the config, for error messages.
        cfg: The config.
        number: How many, drawn at random; None takes all.
        seed: Random seed for drawing the images.

    Raises:
        InputError: If there are none, or fewer than ``number``.
    """
    if number is not None and number < 1:
        raise InputError(f"--num-images {number} must be at least 1.")
    found = _in_data_set(path, cfg) if folder is None else _in_folder(Path(folder))
    where = f"the validation set of {path}" if folder is None else folder
    if not found:
        raise InputError(f"--images: there are no images in {where}.")
    if number is None:
        return found
    if number > len(found):
        raise InputError(f"--num-images {number} is more than {where} has, which is {len(found)}.")
    return sorted(random.Random(seed).sample(found, number))


def load_image(path: Path, shape: Shape, model: nn.Module) -> Tensor:
    """An image ``(1, 3, H, W)`` as a model's network takes it.

    It is resized until it covers the shape, and its centre is cut out: what a network is trained on
    are crops of images in their own proportions.

    Args:
        path: The path of the file.
        shape: ``(H, W)``.
        model: The model, whose data preprocessor normalises the images.

    Raises:
        InputError: If the file is no image.
    """
    try:
        image = mmcv.imread(str(path), channel_order="bgr")
    except OSError as error:
        raise InputError(f"--images: {path} cannot be read: {error}") from error
    if image is None:
        raise InputError(f"--images: {path} is not an image.")
    crop = np.ascontiguousarray(_cover(image, shape).transpose(2, 0, 1))
    batch = dict(inputs=[torch.from_numpy(crop)])
    return model.data_preprocessor(batch, False)["inputs"]


def _cover(image: np.ndarray, shape: Shape) -> np.ndarray:
    (height, width), (h, w) = shape, image.shape[:2]
    scale = max(height / h, width / w)
    size = max(width, round(w * scale)), max(height, round(h * scale))
    resized = mmcv.imresize(image, size)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return resized[top : top + height, left : left + width]


def _in_folder(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"--images: there is no folder {folder}.")
    return sorted(each for each in folder.rglob("*") if each.suffix.lower() in SUFFIXES)


def _in_data_set(path: str, cfg: Config) -> list[Path]:
    loader = cfg.get("val_dataloader") or {}
    if "dataset" not in loader:
        raise InputError(f"--images needs a folder: {path} has no val_dataloader.dataset.")
    init_default_scope(cfg.get("default_scope", "mmseg"))
    data_set = DATASETS.build({**loader.dataset, "serialize_data": False})
    infos: Sequence[dict] = [data_set.get_data_info(index) for index in range(len(data_set))]
    return sorted({Path(info["img_path"]) for info in infos})
