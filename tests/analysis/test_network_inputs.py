"""What the network is given is what mmseg gives it in a test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmtokmerge.engine.launch import import_scope
from mmtokmerge.measure.inputs import network_inputs

WHOLE = dict(mode="whole")


def slide(crop: tuple[int, int], stride: tuple[int, int]) -> dict[str, Any]:
    return dict(mode="slide", crop_size=crop, stride=stride)


def build(test_cfg: dict[str, Any], size_divisor: int | None = None) -> nn.Module:
    """mmseg's segmentor with the smallest of its backbones."""
    from mmseg.registry import MODELS

    import_scope("mmseg")
    init_default_scope("mmseg")
    preprocessor = dict(type="SegDataPreProcessor", mean=[9.0] * 3, std=[3.0] * 3)
    if size_divisor is not None:
        preprocessor["test_cfg"] = dict(size_divisor=size_divisor)
    backbone = dict(type="MixVisionTransformer", embed_dims=8, num_layers=[1], num_heads=[1])
    backbone.update(sr_ratios=[8], patch_sizes=[7], strides=[4], out_indices=[0], num_stages=1)
    head = dict(type="FCNHead", in_channels=8, channels=4, num_classes=2, num_convs=1, in_index=0)
    head.update(norm_cfg=dict(type="BN"), concat_input=False)
    cfg = dict(type="EncoderDecoder", backbone=backbone, decode_head=head, test_cfg=test_cfg)
    return MODELS.build(ConfigDict(cfg, data_preprocessor=preprocessor)).eval()


def batch_of(shape: tuple[int, int]) -> dict[str, Any]:
    sample = SegDataSample(metainfo=dict(ori_shape=shape, img_shape=shape))
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    return dict(inputs=[image], data_samples=[sample])


@pytest.mark.parametrize("shape", [(32, 32), (33, 50), (40, 71)])
@pytest.mark.parametrize(
    ("test_cfg", "size_divisor"),
    [
        (WHOLE, None),
        (WHOLE, 16),
        (slide((32, 32), (16, 24)), None),
        (slide((32, 40), (32, 7)), 16),
        (slide((64, 64), (32, 32)), None),
    ],
)
def test_equals_what_mmseg_runs(
    shape: tuple[int, int], test_cfg: dict[str, Any], size_divisor: int | None
) -> None:
    model = build(test_cfg, size_divisor)
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    batch = batch_of(shape)
    before = batch["inputs"][0].clone()
    found = network_inputs(model, batch)
    assert torch.equal(batch["inputs"][0], before)
    with torch.no_grad():
        model.test_step(batch)
    assert [each.shape for each in found] == [each.shape for each in seen]
    assert all(torch.equal(a, b) for a, b in zip(found, seen))


def test_a_shape_takes_the_image_whole() -> None:
    model = build(slide((16, 16), (16, 16)))
    (image,) = network_inputs(model, batch_of((40, 50)), (20, 30))
    assert image.shape == (1, 3, 20, 30)
