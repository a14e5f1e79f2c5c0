"""Draws predictions, what a second model predicts differently, and the merged tokens."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.model import BaseTTAModel
from mmseg.engine.hooks import SegVisualizationHook
from torch import nn

from mmtokmerge.engine.hooks.strict_load import bare_model
from mmtokmerge.engine.hooks.whole_pictures import write_whole
from mmtokmerge.engine.loading import load_segmentor
from mmtokmerge.errors import InputError
from mmtokmerge.registry import HOOKS
from mmtokmerge.visualization import (
    difference_figure,
    differing,
    encode_one,
    merges,
    token_figure,
)
from mmtokmerge.visualization.figures import token_heading
from mmtokmerge.visualization.pictures import read_shown
from mmtokmerge.visualization.record import BLOCKS, merges_by_stage


@HOOKS.register_module()
class MergeVisualizationHook(SegVisualizationHook):
    """mmseg's hook, and beside each overlay the merged tokens and a second model's differences.

    All pictures go to the visualizer's backends (files, TensorBoard, W&B): ``test_<image>`` is
    mmseg's overlay, ``test_<image>_tokens`` one panel for each part that a stage merges, or of a
    plain ViT the input, one panel for what shares a token before it (CTS), one for each reducer and
    the similarity that local merging decides by (ALGM, figure 9), ``test_<image>_differences`` the
    two predictions and where they differ. A model that merges nothing has no picture of tokens.
    Tokens are drawn by encoding the image once more. In distributed tests the first process draws
    its share of the images.

    Args:
        draw: Whether to draw at all.
        interval: Validation draws the first image of every ``interval``-th batch; testing draws
            every image.
        show: Show the pictures in a window instead of saving them.
        wait_time: Seconds between windows.
        backend_args: Arguments of mmengine's file backend.
        block: 'first' or 'last', whose tokens are drawn of each stage; 'first' if None. Only for
            models with stages that merge.
        compare: ``dict(config=..., checkpoint=...)`` of a second model to compare with in tests.

    Raises:
        InputError: If ``block`` or ``compare`` is not as said; when a run begins, if ``block`` is
            given and no stage merges; when a test begins, if the second model cannot be loaded or
            predicts other classes.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        show: bool = False,
        wait_time: float = 0.0,
        backend_args: dict | None = None,
        block: str | None = None,
        compare: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(draw, interval, show, wait_time, backend_args)
        if block not in (None, *BLOCKS):
            raise InputError(f"visualization.block={block!r} is unknown: take 'first' or 'last'.")
        if compare is not None and set(compare) != {"config", "checkpoint"}:
            raise InputError(
                "visualization.compare must be dict(config=..., checkpoint=...), "
                f"got {dict(compare)!r}."
            )
        self.block = block
        self.compare = compare
        self._second: nn.Module | None = None
        self._drawn = 0
        self._fractions: list[float] = []

    def before_run(self, runner: Any) -> None:
        """Refuse a block where there is none to choose."""
        if self.block is not None and not merges_by_stage(bare_model(runner.model)):
            raise InputError(
                f"visualization.block={self.block!r} does nothing: the model has no stages that "
                "merge tokens."
            )

    def before_test(self, runner: Any) -> None:
        """Load the second model."""
        write_whole(self._visualizer)
        self._drawn, self._fractions = 0, []
        if not (self.draw and self.compare and is_main_process()):
            return
        model = load_segmentor(**self.compare)
        own, other = (bare_model(m).decode_head.num_classes for m in (runner.model, model))
        if own != other:
            raise InputError(
                f"--compare {self.compare['config']}: it predicts {other} classes, "
                f"the tested model {own}."
            )
        if isinstance(runner.model, BaseTTAModel):
            model = type(runner.model)(module=model)
        self._second = model.to(next(runner.model.parameters(), torch.zeros(())).device).eval()

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: dict, outputs: Sequence[Any]
    ) -> None:
        """Draw the first image of every ``interval``-th batch."""
        write_whole(self._visualizer)
        step = runner.iter + batch_idx
        if self.draw and step % self.interval == 0 and is_main_process():
            self._draw_image(runner, data_batch, 0, outputs[0], "val", step)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: dict, outputs: Sequence[Any]
    ) -> None:
        """Draw every image of the batch."""
        if not (self.draw and is_main_process()):
            return
        others = self._second.test_step(data_batch) if self._second is not None else ()
        for index, output in enumerate(outputs):
            self._drawn += 1
            name, image = self._draw_image(runner, data_batch, index, output, "test", self._drawn)
            if others:
                self._draw_differences(runner, name, image, output, others[index])

    def after_test(self, runner: Any) -> None:
        """Say how much the predictions differ in all, and let the second model go."""
        if self._fractions:
            runner.logger.info(
                f"The predictions differ from those of {self._names(runner)[1]} on "
                f"{np.mean(self._fractions):.2%} of the pixels of {len(self._fractions)} images."
            )
        self._second = None

    def _draw_image(
        self, runner: Any, batch: dict, index: int, output: Any, mode: str, step: int
    ) -> tuple[str, np.ndarray]:
        """Draw the overlay and the tokens; returns the picture's name and the image (H, W, 3)."""
        path = output.img_path
        if osp.isfile(path) or "://" in path or self.backend_args:
            image = read_shown(path, self.backend_args)
        else:  # drawn, as generated streets are
            image = np.ascontiguousarray(batch["inputs"][index].permute(1, 2, 0).numpy()[..., ::-1])
        name = f"{mode}_{osp.basename(output.img_path)}"
        self._visualizer.add_datasample(
            name, image, data_sample=output, show=self.show, wait_time=self.wait_time, step=step
        )
        model = bare_model(runner.model)
        if merges(model):
            block = self.block or "first"
            pixels, records, note = encode_one(model, batch, index, block)
            seen = pixels.permute(1, 2, 0).byte().cpu().numpy()  # (H, W, 3)
            heading = token_heading(osp.basename(output.img_path), records, block, note)
            self._put(f"{name}_tokens", token_figure(seen, records, heading), step)
        return name, image

    def _draw_differences(
        self, runner: Any, name: str, image: np.ndarray, output: Any, other: Any
    ) -> None:
        first, second = (o.pred_sem_seg.data[0].cpu().numpy() for o in (output, other))
        self._fractions.append(float(differing(first, second).mean()))
        meta = self._visualizer.dataset_meta
        figure = difference_figure(
            image, (first, second), self._names(runner), meta["classes"], meta["palette"]
        )
        self._put(f"{name}_differences", figure, self._drawn)

    def _names(self, runner: Any) -> tuple[str, str]:
        """The two models' names: their configs'."""
        paths = (runner.cfg.filename or "tested model", self.compare["config"])
        first, second = (osp.splitext(osp.basename(path))[0] for path in paths)
        return (first, second) if first != second else (first, f"{second} (compared)")

    def _put(self, name: str, picture: np.ndarray, step: int) -> None:
        if self.show:
            self._visualizer.show(picture, win_name=name, wait_time=self.wait_time)
        else:
            self._visualizer.add_image(name, picture, step)
