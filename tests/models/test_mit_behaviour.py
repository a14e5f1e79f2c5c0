"""MiT++ in use: every preset at odd sizes, training, precision, seeds and downsampling."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmtokmerge.merging import BipartiteMatcher, TokenAssignment
from mmtokmerge.models import MiTPlusPlus

TINY = dict(embed_dims=8, num_layers=[1, 2, 1, 1])
# On CPUs with AMX torch's bf16 convolution of kernel and stride 8 is wrong below 32 channels.
NARROW = dict(embed_dims=32, num_layers=[1, 1, 1, 1])
MIXED = [
    dict(q_mode="n2d", q_stride=2, r_kv=0.9, kv_stride=4, proportional=True),
    dict(q_mode="n1d", q_stride=3, kv_mode="n1d", kv_stride=2, proportional=True),
    dict(r_q=0.5, r_kv=0.25),
    dict(q_mode="n2d", q_stride=(1, 2), kv_mode="n2d", kv_stride=(2, 1)),
]
OPTIONS = [
    dict(q_mode="n2d", unmerge="bilinear", r_kv=0.9, kv_stride=4, destination="centre", reuse=2),
    dict(r_q=0.9, q_stride=4, r_kv=0.5, match="local", proportional=True, reuse=2),
    dict(r_q=0.5, match="local", destination="centre", reuse=7),
    dict(q_mode="n2d", unmerge="bilinear"),
]
MERGINGS = {
    "none": "none",
    "hq": "hq",
    "fast": "fast",
    "n2d": "n2d",
    "mixed": MIXED,
    "options": OPTIONS,
}
each_merging = pytest.mark.parametrize("merging", MERGINGS.values(), ids=MERGINGS)


def build(merging: Any = "hq", seed: int = 0, **kwargs: Any) -> MiTPlusPlus:
    torch.manual_seed(seed)
    return MiTPlusPlus(kwargs.pop("arch", TINY), merging=merging, **kwargs)


def loss(model: MiTPlusPlus, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    return sum((torch.randn_like(f) * f).sum() for f in model(x))  # type: ignore[return-value]


@each_merging
@pytest.mark.parametrize("size", [(33, 47), (17, 9), (64, 64), (1, 1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_forward_and_backward(merging: Any, size: tuple[int, int], batch: int) -> None:
    model = build(merging)
    features = model(torch.randn(batch, 3, *size))
    for feature, channels, stride in zip(features, (8, 16, 40, 64), (4, 8, 16, 32)):
        assert feature.shape == (batch, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert torch.isfinite(feature).all()
    torch.manual_seed(1)
    sum((torch.randn_like(f) * f).sum() for f in features).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@each_merging
def test_every_parameter_learns(merging: Any) -> None:
    model = build(merging)
    loss(model, torch.randn(1, 3, 97, 130)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("merging", ["hq", "fast", "n2d"])
def test_a_preset_changes_the_features(merging: str) -> None:
    """Nothing is worse than a preset that merges nothing and says nothing."""
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        plain, merged = build("none").eval()(x), build(merging).eval()(x)
    for a, b in zip(plain, merged):
        assert (a - b).norm() / a.norm() > 1e-4


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("side", ["q", "kv"])
def test_each_stage_merges_as_its_own_dict_says(stage: int, side: str) -> None:
    """Features before the one merging stage stay as they are; its own and later ones change."""
    merging: list[dict[str, Any]] = [{}, {}, {}, {}]
    merging[stage] = {f"{side}_mode": "n2d", f"{side}_stride": 2}
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    with torch.no_grad():
        plain = build("none").double().eval()(x)
        merged = build(merging).double().eval()(x)
    changed = [not torch.allclose(a, b) for a, b in zip(plain, merged)]
    assert changed == [index >= stage for index in range(4)]


def test_proportional_changes_the_features_of_hq() -> None:
    x = torch.randn(1, 3, 128, 128)
    off, on = build("hq").eval()(x), build("hq", proportional=True).eval()(x)
    assert (off[0] - on[0]).norm() / off[0].norm() > 1e-4


@each_merging
def test_checkpointing_gives_equal_gradients(merging: Any) -> None:
    plain = build(merging, drop_path_rate=0.5, drop_rate=0.1)
    saving = build(merging, drop_path_rate=0.5, drop_rate=0.1, with_cp=True)
    x = torch.randn(2, 3, 40, 56)
    results = [loss_with_seed(model, x) for model in (plain, saving)]
    torch.testing.assert_close(results[0], results[1])
    for (name, a), b in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def loss_with_seed(model: MiTPlusPlus, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    value = sum(f.square().sum() for f in model(x))
    value.backward()  # type: ignore[union-attr]
    return value.detach()  # type: ignore[union-attr]


def test_a_seed_decides_a_training_step() -> None:
    model = build("hq", drop_path_rate=0.5, drop_rate=0.1, attn_drop_rate=0.1).train()
    x = torch.randn(4, 3, 40, 56)
    grads = []
    for seed in (3, 3, 4):
        model.zero_grad()
        torch.manual_seed(seed)
        sum(f.square().sum() for f in model(x)).backward()  # type: ignore[union-attr]
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(grads[0], grads[1]))
    assert not all(torch.equal(a, b) for a, b in zip(grads[0], grads[2]))


def test_drop_path_grows_from_zero_to_its_rate() -> None:
    model = build(drop_path_rate=0.4)
    rates = [block.drop_path.drop_prob for _, blocks, _ in model.layers for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@each_merging
def test_images_do_not_touch_each_other(merging: Any) -> None:
    model = build(merging).double().eval()
    x = torch.randn(3, 3, 57, 83, dtype=torch.float64)
    with torch.no_grad():
        together = model(x)
        for row in range(3):
            for a, b in zip(model(x[row : row + 1]), together):
                torch.testing.assert_close(a[0], b[row])


@each_merging
@pytest.mark.parametrize("train", [False, True])
def test_autocast(merging: Any, train: bool) -> None:
    model = build(merging, arch=NARROW)
    x = torch.randn(2, 3, 64, 96)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
        value = sum(f.float().square().mean() for f in out)
    if train:
        value.backward()  # type: ignore[union-attr]
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        assert all(p.grad is not None for p in model.parameters())
    for a, b in zip(out, exact):
        assert torch.isfinite(a).all()
        assert F.cosine_similarity(a.float().flatten(), b.flatten(), 0) > 0.95


@each_merging
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("downsample", [1, 2])
def test_half_precision(merging: Any, dtype: torch.dtype, downsample: int) -> None:
    model = build(merging, arch=NARROW, downsample=downsample).eval()
    x = torch.randn(2, 3, 128, 192)
    with torch.inference_mode():
        exact = model(x)
        out = copy.deepcopy(model).to(dtype)(x.to(dtype))
    for a, b in zip(out, exact):
        assert a.dtype == dtype
        assert torch.isfinite(a).all()
        assert F.cosine_similarity(a.float().flatten(), b.flatten(), 0) > 0.95


@each_merging
def test_inference_then_training_then_another_size(merging: Any) -> None:
    model = build(merging)
    for size in ((36, 52), (52, 36), (36, 52)):
        x = torch.randn(2, 3, *size)
        with torch.inference_mode():
            expected = [f.clone() for f in model(x)]
        features = model(x)
        sum(f.square().sum() for f in features).backward()  # type: ignore[union-attr]
        for a, b in zip(features, expected):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 7)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_downsampling_halves_the_image(size: tuple[int, int], mode: str) -> None:
    x = torch.randn(2, 3, *size)
    if mode == "nearest":
        half = x[:, :, ::2, ::2]  # decimation, as the paper's authors
    else:
        rounded_up = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        half = F.interpolate(x, rounded_up, mode="bilinear", align_corners=False, antialias=True)
    with torch.no_grad():
        out = build("none", downsample=2, downsample_mode=mode).eval()(x)
        expected = build("none").eval()(half)
    for a, b, stride in zip(out, expected, (8, 16, 32, 64)):
        assert a.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride))
        torch.testing.assert_close(a, b)


def test_downsampling_is_bilinear_unless_told() -> None:
    x = torch.randn(1, 3, 32, 32)
    outs = [
        build("none", downsample=2, **mode).eval()(x)[0]
        for mode in ({}, dict(downsample_mode="bilinear"), dict(downsample_mode="nearest"))
    ]
    assert torch.equal(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])


@pytest.mark.parametrize(("reuse", "matchings"), [(1, 5), (2, 3), (3, 2), (5, 1), (9, 1)])
def test_blocks_share_a_matching(
    reuse: int, matchings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    assign = BipartiteMatcher.assign

    def counted(self: BipartiteMatcher, x: torch.Tensor, hw: tuple[int, int]) -> TokenAssignment:
        calls.append(hw)
        return assign(self, x, hw)

    monkeypatch.setattr(BipartiteMatcher, "assign", counted)
    merging = [dict(r_kv=0.5, reuse=reuse), {}, dict(r_q=0.5), {}]
    model = build(merging, arch=dict(embed_dims=8, num_layers=[5, 1, 2, 1])).eval()
    model(torch.randn(1, 3, 128, 128))
    assert calls == [(4, 4)] * matchings + [(8, 8)] * 2


def test_reuse_merges_as_the_first_block_did() -> None:
    """Each block gets the groups of the first of its run, whatever its own tokens say."""
    merging = [dict(r_q=0.5, r_kv=0.5, reuse=2), {}, {}, {}]
    model = build(merging, arch=dict(embed_dims=8, num_layers=[3, 1, 1, 1])).eval()
    made = []
    for block in model.layers[0][1]:
        block.attn.register_forward_hook(lambda module, inputs, out: made.append(out[1]))
    model(torch.randn(1, 3, 64, 64))
    assert made[0] is made[1]
    assert not torch.equal(made[1].q.groups, made[2].q.groups)


def test_out_indices_choose_stages() -> None:
    x = torch.randn(1, 3, 64, 64)
    every = build("hq").eval()(x)
    some = build("hq", out_indices=(1, 3)).eval()(x)
    assert [f.shape for f in some] == [every[1].shape, every[3].shape]
    assert torch.equal(some[0], every[1]) and torch.equal(some[1], every[3])


def test_forward_changes_no_configuration() -> None:
    model = build(MIXED)
    before, state = copy.deepcopy(model.merging), set(vars(model))
    model(torch.randn(1, 3, 33, 47))
    assert model.merging == before and set(vars(model)) == state


def test_forward_leaves_the_image_alone() -> None:
    for mode in (dict(), dict(downsample=2)):
        x = torch.randn(1, 3, 32, 32)
        kept = x.clone()
        build("hq", **mode)(x)
        assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        (dict(arch="b6"), ValueError, "arch='b6'.*b0.*b5"),
        (dict(arch=5), TypeError, "arch.*5"),
        (dict(merging="faster"), ValueError, "merging='faster'.*'none', 'hq', 'fast', 'n2d'"),
        (dict(merging=[{}] * 3), ValueError, "merging.*four.*3"),
        (dict(merging=[dict(r_q=0.9)] + [{}] * 3), ValueError, r"stage 1.*r_q=0\.9.*0\.75"),
        (dict(downsample=3), ValueError, "downsample.*1 or 2.*3"),
        (dict(downsample="2"), ValueError, "downsample.*1 or 2.*'2'"),
        (dict(downsample_mode="bicubic"), ValueError, "downsample_mode='bicubic'.*'bilinear'"),
        (dict(downsample=1, downsample_mode="nearest"), ValueError, "downsample_mode.*downsample"),
        (dict(out_indices=(0, 4)), ValueError, r"out_indices.*\(0, 4\)"),
        (dict(out_indices=(-1,)), ValueError, r"out_indices.*-1"),
        (dict(out_indices=3), (TypeError, ValueError), "out_indices.*3"),
        (dict(out_indices=()), ValueError, r"out_indices.*\(\)"),
        (dict(drop_path_rate=1.0), ValueError, r"drop_path_rate.*1\.0"),
        (dict(drop_path_rate=-0.1), ValueError, r"drop_path_rate.*-0\.1"),
        (dict(drop_rate=1.5), ValueError, r"drop.*1\.5"),
        (dict(attn_drop_rate=1.5), ValueError, r"attn_drop_rate.*1\.5"),
        (dict(proportional=True, merging="n2d"), ValueError, "proportional=True.*r_kv"),
        (dict(pretrained=3), TypeError, "pretrained"),
    ],
)
def test_wrong_settings_are_one_sentence(setting: dict[str, Any], error: Any, message: str) -> None:
    with torch.device("meta"), pytest.raises(error, match=message):
        MiTPlusPlus(**setting)
