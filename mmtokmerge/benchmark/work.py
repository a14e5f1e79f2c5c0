"""One step of a model, ready to be timed: inference of a part, or a training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from mmtokmerge.benchmark.contestants import Contestant
from mmtokmerge.benchmark.settings import DTYPES, Settings, Shape

Step = Callable[[], Any]


def make_step(contestant: Contestant, settings: Settings, shape: Shape, batch: int) -> Step:
    """The step to time, on random images that are the same for every contestant."""
    images = _images(contestant, settings, shape, batch)
    if settings.train:
        return _training_step(contestant, settings, images)
    return _inference_step(contestant.model, settings, images)


def _images(contestant: Contestant, settings: Settings, shape: Shape, batch: int) -> Tensor:
    channels = contestant.encoder.in_channels if contestant.encoder is not None else 3
    generator = torch.Generator().manual_seed(settings.seed)
    images = torch.randn(batch, channels, *shape, generator=generator)
    dtype = torch.float32 if settings.train else DTYPES[settings.dtype]
    return images.to(settings.device, dtype)


def head_of(model: nn.Module) -> nn.Module:
    """The head of a segmentor or a pose estimator."""
    return model.decode_head if hasattr(model, "decode_head") else model.head


def _inference_step(model: nn.Module, settings: Settings, images: Tensor) -> Step:
    inputs: Any = images
    if settings.part == "encoder":
        call: Callable[[Any], Any] = model.backbone
    elif settings.part == "head":
        call = head_of(model)
        with torch.no_grad():
            inputs = model.extract_feat(images)
    else:
        call = _Network(model)
    if settings.compile:
        call = torch.compile(call)

    def step() -> Any:
        with torch.no_grad():
            return call(inputs)

    return step


class _Network(nn.Module):
    """Encoder, neck and head: images to the head's own output, nothing resized or decoded."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(images, None, mode="tensor")  # mmpose wants the samples' place


def _training_step(contestant: Contestant, settings: Settings, images: Tensor) -> Step:
    model = contestant.model
    with DefaultScope.overwrite_default_scope(contestant.scope):
        wrapper = build_optim_wrapper(model, _optim_wrapper(contestant.optim_wrapper, settings))
    samples = _labels(model, images, settings.seed)
    loss = torch.compile(model.loss) if settings.compile else model.loss

    def step() -> Any:
        with wrapper.optim_context(model):
            losses = loss(images, samples)
        total, _ = model.parse_losses(losses)
        wrapper.update_params(total)
        return total

    step.optimizer = wrapper.optimizer  # type: ignore[attr-defined]
    return step


def _optim_wrapper(cfg: ConfigDict, settings: Settings) -> ConfigDict:
    cfg = ConfigDict({key: cfg[key] for key in cfg if key not in ("loss_scale", "dtype")})
    cfg.type = "OptimWrapper"
    if settings.dtype != "fp32" and settings.device == "cpu":
        cfg.type = "mmtokmerge.Bf16OptimWrapper"
    elif settings.dtype != "fp32":
        cfg.type = "AmpOptimWrapper"
        cfg.dtype = {"fp16": "float16", "bf16": "bfloat16"}[settings.dtype]
    return cfg


def _labels(model: nn.Module, images: Tensor, seed: int) -> list[Any]:
    """Random targets for each image, as the model's own losses take them."""
    generator = torch.Generator().manual_seed(seed)
    make = _segmentation if hasattr(model, "decode_head") else _keypoints
    return [make(model, image, generator) for image in images]


def _segmentation(model: nn.Module, image: Tensor, generator: torch.Generator) -> Any:
    from mmseg.structures import SegDataSample

    size = image.shape[1:]
    labels = torch.randint(model.decode_head.num_classes, (1, *size), generator=generator)
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels.to(image.device)))
    sample.set_metainfo(dict(img_shape=size, ori_shape=size, pad_shape=size))
    return sample


def _keypoints(model: nn.Module, image: Tensor, generator: torch.Generator) -> Any:
    from mmpose.structures import PoseDataSample

    with torch.no_grad():
        size = model.eval()(image[None], None, mode="tensor").shape[1:]  # (K, h, w)
    model.train()
    heatmaps = torch.rand(*size, generator=generator).to(image.device)
    sample = PoseDataSample(gt_fields=PixelData(heatmaps=heatmaps))
    weights = torch.ones(1, size[0], device=image.device)
    sample.gt_instance_labels = InstanceData(keypoint_weights=weights)
    return sample
