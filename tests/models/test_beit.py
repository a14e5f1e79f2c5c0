"""BEiT without sharing is mmseg's; a shared or merged token's bias is the mean of its members'."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from tracing import ended, follow

from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.layers import RelativePositions, TokenFeatures
from mmtokmerge.layers.relative_position_bias import stored_index
from mmtokmerge.layers.relative_position_table import count_rows, resize_table
from mmtokmerge.merging import TokenAssignment, superpatch_sharing
from mmtokmerge.models import BEiT
from mmtokmerge.models.overrides import without_merging

beit = pytest.importorskip("mmseg.models.backbones.beit", reason="needs MMSegmentation")

ARCH = dict(embed_dims=32, num_layers=3, num_heads=2)
RANDOM = dict(type="mmtokmerge.RandomPolicy", seed=3)


def randomise(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter) * (0.5 if "table" in name else 0.15)
        is_norm = "ln" in name and name.endswith("weight")
        parameter.data = noise + (1.0 if is_norm else 0.0)
    model.eval()  # mmseg's BEiT returns nothing
    return model


def build(img_size: Any = (48, 80), **kwargs: Any) -> BEiT:
    return follow(randomise(BEiT(ARCH, img_size=img_size, **kwargs)).double())


def pair(img_size: tuple[int, int], **kwargs: Any) -> tuple[nn.Module, BEiT]:
    stock = randomise(beit.BEiT(**ARCH, img_size=img_size, **kwargs)).double()
    ours = BEiT(ARCH, img_size=img_size, **kwargs).double().eval()
    ours.load_state_dict(stock.state_dict())
    return stock, ours


@pytest.mark.parametrize("qv_bias", [True, False])
@pytest.mark.parametrize("img_size", [(64, 64), (48, 80), (16, 32), (96, 16)])
def test_features_and_gradients_equal_mmseg(img_size: tuple[int, int], qv_bias: bool) -> None:
    stock, ours = pair(img_size, qv_bias=qv_bias, final_norm=True, out_indices=[0, 2])
    theirs, own = stock.state_dict(), ours.state_dict()
    assert set(theirs) == set(own)
    for key, value in theirs.items():
        assert torch.equal(value, own[key]), key
    stock.load_state_dict(own)
    x = torch.randn(2, 3, *img_size, dtype=torch.float64)
    for a, b in zip(stock(x), ours(x), strict=True):
        torch.testing.assert_close(b, a, atol=1e-10, rtol=1e-8)
    stock(x)[1].square().mean().backward()
    ours(x)[1].square().mean().backward()
    grads = dict(stock.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name].grad, atol=1e-8, rtol=1e-6)


def interp2d(x: Any, y: Any, z: np.ndarray, kind: str) -> Any:
    """What SciPy had under this name until 1.14, which mmseg still calls."""
    from scipy.interpolate import RectBivariateSpline

    assert kind == "cubic"
    spline = RectBivariateSpline(x, y, z.T)
    return lambda to_x, to_y: spline(to_x, to_y).T


@pytest.mark.parametrize(("before", "after"), [(4, 5), (5, 12), (3, 14), (14, 32)])
def test_a_pretrained_table_grows_as_in_mmseg(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, before: int, after: int
) -> None:
    monkeypatch.setattr(beit.interpolate, "interp2d", interp2d, raising=False)
    weights = randomise(beit.BEiT(**ARCH, img_size=16 * before)).state_dict()
    stock = beit.BEiT(**ARCH, img_size=16 * after)
    wanted = stock.resize_rel_pos_embed(dict(weights))
    torch.save({"state_dict": weights}, tmp_path / "published.pth")
    init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "published.pth"))
    ours = BEiT(ARCH, img_size=16 * after, init_cfg=init_cfg)
    ours.init_weights()
    for key, value in ours.state_dict().items():
        if "index" not in key:
            torch.testing.assert_close(value, wanted[key], atol=1e-5, rtol=1e-4)


def test_other_grids_than_the_trained() -> None:
    """A smaller one has the biases of its distances; a larger one those of a resized table."""
    model = build((64, 64))
    small = BEiT(ARCH, img_size=(48, 32)).double().eval()
    weights = {k: v for k, v in model.state_dict().items() if "table" not in k}
    small.load_state_dict(weights, strict=False)
    for ours, other in zip(model.layers, small.layers):
        table = ours.attn.relative_position_bias_table.data
        near = table[:-3].view(7, 7, 2)[1:6, 2:5].reshape(15, 2)
        other.attn.relative_position_bias_table.data = torch.cat([near, table[-3:]])
    x = torch.randn(2, 3, 48, 32, dtype=torch.float64)
    torch.testing.assert_close(model(x)[0], small(x)[0])
    large = BEiT(ARCH, img_size=(80, 112)).double().eval()
    large.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 80, 112, dtype=torch.float64)
    torch.testing.assert_close(model(x)[0], large(x)[0])
    # Along an axis that is 1 patch, or has as many as before, nothing is changed.
    rows = torch.arange(15.0)[:, None]
    assert resize_table(rows, (2, 3), (1, 3)).flatten().tolist() == [5, 6, 7, 8, 9]
    assert resize_table(torch.ones(1, 1), (1, 1), (3, 2)).flatten().tolist() == [1.0] * 15


def mean_by_loops(table: torch.Tensor, hw: tuple[int, int], state: TokenAssignment) -> torch.Tensor:
    """``(B, heads, 1 + M, 1 + M)``, zeros in rows that are padding."""
    full = table[stored_index(hw)]  # (1 + N, 1 + N, heads)
    batch, most = state.sizes.shape
    found = torch.zeros(batch, table.shape[1], 1 + most, 1 + most, dtype=table.dtype)
    for image in range(batch):
        groups = state.groups[image].tolist()
        members = [[0]] + [
            [1 + n for n, g in enumerate(groups) if g == group] for group in range(most)
        ]
        for i, queries in enumerate(members):
            for j, keys in enumerate(members):
                pairs = [full[q, k] for q in queries for k in keys]
                if pairs:
                    found[image, :, i, j] = torch.stack(pairs).mean(0)
    return found


@pytest.mark.parametrize("hw", [(4, 6), (5, 3), (1, 4), (7, 2)])
@pytest.mark.parametrize("kind", ["number", "threshold", "groups"])
def test_the_bias_is_the_mean_over_members(hw: tuple[int, int], kind: str) -> None:
    torch.manual_seed(1)
    count = hw[0] * hw[1]
    scores = torch.rand(3, -(-hw[0] // 2), -(-hw[1] // 2))
    most = (hw[0] // 2) * (hw[1] // 2)
    if kind == "groups":
        state = TokenAssignment.from_groups(torch.randint(5, (3, count)), 6)
        state = TokenAssignment(state.groups, state.sizes, padded=True)
    elif kind == "number":
        state = superpatch_sharing(scores, hw, num_shared=(most + 1) // 2)
    else:
        state = superpatch_sharing(scores, hw, threshold=0.5)
    table = torch.randn(count_rows(hw), 2, dtype=torch.float64, requires_grad=True)
    positions = RelativePositions.of(hw, state, kind != "groups", None, torch.device("cpu"))
    bias = positions.bias(table, hw, torch.float64)
    wanted = mean_by_loops(table, hw, state)
    real = torch.nn.functional.pad(state.sizes > 0, (1, 0), value=True)
    pairs = (real[:, None, :, None] & real[:, None, None]).expand_as(wanted)
    assert bias.shape == wanted.shape
    torch.testing.assert_close(bias[pairs], wanted[pairs], atol=1e-6, rtol=1e-6)
    weight = torch.randn(int(pairs.sum()), dtype=torch.float64)
    (a,) = torch.autograd.grad((bias[pairs] * weight).sum(), table)
    (b,) = torch.autograd.grad((wanted[pairs] * weight).sum(), table)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("proportional", [False, True])
@pytest.mark.parametrize("reducers", [False, True])
def test_a_layer_by_hand(reducers: bool, proportional: bool) -> None:
    """Sharing, then a reducer in layer 2: the last layer's input and assignment give its output."""
    clap = dict(type="mmtokmerge.ConditionalLocalPooling", layer=2, threshold=-0.2)
    model = build(
        (80, 96),
        sharing=dict(policy=RANDOM, threshold=0.05),
        reducers=[clap] if reducers else [],
        proportional=proportional,
        out_indices=[1, 2],
        out_type="tokens",
    )
    x = torch.randn(2, 3, 80, 96, dtype=torch.float64)
    with torch.no_grad():
        before, after = model(x)
    state = ended(model).assignment
    assert ended(model).sharing.num_groups < 30
    assert state.num_groups < ended(model).sharing.num_groups or not reducers
    tokens = torch.cat([before.cls_token, before.tokens], dim=1)
    layer, attn = model.layers[2], model.layers[2].attn
    bias = mean_by_loops(attn.relative_position_bias_table, (5, 6), state)
    sizes = torch.nn.functional.pad(state.sizes, (1, 0), value=1).double()
    weight = sizes if proportional else (sizes > 0).double()
    y = layer.ln1(tokens)
    q, k, v = (y @ attn.qkv.weight.t()).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
    q = q + attn.q_bias.view(2, 1, 16)
    v = v + attn.v_bias.view(2, 1, 16)
    logits = q @ k.transpose(2, 3) / 4 + bias + weight.log()[:, None, None]
    y = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
    tokens = tokens + layer.gamma_1 * attn.proj(y)
    tokens = tokens + layer.gamma_2 * layer.ffn(layer.ln2(tokens))
    real = state.sizes > 0
    torch.testing.assert_close(after.tokens[real], tokens[:, 1:][real], atol=1e-5, rtol=1e-4)


