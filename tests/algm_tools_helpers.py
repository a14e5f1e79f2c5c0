"""A tiny plain ViT, a tiny data set and a config of both, which the ALGM tools' tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image

from mmtokmerge.engine.launch import import_scope

ROOT = Path(__file__).resolve().parents[1]
CLAP_AND_GBM = (
    'dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold={threshold}), '
    'dict(type="mmtokmerge.GlobalBipartiteMerging", layer=2, threshold={threshold})'
)
TOME = 'dict(type="mmtokmerge.ToMe", layer=[1, 2], feature="K", num_merged=2)'
CONFIG = """
_base_ = ["{root}/configs/_base_/default_runtime.py"]
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255, size=(32, 32)),
    backbone=dict(
        type="mmtokmerge.VisionTransformer", img_size=(32, 32), patch_size=8,
        arch=dict(embed_dims=16, num_layers=3, num_heads=2), with_cls_token=True,
        out_indices=(-1,), out_type="map", final_norm=True, reducers=[{reducers}]),
    decode_head=dict(
        type="FCNHead", in_channels=16, in_index=0, channels=8, num_convs=1, num_classes=3,
        concat_input=False, norm_cfg=dict(type="BN"), align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss")),
    train_cfg=dict(),
    test_cfg={test_cfg})
data = dict(
    type="BaseSegDataset", data_root="{data}", img_suffix=".png", seg_map_suffix=".png",
    metainfo=dict(classes=["a", "b", "c"], palette=[[0, 0, 0], [255, 0, 0], [0, 255, 0]]))
train_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"),
    dict(type="RandomCrop", crop_size=(32, 32)), dict(type="PackSegInputs")]
test_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="RepeatDataset", times=2, dataset=dict(
            **data, pipeline=train_pipeline,
            data_prefix=dict(img_path="images/train", seg_map_path="labels/train"))))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **data, pipeline=test_pipeline,
        data_prefix=dict(img_path="images/val", seg_map_path="labels/val")))
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
"""


def write_tiny(
    folder: Path,
    reducers: str = CLAP_AND_GBM.format(threshold='"auto"'),
    test_cfg: str = 'dict(mode="whole")',
    name: str = "tiny.py",
) -> Path:
    """Write images once, and a config on them with these reducers.

    Args:
        folder: Where images and config go.
        reducers: The list's content as Python text.
        test_cfg: Of the model, as Python text.
        name: Of the config.
    """
    if not (folder / "images").exists():
        write_images(folder, "train", 3, (40, 48))
        write_images(folder, "val", 4, (36, 44))
    config = folder / name
    config.write_text(CONFIG.format(root=ROOT, data=folder, reducers=reducers, test_cfg=test_cfg))
    return config


def write_images(folder: Path, split: str, count: int, shape: tuple[int, int]) -> None:
    """Smooth blocks of three classes under noise; some pixels are ignored."""
    rng = np.random.default_rng(len(split))
    for place in ("images", "labels"):
        (folder / place / split).mkdir(parents=True)
    for index in range(count):
        label = rng.integers(0, 3, (3, 3)).repeat(24, 0).repeat(24, 1)[: shape[0], : shape[1]]
        image = label[..., None] * 80 + rng.integers(0, 20, (*shape, 3))
        label[:3] = 255
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / split / f"{index}.png")
        Image.fromarray(label.astype(np.uint8)).save(folder / "labels" / split / f"{index}.png")


def write_weights(config: Path, seed: int = 0, name: str = "weights.pth") -> Path:
    """A checkpoint of random weights, such as training without merging leaves it: without tau."""
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    import_scope("mmseg")
    init_default_scope("mmseg")
    torch.manual_seed(seed)
    model = MODELS.build(Config.fromfile(config).model)
    weights = {key: value for key, value in model.state_dict().items() if not key.endswith(".tau")}
    for key, value in weights.items():
        if value.is_floating_point() and "running" not in key:
            weights[key] = value + 0.2 * torch.randn_like(value)
    path = config.with_name(name)
    torch.save(
        {"meta": {"dataset_meta": {"classes": ["a", "b", "c"]}}, "state_dict": weights}, path
    )
    return path


def unmerged_tokens(config: Path, weights: Path) -> list[dict[int, torch.Tensor]]:
    """For each training image the tokens ``(N, C)`` after the attention of each layer.

    Taken by forward hooks on the second norm of each layer of a model without reducers, not by
    what the tools use.
    """
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    cfg = Config.fromfile(config)
    cfg.model.backbone.reducers = []
    import_scope("mmseg")
    init_default_scope("mmseg")
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load(weights, weights_only=True)["state_dict"])
    seen: list[dict[int, torch.Tensor]] = []
    for number, layer in enumerate(model.backbone.layers, 1):

        def look(_: object, inputs: tuple[torch.Tensor, ...], number: int = number) -> None:
            seen[-1][number] = inputs[0][0, 1:].double()  # without the class token

        layer.ln2.register_forward_pre_hook(look)
    for path in sorted((config.parent / "images" / "train").iterdir()):
        seen.append({})
        image = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            model.backbone((image.float() - 127.5) / 127.5)
    return seen


def unmerged_cosines(config: Path, weights: Path) -> dict[int, list[torch.Tensor]]:
    """For each layer the cosines of all pairs of each training image."""
    cosines: dict[int, list[torch.Tensor]] = {}
    for image in unmerged_tokens(config, weights):
        for layer, tokens in image.items():
            unit = tokens / tokens.norm(dim=1, keepdim=True)
            upper = torch.ones(len(unit), len(unit), dtype=torch.bool).triu(1)
            cosines.setdefault(layer, []).append((unit @ unit.T)[upper])
    return cosines


def similarity_by_class(
    config: Path, weights: Path, layer: int, window: int | None
) -> dict[str, float]:
    """Mean cosine within and across classes over the training images, pair by pair."""
    same: list[float] = []
    other: list[float] = []
    labels = sorted((config.parent / "labels" / "train").iterdir())
    for path, image in zip(labels, unmerged_tokens(config, weights)):
        label = np.asarray(Image.open(path))
        h, w = label.shape[0] // 8, label.shape[1] // 8
        patches = [label[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] for y in range(h) for x in range(w)]
        pure = [np.unique(patch).tolist() for patch in patches]
        tokens = image[layer]
        for i in range(h * w):
            for j in range(i):
                (y, x), (v, u) = divmod(i, w), divmod(j, w)
                if window is not None:
                    full = y // window < h // window and x // window < w // window
                    if not full or (y // window, x // window) != (v // window, u // window):
                        continue
                if max(len(pure[i]), len(pure[j])) > 1 or 255 in (pure[i][0], pure[j][0]):
                    continue
                cosine = float(torch.cosine_similarity(tokens[i], tokens[j], dim=0))
                (same if pure[i] == pure[j] else other).append(cosine)
    return {
        "intra": sum(same) / len(same),
        "inter": sum(other) / len(other),
        "intra_pairs": len(same),
        "inter_pairs": len(other),
    }
