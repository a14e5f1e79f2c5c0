"""Build and run every config of the plain ViT in one interpreter, narrow, and report on each.

A config keeps its layers, reducers, heads and losses; the ViT is 32 channels wide instead of 192 to
1,024, its heads follow, and the images are 128x160. ToMe merges one token a layer, an automatic
threshold is 0. Prints one JSON object: for each config, relative to the folder of configs, what
``tests/test_algm_configs.py`` checks, or the error that was raised.

    python tests/reference/run_vit_configs.py configs algm
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

from mmtokmerge.layers.reducers import ThresholdReducer
from mmtokmerge.merging.trace import trace
from mmtokmerge.models.backbones import EVA

WIDTH, HEADS = 32, 2
SIZE = (128, 160)


def narrow(value: Any, width: int) -> Any:
    """A head's or neck's config for a ViT of ``WIDTH`` channels instead of ``width``."""
    if isinstance(value, dict):
        made = {key: narrow(item, width) for key, item in value.items()}
        if made.get("type") == "SyncBN":
            made["type"] = "BN"
        return {**made, "num_heads": HEADS} if "num_heads" in made else made
    if isinstance(value, (list, tuple)):
        return type(value)(narrow(item, width) for item in value)
    return WIDTH if isinstance(value, int) and value == width else value


def narrow_model(model: ConfigDict) -> ConfigDict:
    """The config of a model that runs in a moment: as wide as ``WIDTH``, and from scratch."""
    model = model.to_dict()
    outer = model["backbone"]
    backbone = outer.get("vit", outer)  # an adapter holds its ViT
    arch = EVA.archs[backbone["arch"]]
    if outer is not backbone:
        outer |= dict(num_heads=HEADS, norm_cfg=dict(type="BN"))
    backbone["arch"] = dict(arch, embed_dims=WIDTH, num_heads=HEADS)
    backbone.pop("init_cfg", None)
    for reducer in backbone.get("reducers", ()):
        if "num_merged" in reducer:
            reducer["num_merged"] = 1
    for part in ("neck", "decode_head", "auxiliary_head"):
        if part in model:
            model[part] = narrow(model[part], arch["embed_dims"])
    return ConfigDict(model)


def make_batch(num_classes: int) -> tuple[torch.Tensor, list[SegDataSample]]:
    """Two images with labels, some of them ignored."""
    images = torch.randn(2, 3, *SIZE)
    samples = []
    for _ in images:
        label = torch.randint(num_classes, (1, SIZE[0] // 16, SIZE[1] // 16))
        label = label.repeat_interleave(16, 1).repeat_interleave(16, 2)
        label[:, :8] = 255
        meta = dict(ori_shape=SIZE, img_shape=SIZE, pad_shape=SIZE, padding_size=[0, 0, 0, 0])
        samples.append(SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=label)))
    return images, samples


def run(path: Path) -> dict[str, Any]:
    """Build a config's model, narrow, and run its forward pass, its losses and its prediction."""
    cfg = Config.fromfile(path)
    torch.manual_seed(0)
    model = MODELS.build(narrow_model(cfg.model))
    model.init_weights()
    refused = None
    images, samples = make_batch(cfg.model.decode_head.num_classes)
    automatic = [
        reducer
        for reducer in getattr(model.backbone, "vit", model.backbone).reducers
        if isinstance(reducer, ThresholdReducer) and reducer.auto
    ]
    with torch.no_grad():
        if automatic:
            try:
                model.eval()(images, mode="tensor")
            except ValueError as error:
                refused = str(error)
        for reducer in automatic:
            reducer.threshold = 0.0
        losses = model.train()(images, samples, mode="loss")
        model.eval()
        with trace(model) as merges:
            logits = model(images, mode="tensor")
        kept = merges.assignment
        predicted = model(images, samples, mode="predict")
    patches = (SIZE[0] // 16) * (SIZE[1] // 16)
    return dict(
        refused=refused,
        losses={
            key: float(sum(torch.as_tensor(v).sum() for v in as_list(value)))
            for key, value in losses.items()
        },
        logits=list(logits.shape),
        finite=bool(logits.isfinite().all()),
        predicted=[list(sample.pred_sem_seg.data.shape) for sample in predicted],
        patches=patches,
        kept=[patches] * 2 if kept is None else (kept.sizes > 0).sum(1).expand(2).tolist(),
    )


def as_list(value: Any) -> list[Any]:
    """A loss, or the list that it is."""
    return value if isinstance(value, list) else [value]


def main() -> None:
    """Run all configs under a folder of the folder of configs."""
    root, folder = Path(sys.argv[1]), sys.argv[2]
    register_all_modules(init_default_scope=False)
    init_default_scope("mmseg")
    torch.set_num_threads(1)
    report = {}
    for path in sorted((root / folder).rglob("*.py")):
        try:
            result = run(path)
        except Exception:  # one broken config must not hide the others
            result = dict(error=traceback.format_exc(limit=-4))
        report[path.relative_to(root).as_posix()] = result
    print(json.dumps(report))


if __name__ == "__main__":
    main()