def test_explicit_attention_recomputation_and_copies_change_nothing() -> None:
    settings = dict(sharing=dict(policy=RANDOM, num_shared=0.5), out_indices=[0, 2])
    ours = build(**settings)
    slow = build(fused_attention=False, with_cp=True, **settings)
    copied = copy.deepcopy(pickle.loads(pickle.dumps(ours)))
    x = torch.randn(2, 3, 48, 80, dtype=torch.float64)
    for model in (ours, slow, copied):
        model(x)[1].square().mean().backward()
    for a, b, c in zip(ours.parameters(), slow.parameters(), copied.parameters()):
        torch.testing.assert_close(b.grad, a.grad, atol=1e-8, rtol=1e-6)
        torch.testing.assert_close(c.grad, a.grad)
    assert ended(ours).sharing.num_groups == 15 - 3


def test_tokens_and_nothing_shared() -> None:
    model = build(sharing=dict(policy=RANDOM, num_shared=2), out_type="tokens", final_norm=True)
    plain = build(final_norm=True)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 48, 80, dtype=torch.float64)
    out = model(x)[0]
    assert isinstance(out, TokenFeatures)
    assert out.tokens.shape == (2, 9, 32) and out.cls_token.shape == (2, 1, 32)
    with without_merging(model):
        torch.testing.assert_close(model(x)[0].to_map(), plain(x)[0])


