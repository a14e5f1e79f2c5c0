"""ViT-Adapter, deformable attention and EVA: against loops, transformers' parts, and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from tracing import follow

from mmtokmerge.errors import InputError
from mmtokmerge.layers.adapter import ConvFFN
from mmtokmerge.layers.deformable_attention import DeformableAttention, centres, sample
from mmtokmerge.merging.trace import trace
from mmtokmerge.models import EVA, BEiT, ViTAdapter
from mmtokmerge.models.overrides import without_merging
from mmtokmerge.models.weights.fit import fit_weights

ARCH = dict(embed_dims=32, num_layers=4, num_heads=2)
CLAP = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=0.2)
GBM = dict(type="mmtokmerge.GlobalBipartiteMerging", layer=[2, 3, 4], threshold=0.2)


def value_at(image: list[list[list[float]]], x: float, y: float) -> list[float]:
    """Bilinear, of a map (h, w, d) whose pixels' middles lie at halves; zeros outside."""
    height, width, channels = len(image), len(image[0]), len(image[0][0])
    px, py = x * width - 0.5, y * height - 0.5
    found = [0.0] * channels
    for row in (math.floor(py), math.floor(py) + 1):
        for column in (math.floor(px), math.floor(px) + 1):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(py - row)) * (1 - abs(px - column))
                found = [f + share * v for f, v in zip(found, image[row][column])]
    return found


def test_sampling_equals_loops() -> None:
    torch.manual_seed(0)
    shapes, heads, width, points, queries = [(3, 5), (2, 2)], 2, 3, 2, 4
    value = torch.randn(2, 19, heads, width, dtype=torch.float64)
    places = torch.rand(2, queries, heads, 2, points, 2, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, queries, heads, 2, points, dtype=torch.float64)
    found = sample(value, shapes, places, weights).unflatten(2, (heads, width))
    starts = [0, 15]
    for b in range(2):
        for q in range(queries):
            for h in range(heads):
                total = [0.0] * width
                for level, (rows, columns) in enumerate(shapes):
                    part = value[b, starts[level] : starts[level] + rows * columns, h]
                    image = part.unflatten(0, (rows, columns)).tolist()
                    for p in range(points):
                        x, y = places[b, q, h, level, p].tolist()
                        share = float(weights[b, q, h, level, p])
                        taken = value_at(image, x, y)
                        total = [t + share * v for t, v in zip(total, taken)]
                torch.testing.assert_close(found[b, q, h], torch.tensor(total).double())


