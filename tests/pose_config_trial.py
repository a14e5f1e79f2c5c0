"""Builds every pose config, and runs those of B0 and B1 on a synthetic batch; prints JSON.

Run in a Python of its own by test_pose_configs.py. The configs of one size share weights: those
after the first are built without memory and take the first one's.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope
from pose_helpers import ROOT, synthetic_batch

from mmtokmerge.pose import import_mmpose

NAME = re.compile(r"b[0-5]_(coco|jbd|mouse|stick)_(none|hq|fast|n2d|plus)")
SIZE = (64, 64)  # not less: PyTorch's bfloat16 convolution gives NaN for maps one wide on some CPUs


def build(cfg: Config, weights: dict[str, Any]) -> Any:
    """The model, its weights shared over ``weights``, a store of state dicts by size."""
    key = f"{cfg.model.backbone.arch} {cfg.model.head.out_channels}"
    cfg.model.backbone.pop("init_cfg", None)
    with torch.device("cpu" if key not in weights else "meta"):
        model = MODELS.build(cfg.model)
    if key in weights:
        model.load_state_dict(weights[key], assign=True)
    return weights.setdefault(key, model.state_dict()), model


def run(model: Any, dtype: torch.dtype | None) -> list[float]:
    """Loss of a training step's forward pass, and the sum of the predicted heatmaps."""
    keypoints = model.head.out_channels
    images, samples = synthetic_batch(keypoints, SIZE, batch=1)
    model.test_cfg["output_heatmaps"] = True
    autocast = torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None)
    with autocast, torch.no_grad():
        loss = model.train()(images, samples, mode="loss")["loss_kpt"]
        predicted = model.eval()(images, samples, mode="predict")
    heatmaps = predicted[0].pred_fields.heatmaps
    assert heatmaps.shape == (keypoints, SIZE[0] // 4, SIZE[1] // 4), heatmaps.shape
    assert heatmaps.dtype == torch.float32
    points = predicted[0].pred_instances.keypoints
    assert points.shape == (1, keypoints, 2)
    return [float(loss), float(heatmaps.double().sum())]


def define_data(cfg: Config) -> None:
    """Build the data sets without reading files, their pipelines, and the evaluators."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = DATASETS.build(dict(loader.dataset, lazy_init=True))
        assert dataset.metainfo["num_keypoints"] == cfg.model.head.out_channels
        assert len(dataset.pipeline.transforms) >= 4
    evaluators = (
        cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    )
    kinds = {type(METRICS.build(evaluator)).__name__ for evaluator in evaluators}
    assert "BoxPCK" in kinds and ("CocoMetric" in kinds) == ("coco" in cfg.filename), kinds


def main(names: list[str]) -> None:
    """Try the configs of these names, all where there are none."""
    import_mmpose()
    torch.set_num_threads(1)
    paths = sorted(
        (ROOT / "configs" / "segformerpp").glob("*.py"), key=lambda p: "none" not in p.stem
    )
    paths = [path for path in paths if NAME.fullmatch(path.stem)]
    done, weights = {}, {}
    for path in [p for p in paths if not names or p.stem in names]:
        cfg = Config.fromfile(Path(path))
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            define_data(cfg)
            codec = cfg.model.head.decoder
            _, model = build(cfg, weights)
            small = path.stem.startswith(
                ("b0", "b1")
            )  # larger ones differ in depth and width alone
            done[path.stem] = dict(
                fp32=run(model, None) if small else None,
                bf16=run(model, torch.bfloat16) if small else None,
                input=list(codec.input_size),
                heatmap=list(codec.heatmap_size),
                sigma=codec.sigma,
            )
    print(json.dumps(done))


if __name__ == "__main__":
    main(sys.argv[1:])