def test_tables_of_pretraining_and_of_other_shapes(tmp_path: Any) -> None:
    """One table for all layers is given to each; what is not square is an error."""
    source = build((48, 48))
    weights = {k: v for k, v in source.state_dict().items() if "relative_position" not in k}
    table = torch.randn(28, 2)
    path = tmp_path / "published.pth"
    torch.save({**weights, "rel_pos_bias.relative_position_bias_table": table}, path)
    init_cfg = dict(type="Pretrained", checkpoint=str(path))
    model = BEiT(ARCH, img_size=48, init_cfg=init_cfg)
    model.init_weights()
    for layer in model.layers:
        assert torch.equal(layer.attn.relative_position_bias_table, table)
    # 5x5 patches and 2x14 both have 81 relative positions.
    torch.save(build((80, 80)).state_dict(), path)
    model = BEiT(ARCH, img_size=(32, 224), init_cfg=init_cfg)
    model.init_weights()
    own = build((80, 80)).layers[0].attn.relative_position_bias_table[:-3].view(9, 9, 2)
    got = model.layers[0].attn.relative_position_bias_table[:-3].view(3, 27, 2)
    torch.testing.assert_close(got[:, 13].double(), own[3:6, 4], atol=1e-5, rtol=1e-4)
    torch.save(dict(build((48, 80)).state_dict()), path)  # a plain dict does not say its grid
    with pytest.raises(InputError, match=r"relative_position_bias_table .* \(48, 2\)"):
        BEiT(ARCH, img_size=64, init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        (dict(arch="s"), InputError, "arch='s' is unknown, allowed are 'b', 'l'"),
        (dict(arch=ARCH, init_values="1"), InputTypeError, "init_values"),
        (dict(arch=ARCH, out_type="maps"), InputError, "out_type='maps'"),
    ],
)
def test_bad_settings(kwargs: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        BEiT(**kwargs)


def test_weights_without_a_final_norm_begin_with_the_identity(tmp_path: Any) -> None:
    """Fine-tuned for classification BEiT has none; pretrained alone it is called norm."""
    weights = build((48, 48)).state_dict()
    path = tmp_path / "published.pth"
    init_cfg = dict(type="Pretrained", checkpoint=str(path))
    torch.save(weights, path)
    model = BEiT(ARCH, img_size=48, final_norm=True, init_cfg=init_cfg)
    model.init_weights()
    assert torch.equal(model.ln1.weight, torch.ones(32))
    torch.save(
        {
            **weights,
            "norm.weight": torch.full((32,), 2.0),
            "norm.bias": weights["layers.0.ln1.bias"],
        },
        path,
    )
    model.init_weights()
    assert torch.equal(model.ln1.weight, torch.full((32,), 2.0))
    assert torch.equal(model.ln1.bias.double(), weights["layers.0.ln1.bias"])
    del weights["layers.1.gamma_1"]
    torch.save(weights, path)
    with pytest.raises(InputError, match=r"layers\.1\.gamma_1 is missing"):
        model.init_weights()


UPERNET = dict(
    neck=dict(
        type="mmseg.Feature2Pyramid",
        embed_dim=32,
        rescales=[4, 2, 1, 0.5],
        norm_cfg=dict(type="BN"),
    ),
    decode_head=dict(
        type="mmseg.UPerHead",
        in_channels=[32] * 4,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2),
        channels=8,
        num_classes=3,
        norm_cfg=dict(type="BN"),
        align_corners=False,
        loss_decode=dict(type="mmseg.CrossEntropyLoss"),
    ),
)
SEGMENTER = dict(
    decode_head=dict(
        type="mmtokmerge.SegmenterMaskTransformerHead",
        in_channels=32,
        channels=32,
        embed_dims=32,
        num_layers=1,
        num_heads=2,
        num_classes=3,
        loss_decode=dict(type="mmseg.CrossEntropyLoss"),
    ),
)