def test_the_module_equals_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.mask2former import modeling_mask2former as host

    del transformers
    torch.manual_seed(0)
    theirs = host.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(32, 4, 3, 4)
    own = DeformableAttention(32, 4, 3, 4)
    for module in (own, theirs):  # both begin with weights that choose nothing
        torch.manual_seed(1)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    own.load_state_dict(theirs.state_dict())
    shapes = [(4, 6), (2, 3), (1, 2)]
    query, value = torch.randn(2, 24, 32), torch.randn(2, 32, 32)
    places = centres((4, 6), query.device, query.dtype)
    found = own(query, value, places, shapes)
    expected, _ = theirs(
        query,
        encoder_hidden_states=value,
        reference_points=places[None, :, None].expand(2, -1, 3, -1),
        spatial_shapes_list=shapes,
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_mmcvs_operator_is_taken_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in of its arguments, which are mmcv's: it sees what our own function sees."""
    import sys
    from types import ModuleType

    from mmtokmerge.layers import deformable_attention as own
    from mmtokmerge.models.backbones.deformable_operator import use_compiled

    class Function:
        @staticmethod
        def apply(value: Any, sizes: Any, starts: Any, places: Any, weights: Any, step: int) -> Any:
            shapes = [tuple(each) for each in sizes.tolist()]
            assert starts.tolist() == [0, 15] and step == len(value)
            return own.sample(value, shapes, places, weights)

    module: Any = ModuleType("mmcv.ops.multi_scale_deform_attn")
    module.MultiScaleDeformableAttnFunction = Function
    ops: Any = ModuleType("mmcv.ops")
    ops.get_compiling_cuda_version = lambda: "12.4"
    monkeypatch.setitem(sys.modules, "mmcv.ops", ops)
    monkeypatch.setitem(sys.modules, "mmcv.ops.multi_scale_deform_attn", module)
    monkeypatch.setattr(own, "_sampler", [own.sample])
    ops.get_compiling_cuda_version = lambda: "not available"
    assert not use_compiled()
    ops.get_compiling_cuda_version = lambda: "12.4"
    assert use_compiled() and own._sampler[0] is not own.sample
    torch.manual_seed(0)
    shapes = [(3, 5), (2, 2)]
    value, places = torch.randn(2, 19, 2, 3), torch.rand(2, 4, 2, 2, 2, 2)
    weights = torch.rand(2, 4, 2, 2, 2)
    expected = own.sample(value, shapes, places, weights)
    torch.testing.assert_close(own._sampler[0](value, shapes, places, weights), expected)


def test_centres_are_x_then_y() -> None:
    found = centres((2, 4), torch.device("cpu"), torch.float32)
    assert found[0].tolist() == [0.125, 0.25] and found[5].tolist() == [0.375, 0.75]


def test_the_ffn_convolves_each_map_by_itself() -> None:
    torch.manual_seed(0)
    ffn, shapes = ConvFFN(8, 4), [(3, 4), (2, 2)]
    x = torch.randn(1, 16, 8)
    apart = torch.cat([ffn(x[:, :12], shapes[:1]), ffn(x[:, 12:], shapes[1:])], dim=1)
    torch.testing.assert_close(ffn(x, shapes), apart)
    hidden = ffn.fc1(x[:, :12]).transpose(1, 2).unflatten(2, (3, 4))
    by_torch = torch.nn.functional.conv2d(
        hidden, ffn.dwconv.dwconv.weight, ffn.dwconv.dwconv.bias, padding=1, groups=4
    )
    expected = ffn.fc2(torch.nn.functional.gelu(by_torch.flatten(2).transpose(1, 2)))
    torch.testing.assert_close(ffn(x, shapes)[:, :12], expected)


def build(reducers: Any = (), kind: str = "EVA", **settings: Any) -> ViTAdapter:
    torch.manual_seed(0)
    vit = dict(type=f"mmtokmerge.{kind}", arch=ARCH, img_size=(64, 96), reducers=list(reducers))
    defaults: dict[str, Any] = dict(num_heads=4, stem_channels=8, norm_cfg=dict(type="BN"))
    model = ViTAdapter(vit=vit, **{**defaults, **settings})
    model.init_weights()
    for interaction in model.interactions:  # zero at first: nothing would be injected
        torch.nn.init.normal_(interaction.injector.gamma, std=0.5)
    return model.eval()


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (33, 200), (16, 16)])
@pytest.mark.parametrize("kind", ["EVA", "BEiT", "VisionTransformer"])
def test_four_maps_of_any_size(kind: str, size: tuple[int, int]) -> None:
    model = build([CLAP, GBM], kind)
    with torch.no_grad():
        maps = model(torch.randn(2, 3, *size))
    for each, stride in zip(maps, (4, 8, 16, 32), strict=True):
        assert each.shape == (2, 32, -(-size[0] // stride), -(-size[1] // stride))
        assert bool(each.isfinite().all())


def by_hand(model: ViTAdapter, x: Tensor) -> list[Tensor]:
    """The forward as the paper's figure 4 has it, without merging: 4 interactions of a layer."""
    vit = model.vit
    c1, c2, c3, c4 = model.spm(x)
    sizes = [tuple(c.shape[2:]) for c in (c2, c3, c4)]
    c = torch.cat([m.flatten(2).mT + e for m, e in zip((c2, c3, c4), model.level_embed)], dim=1)
    tokens, flow = vit.embed(x)
    patch_places = centres(flow.grid, x.device, x.dtype)
    map_places = torch.cat([centres(s, x.device, x.dtype) for s in sizes])
    outs = []
    for number, part in enumerate(model.interactions):
        cls, patches = tokens[:, :1], tokens[:, 1:]
        one = part.injector
        patches = patches + one.gamma * one.attn(
            one.query_norm(patches), one.feat_norm(c), patch_places, sizes
        )
        tokens = torch.cat([cls, patches], dim=1)
        ((_, tokens),) = vit.through(tokens, vit.reduction(flow.grid, None), [number])
        patches = tokens[:, 1:]
        for each in [part.extractor, *(part.extra_extractors or [])]:
            c = c + each.attn(each.query_norm(c), each.feat_norm(patches), map_places, [flow.grid])
            c = c + each.ffn(each.ffn_norm(c), sizes)
        outs.append(patches.mT.unflatten(2, flow.grid))
    split = c.split([h * w for h, w in sizes], dim=1)
    maps = [part.mT.unflatten(2, size) for part, size in zip(split, sizes)]
    maps = [c1 + model.up(maps[0]), *maps]
    scale = (4, 2, 1, 0.5)
    grown = [
        torch.nn.functional.interpolate(out, scale_factor=s, mode="bilinear")
        for out, s in zip(outs, scale)
    ]
    norms = (model.norm1, model.norm2, model.norm3, model.norm4)
    return [norm(m + g) for norm, m, g in zip(norms, maps, grown)]


def test_the_flow_is_the_papers() -> None:
    model = build()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(model(x), by_hand(model, x), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_tokens_are_whole_between_interactions_and_merge_within() -> None:
    model = build([CLAP, GBM])
    x = torch.nn.functional.interpolate(torch.randn(1, 3, 4, 4), (64, 96), mode="bilinear")
    injected, fed = [], []
    for interaction in model.interactions:
        interaction.injector.register_forward_pre_hook(lambda m, a: injected.append(a[0].shape[1]))
    for layer in model.vit.layers:
        layer.ln2.register_forward_pre_hook(lambda m, a: fed.append(a[0].shape[1] - 1))
    with torch.no_grad(), trace(model) as seen:
        merged = model(x)
    assert injected == [24, 24, 24, 24]
    assert all(count < 24 for count in fed), fed
    assert len(seen.events) == 4
    with torch.no_grad(), without_merging(model):
        whole = model(x)
    plain = build()
    with torch.no_grad():
        for one, other, apart in zip(whole, plain(x), merged, strict=True):
            torch.testing.assert_close(one, other)
            assert not torch.allclose(one, apart)


@pytest.mark.parametrize("with_cp", [False, True])
def test_every_parameter_learns(with_cp: bool) -> None:
    model = build([CLAP, GBM], with_cp=with_cp).train()
    x = torch.randn(2, 3, 64, 96)
    sum(each.square().mean() for each in model(x)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients.values())
    if with_cp:
        other = build([CLAP, GBM]).train()
        sum(each.square().mean() for each in other(x)).backward()
        for name, parameter in other.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(interactions=3), "interactions=3 must divide the ViT's 4 layers"),
        (dict(interactions=2), "add_vit_features=True needs 4 interactions"),
        (dict(interactions=[(0, 1), (3, 3)]), "first and last of all 4 layers"),
        (dict(num_heads=3), "num_heads=3 must divide the values' channels, 16"),
        (dict(norm_cfg=dict(type="LN")), "norm_cfg.type"),
        (dict(vit=5), "vit must be the config of a plain ViT"),
        (dict(vit=dict(type="mmtokmerge.MiTPlusPlus")), "one of mmtokmerge's plain ViTs"),
        (dict(vit=dict(type="mmtokmerge.EVA", arch=ARCH, final_norm=True)), "final_norm"),
        (dict(vit=dict(type="mmtokmerge.EVA", arch=ARCH, patch_size=8)), "patch_size must be 16"),
        (dict(vit=dict(type="mmtokmerge.EVA", arch=ARCH, out_indices=1)), "out_indices does"),
    ],
)
def test_settings_that_do_not_go_are_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build(**settings) if "vit" not in settings else ViTAdapter(**settings)


