"""A tiny data set, config and command line that the engine's tests share."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

from mmtokmerge.models.weights.safe_load import load_weights_only

ROOT = Path(__file__).resolve().parents[1]
TINY_CONFIG = """
_base_ = ["{root}/configs/_base_/default_runtime.py"]
norm = dict(type="BN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255, size=(32, 32)),
    backbone=dict(
        type="MixVisionTransformer", embed_dims=8, num_layers=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2], sr_ratios=[8, 4, 2, 1], drop_rate={drop}, drop_path_rate={drop}),
    decode_head=dict(
        type="SegformerHead", in_channels=[8, 8, 16, 16], in_index=[0, 1, 2, 3], channels=8,
        num_classes=3, dropout_ratio={drop}, norm_cfg=norm, align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss")),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"))
data = dict(
    type="BaseSegDataset", data_root="{data}", img_suffix=".png", seg_map_suffix=".png",
    data_prefix=dict(img_path="images", seg_map_path="labels"),
    metainfo=dict(classes=["a", "b", "c"], palette=[[0, 0, 0], [255, 0, 0], [0, 255, 0]]))
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
augment = [
    dict(type="RandomResize", scale=(64, 64), ratio_range=(0.6, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(32, 32)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion")]
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        **data, pipeline=[*load, *(augment if {augmented} else []), dict(type="PackSegInputs")]))
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**data, pipeline=[*load, dict(type="PackSegInputs")]))
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="TestTimeAug", transforms=[
        [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
        [dict(type="LoadAnnotations")],
        [dict(type="PackSegInputs")]])]
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
param_scheduler = [dict(type="PolyLR", power=1.0, begin=0, end=10, by_epoch=False)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=10, val_interval=4)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=4, max_keep_ckpts=2))
"""


def write_images(folder: Path, count: int = 6, size: int = 64) -> None:
    """Write seeded noise images with blocky labels of three classes and some ignored pixels."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        label = rng.integers(0, 3, (size // 16, size // 16)).repeat(16, 0).repeat(16, 1)
        image = label[..., None] * 80 + rng.integers(0, 80, (size, size, 3))
        label[:2] = 255
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(label.astype(np.uint8)).save(folder / "labels" / f"{index}.png")


def write_config(folder: Path, drop: float = 0.2, augmented: bool = True) -> Path:
    """Write the images and a config named tiny.py that trains on them for 10 iterations."""
    write_images(folder / "data")
    config = folder / "tiny.py"
    config.write_text(
        TINY_CONFIG.format(root=ROOT, data=folder / "data", drop=drop, augmented=augmented)
    )
    return config


def write_killed_config(config: Path, at: str, iteration: int) -> Path:
    """Write a config beside ``config`` whose training kills itself, see :class:`KillHook`."""
    killed = config.with_name(f"killed_{at}.py")
    killed.write_text(
        f"""_base_ = ["{config}"]
custom_hooks = [
    dict(type="mmtokmerge.IterSeedHook"), dict(type="KillHook", at="{at}", iteration={iteration})]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
"""
    )
    return killed


@HOOKS.register_module(force=True)
class FreezeBNHook(Hook):
    """Keeps BatchNorm's statistics as they are, and writes down each process's losses."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        for module in runner.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()

    def after_train_iter(self, runner: Any, outputs: dict, **_: Any) -> None:
        with open(Path(runner.work_dir) / f"losses_{get_rank()}", "a") as file:
            file.write(f"{float(outputs['loss'])}\n")


@HOOKS.register_module(force=True)
class KillHook(Hook):
    """Kills its process by SIGKILL after an iteration, or while a checkpoint is written then."""

    def __init__(self, at: str, iteration: int) -> None:
        self.at = at
        self.iteration = iteration

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.at == "write" and runner.iter + 1 == self.iteration:
            os.fsync = _kill_self

    def after_train_iter(self, runner: Any, batch_idx: int, **_: Any) -> None:
        if self.at == "iter" and runner.iter + 1 == self.iteration:
            _kill_self()


def _kill_self(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class ToolResult(NamedTuple):
    """How a tool's process ended, and all that it printed."""

    status: int
    output: str

    @property
    def error(self) -> str:
        """The last line that was printed."""
        return self.output.strip().splitlines()[-1]


def run_tool(tool: str, *arguments: object) -> ToolResult:
    """Run a tool of the checkout in a process of its own, forked where mmseg is imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["engine_helpers", "mmseg.models", "mmtokmerge.engine.launch"])
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as output:
        child = context.Process(target=_run, args=(tool, [str(a) for a in arguments], output.name))
        child.start()
        child.join(timeout=300)
        if child.exitcode is None:
            child.kill()
            raise TimeoutError(f"{tool} {arguments} did not end: {output.read()}")
        return ToolResult(child.exitcode, output.read())


def _run(tool: str, arguments: list[str], output: str) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    sys.argv = [tool, *arguments]
    runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint."""
    return load_weights_only(str(checkpoint))["state_dict"]
