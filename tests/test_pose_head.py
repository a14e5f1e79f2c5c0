"""The heatmap head: the same result as fusing at full resolution, and its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from pose_helpers import needs_mmpose, synthetic_batch
from torch import Tensor

from mmtokmerge.errors import InputError
from mmtokmerge.pose import import_mmpose
from mmtokmerge.registry import MODELS

pytestmark = needs_mmpose
CHANNELS = [8, 12, 16, 20]
CODEC = dict(type="MSRAHeatmap", input_size=(48, 64), heatmap_size=(12, 16), sigma=2)


def build_head(**settings: Any) -> Any:
    cfg = dict(
        type="mmtokmerge.SegformerPoseHead",
        in_channels=CHANNELS,
        out_channels=5,
        channels=24,
        decoder=dict(CODEC),
    )
    import_mmpose()
    with DefaultScope.overwrite_default_scope("mmpose"):
        return MODELS.build({**cfg, **settings})


def make_maps(batch: int = 2) -> list[Tensor]:
    """Four scales of a 48x64 image (width x height), seeded."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(16, 12), (8, 6), (4, 3), (2, 2)]
    return [torch.randn(batch, c, *hw, generator=generator) for c, hw in zip(CHANNELS, sizes)]


def slow_forward(head: Any, maps: list[Tensor]) -> Tensor:
    """The paper's order: upsample everything, concatenate, then fuse."""
    up = [
        F.interpolate(conv(x), maps[0].shape[2:], mode="bilinear", align_corners=False)
        for conv, x in zip(head.convs, maps)
    ]
    return head.final_layer(head.fusion_conv(torch.cat(up, dim=1)))


@pytest.mark.parametrize("training", [True, False])
def test_equals_fusing_at_full_resolution(training: bool) -> None:
    head = build_head().train(training)
    maps = make_maps()
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        expected = slow_forward(head, maps)
        got = head(maps)
    assert got.shape == (2, 5, 16, 12)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_every_weight_learns() -> None:
    head = build_head()
    head.init_weights()
    _, samples = synthetic_batch(5, (64, 48))
    losses = head.loss(make_maps(), samples)
    assert set(losses) == {"loss_kpt", "acc_pose"}
    losses["loss_kpt"].backward()
    for name, value in head.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, name


def test_the_last_layer_starts_narrow_and_the_others_do_not() -> None:
    torch.manual_seed(0)
    head = build_head()
    head.init_weights()
    assert 0.0005 < head.final_layer.weight.std() < 0.002
    assert head.final_layer.bias.abs().max() == 0
    assert head.convs[3].conv.weight.std() > 0.05


def test_heatmaps_are_float32_in_autocast() -> None:
    head = build_head().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        heatmaps = head(make_maps())
    assert heatmaps.dtype == torch.float32


def test_flip_test_averages_both_views_and_target_weights_mask() -> None:
    head = build_head().eval()
    _, samples = synthetic_batch(5, (64, 48))
    maps = make_maps()
    flipped = [x.flip(-1) for x in maps]
    both, one = (
        head.predict(feats, samples, dict(output_heatmaps=True, **flip))[1][0].heatmaps
        for feats, flip in ((maps, {}), ([maps, flipped], dict(flip_test=True)))
    )
    torch.testing.assert_close(both, one, rtol=1e-4, atol=1e-5)  # 1x1 convolutions mirror exactly
    for sample in samples:
        sample.gt_instance_labels.keypoint_weights.zero_()
    assert head.loss(maps, samples)["loss_kpt"] == 0


def test_another_number_of_keypoints_is_one_sentence() -> None:
    head = build_head()
    _, samples = synthetic_batch(7, (64, 48))
    sentence = r"head.out_channels is 5, but the samples have 7 keypoints \(image noise.png\)"
    with pytest.raises(InputError, match=sentence):
        head.loss(make_maps(), samples)
    with pytest.raises(InputError, match=sentence):
        head.eval().predict(make_maps(), samples)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(in_channels=32), "in_channels must list the channels of each scale, got 32"),
        (dict(in_channels=[]), r"in_channels must list .* got \[\]"),
        (dict(out_channels=0), "out_channels must be the number of keypoints, got 0"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build_head(**settings)


def test_missing_scales_are_one_sentence() -> None:
    with pytest.raises(InputError, match=r"gives 3 scales, but head\.in_channels lists 4"):
        build_head()(make_maps()[:3])
