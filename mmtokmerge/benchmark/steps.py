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

from mmtokmerge.benchmark.candidates import Candidate
from mmtokmerge.benchmark.options import DTYPES, Settings, Shape
from mmtokmerge.benchmark.runtimes import COMPILE, SUFFIXES, exported_step

Step = Callable[[], Any]
GRAPH_WARMUP = 3


def make_step(candidate: Candidate, settings: Settings, images: Tensor) -> Step:
    """The step to time, on images ``(B, 3, H, W)``."""
    if settings.train:
        return _training_step(candidate, settings, images)
    if candidate.runtime in SUFFIXES:
        call, inputs = part_and_inputs(candidate.model, settings.part, images.float())
        return exported_step(call, inputs, candidate.runtime, settings.dtype)
    compiled = settings.compile or candidate.runtime == COMPILE
    return _inference_step(candidate.model, settings, images, compiled)


def random_images(candidate: Candidate, settings: Settings, shape: Shape, batch: int) -> Tensor:
    """Images ``(B, 3, H, W)`` of noise, the same for every candidate.

    Where fractions of their patches are to be kept, the batch holds copies of one image, as when
    ALGM measures throughput: all keep the same number of tokens, and nothing is padded.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    number = 1 if settings.kept else batch
    images = torch.randn(number, candidate.in_channels, *shape, generator=generator)
    images = images.expand(batch, -1, -1, -1).contiguous()
    return prepare_images(images, settings)


def prepare_images(images: Tensor, settings: Settings) -> Tensor:
    """Images on the device and in the dtype of the benchmark."""
    dtype = torch.float32 if settings.train else DTYPES[settings.dtype]
    return images.to(settings.device, dtype)


def head_of(model: nn.Module) -> nn.Module:
    """The head of a segmentor or a pose estimator."""
    return model.decode_head if hasattr(model, "decode_head") else model.head


def part_and_inputs(model: nn.Module, part: str, images: Tensor) -> tuple[nn.Module, Any]:
    """The part of a model that is timed, and what it is given for some images."""
    if part == "encoder":
        return model.backbone, images
    if part == "model":
        return _Network(model), images
    with torch.no_grad():
        return head_of(model), model.extract_feat(images)


def _inference_step(model: nn.Module, settings: Settings, images: Tensor, compiles: bool) -> Step:
    call, inputs = part_and_inputs(model, settings.part, images)
    compiled = torch.compile(call, dynamic=False) if compiles else call

    def step() -> Any:
        with torch.no_grad():
            return compiled(inputs)

    return capture(step) if settings.cuda_graph else step


def capture(step: Step) -> Step:
    """A step that replays, in one launch, what ``step`` launches on the GPU one by one."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(GRAPH_WARMUP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()

    def replay() -> Any:
        graph.replay()
        return output

    replay.launched = step  # type: ignore[attr-defined]
    return replay


class _Network(nn.Module):
    """Encoder, neck and head: images to the head's own output, nothing resized or decoded."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(images, None, mode="tensor")  # mmpose wants the samples' place


def _training_step(candidate: Candidate, settings: Settings, images: Tensor) -> Step:
    model = candidate.model
    with DefaultScope.overwrite_default_scope(candidate.scope):
        wrapper = build_optim_wrapper(model, _optim_wrapper(candidate.optim_wrapper, settings))
    samples = _labels(model, images, settings.seed)
    loss = torch.compile(model.loss, dynamic=False) if settings.compile else model.loss

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