@pytest.mark.parametrize("kind", ["upernet", "segmenter"])
def test_a_step_of_training_with_shared_tokens(kind: str) -> None:
    """Every parameter of the backbone has a gradient, and a prediction has the image's size."""
    from mmengine.config import ConfigDict
    from mmengine.optim import OptimWrapper
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from mmtokmerge.registry import MODELS

    torch.manual_seed(0)
    maps = kind == "upernet"
    model = MODELS.build(
        dict(
            type="mmtokmerge.SharingEncoderDecoder",
            data_preprocessor=dict(type="mmseg.SegDataPreProcessor", size=(64, 96)),
            backbone=dict(
                type="mmtokmerge.BEiT",
                arch=dict(embed_dims=32, num_layers=4, num_heads=2),
                img_size=(64, 96),
                out_indices=(0, 1, 2, 3) if maps else -1,
                out_type="map" if maps else "tokens",
                final_norm=True,
                sharing=dict(policy=RANDOM, num_shared=0.5),
            ),
            test_cfg=ConfigDict(mode="whole"),
            **(UPERNET if maps else SEGMENTER),
        )
    )
    model.init_weights()
    label = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(3, (1, 64, 96))))
    label.set_metainfo(dict(img_shape=(64, 96), ori_shape=(64, 96), pad_shape=(64, 96)))
    data = dict(inputs=[torch.rand(3, 64, 96)] * 2, data_samples=[label, label])
    moved = {}
    follow(model.backbone)
    for name, value in model.backbone.named_parameters():
        value.register_hook(lambda grad, name=name: moved.update({name: bool(grad.any())}))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    logs = model.train().train_step(data, wrapper)
    assert torch.isfinite(logs["loss"])
    assert moved == dict.fromkeys(dict(model.backbone.named_parameters()), True)
    assert ended(model.backbone).sharing.num_groups == 24 - 3 * 3
    out = model.eval().test_step(data)
    assert out[0].pred_sem_seg.data.shape == (1, 64, 96)