def test_eva_adds_positions_to_beit() -> None:
    """With absolute positions of zero it is BEiT; with others, their sum with the patches."""
    torch.manual_seed(0)
    eva, beit = EVA(ARCH, img_size=(64, 96)), BEiT(ARCH, img_size=(64, 96), init_values=1.0)
    state = eva.state_dict()
    assert set(state) - set(beit.state_dict()) == {"pos_embed"}
    follow(beit).load_state_dict({k: v for k, v in state.items() if k != "pos_embed"})
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(eva.eval()(x)[0], beit.eval()(x)[0])
        eva.pos_embed.normal_()
        tokens, _ = eva.embed(x)
        expected, _ = beit.embed(x)
        torch.testing.assert_close(tokens, expected + eva.pos_embed)


def test_published_weights_of_another_grid_load() -> None:
    """EVA's names, from a square grid: table of biases and positions are both resized."""
    torch.manual_seed(0)
    source = EVA(ARCH, img_size=64)  # 4x4
    weights = {
        k: torch.randn_like(v) for k, v in source.state_dict().items() if v.is_floating_point()
    }
    model = EVA(ARCH, img_size=(64, 96))
    fitted = fit_weights(model, weights, "eva.pth", prepare=model._fit_published)
    assert fitted.weights["pos_embed"].shape == (1, 25, 32)
    torch.testing.assert_close(fitted.weights["pos_embed"][:, 0], weights["pos_embed"][:, 0])
    table = "layers.0.attn.relative_position_bias_table"
    assert fitted.weights[table].shape == model.state_dict()[table].shape


@pytest.mark.parametrize("kind", ["EVA", "BEiT", "VisionTransformer"])
@pytest.mark.parametrize("says", [True, False])
def test_an_adapters_positions_are_fitted_once(kind: str, says: bool) -> None:
    """From 4x4 to 6x6 where the checkpoint says its grid; 4x6 stay where it does not."""

    def network(size: Any) -> torch.nn.Module:
        vit = dict(type=f"mmtokmerge.{kind}", arch=ARCH, img_size=size)
        whole = torch.nn.Module()
        whole.backbone = ViTAdapter(vit=vit, num_heads=4, stem_channels=8, norm_cfg=dict(type="BN"))
        whole.decode_head = torch.nn.Linear(2, 2)
        return whole

    source, target = (64, 96) if says else ((64, 96), (64, 96))
    state = network(source).state_dict()
    if not says:
        state = dict(state)  # without torch's metadata
    model = network(target)
    fitted = fit_weights(model, state, "w.pth")
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith("position_index")}
    assert set(wanted) <= set(fitted.weights)
    assert all(fitted.weights[k].shape == v.shape for k, v in wanted.items())


def test_the_giants_size() -> None:
    """The published encoder has 1.0 billion parameters (ALGM, appendix A)."""
    with torch.device("meta"):
        model = EVA("g", img_size=224, mlp_ratio=4.3637)
    assert model.layers[0].ffn.layers[0][0].out_features == 6144
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1.01e9, rel=0.01)
