"""Draws true and predicted keypoints, heatmaps and merged tokens; importing this needs MMPose."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmpose.engine.hooks import PoseVisualizationHook
from mmpose.structures import merge_data_samples

from mmtokmerge.engine.hooks.strict_load import bare_model
from mmtokmerge.engine.hooks.whole_pictures import write_whole
from mmtokmerge.errors import InputError
from mmtokmerge.registry import HOOKS
from mmtokmerge.visualization import Panel, encode_one, panel_figure, token_figure
from mmtokmerge.visualization.pictures import read_shown, write_picture
from mmtokmerge.visualization.record import BLOCKS


@HOOKS.register_module()
class PoseMergeVisualizationHook(PoseVisualizationHook):
    """mmpose's hook, with the truth beside the prediction, heatmaps, and the merged tokens.

    For each box that is tested, ``<image>_<n>`` shows true and predicted keypoints on the image and
    the maximum over the predicted heatmaps, ``<image>_<n>_tokens`` one panel for each part that a
    stage merges, on the box as the encoder saw it; a model that merges nothing has none. They are
    files in ``out_dir``, or go to the visualizer's backends (TensorBoard, W&B) without it. In
    distributed tests the first process draws its share.

    Args:
        enable: Whether to draw at all.
        interval: Validation draws the first box of every ``interval``-th batch; testing every box.
        kpt_thr: Predicted keypoints of a lower score are not drawn.
        show: Show the pictures in a window instead of saving them.
        wait_time: Seconds between windows.
        out_dir: Folder of the pictures of a test.
        backend_args: Arguments of mmengine's file backend.
        block: 'first' or 'last', whose tokens are drawn of each stage.

    Raises:
        InputError: If ``block`` is unknown.
    """

    def __init__(
        self,
        enable: bool = False,
        interval: int = 50,
        kpt_thr: float = 0.3,
        show: bool = False,
        wait_time: float = 0.0,
        out_dir: str | None = None,
        backend_args: dict | None = None,
        block: str = "first",
    ) -> None:
        super().__init__(enable, interval, kpt_thr, show, wait_time, out_dir, backend_args)
        if block not in BLOCKS:
            raise InputError(f"visualization.block={block!r} is unknown: take 'first' or 'last'.")
        self.block = block

    def before_val(self, runner: Any) -> None:
        """Ask the model for heatmaps too."""
        self._prepare(runner, runner.val_evaluator)

    def before_test(self, runner: Any) -> None:
        """Ask the model for heatmaps too."""
        self._test_index = 0
        self._prepare(runner, runner.test_evaluator)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: dict, outputs: Sequence[Any]
    ) -> None:
        """Draw the first box of every ``interval``-th batch."""
        step = runner.iter + batch_idx
        if self.enable and step % self.interval == 0 and is_main_process():
            self._draw(runner, data_batch, 0, outputs[0], "val", step, None)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: dict, outputs: Sequence[Any]
    ) -> None:
        """Draw every box of the batch."""
        if not (self.enable and is_main_process()):
            return
        for index, output in enumerate(outputs):
            self._test_index += 1
            stem = osp.splitext(osp.basename(output.img_path))[0]
            name = f"{stem}_{self._test_index}"
            self._draw(runner, data_batch, index, output, name, self._test_index, self.out_dir)

    def _prepare(self, runner: Any, evaluator: Any) -> None:
        if self.enable:
            bare_model(runner.model).test_cfg["output_heatmaps"] = True
            self._visualizer.set_dataset_meta(evaluator.dataset_meta)

    def _draw(
        self,
        runner: Any,
        batch: dict,
        index: int,
        output: Any,
        name: str,
        step: int,
        folder: str | None,
    ) -> None:
        image = read_shown(output.img_path, self.backend_args)
        file_name = osp.basename(output.img_path)
        self._put(name, self._keypoint_figure(image, output, file_name), step, folder)
        pixels, records, _ = encode_one(bare_model(runner.model), batch, index, self.block)
        if records:
            seen = pixels.permute(1, 2, 0).byte().cpu().numpy()  # (H, W, 3)
            heading = f"{file_name}: merged tokens, {self.block} block of a stage"
            self._put(f"{name}_tokens", token_figure(seen, records, heading), step, folder)

    def _keypoint_figure(self, image: np.ndarray, output: Any, file_name: str) -> np.ndarray:
        sample = merge_data_samples([output])  # brings the heatmaps back to the image
        draw = self._visualizer
        panels = []
        if np.any(sample.gt_instances.keypoints):  # a detector's boxes have no truth
            truth = draw._draw_instances_kpts(image.copy(), sample.gt_instances, self.kpt_thr)
            panels.append(Panel(truth, "Truth"))
        predicted = draw._draw_instances_kpts(image.copy(), sample.pred_instances, self.kpt_thr)
        predicted = draw._draw_instances_bbox(predicted, sample.pred_instances)
        score = float(np.mean(sample.pred_instances.keypoint_scores))
        panels.append(Panel(predicted, "Prediction", f"mean score {score:.2f}"))
        if "pred_fields" in sample:
            heatmaps = draw._draw_instance_heatmap(sample.pred_fields, image)
            panels.append(Panel(heatmaps, "Heatmaps", "maximum over the keypoints"))
        return panel_figure([panels], file_name)

    def _put(self, name: str, picture: np.ndarray, step: int, folder: str | None) -> None:
        if self.show:
            self._visualizer.show(picture, win_name=name, wait_time=self.wait_time)
        elif folder is None:
            write_whole(self._visualizer)
            self._visualizer.add_image(name, picture, step)
        else:
            write_picture(osp.join(folder, f"{name}.png"), picture)
