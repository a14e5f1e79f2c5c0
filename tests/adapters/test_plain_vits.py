"""Merging in other packages' plain ViTs: equal to the host, to our own ViT, and reversible."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from host_models import VITS, images, own_models, run
from torch import Tensor, nn

import mmtokmerge
from mmtokmerge.errors import InputError
from mmtokmerge.merging.trace import trace

KEEP = dict(keep=(0.5, 0.3), layers=(1, 2))
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "threshold": ("algm", dict(threshold=0.2, layers=(1, 2))),
    "threshold-proportional": ("algm", dict(threshold=0.2, layers=(1, 2), proportional=True)),
    "keep": ("algm", KEEP),
    "tome": ("tome", dict(count=3)),
    "tome-rate": ("tome", dict(rate=0.1, layers=[1, 2])),
    "pitome": ("pitome", dict(count=3)),
    "evit": ("evit", dict(keep=0.5, layers=[1, 2])),
    "elvit": ("elvit", dict(keep=0.3, layers=[1])),
    "mpm": ("mpm", dict(layers=[1, 2])),
    "ailurus": ("ailurus", dict(keep=0.4, layers=[1])),
    "toma": ("toma", dict(keep=0.4, layers=[1])),
    "cubist": ("cubist", dict(keep=0.4, layers=[2])),
}


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return run(model, x)


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("host", VITS)
def test_none_and_what_merges_nothing_equal_the_host(host: str) -> None:
    model = VITS[host]()
    x = images(model)
    expected = outputs(model, x)
    if "beit" in host:
        with pytest.raises(InputError, match="merging='none' changes nothing of Beit"):
            mmtokmerge.apply(model, "none")
    else:
        report = mmtokmerge.apply(model, "none")
        assert len(report.layers) == 4 and report.left_alone == []
        assert worst(outputs(model, x), expected) < 1e-5
    mmtokmerge.apply(model, "algm", threshold=1.0, proportional=True)
    assert worst(outputs(model, x), expected) < 1e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("host", VITS)
def test_outputs_keep_their_shapes_and_remove_gives_the_model_back(host: str, method: str) -> None:
    model = VITS[host]()
    x, keys, modules = images(model), list(model.state_dict()), dict(model.named_modules())
    expected = outputs(model, x)
    merging, options = METHODS[method]
    if host == "vitpose" and merging == "evit":
        with pytest.raises(InputError, match=r"what the class token attends to, and .* has none"):
            mmtokmerge.apply(model, merging, **options)
        return
    mmtokmerge.apply(model, merging, **options)
    found = outputs(model, x)
    assert [a.shape for a in found] == [b.shape for b in expected]
    assert worst(found, expected) > 1e-3  # it merges
    assert list(model.state_dict()) == keys
    mmtokmerge.apply(model, "tome", count=1)
    assert mmtokmerge.remove(model) is model
    after = dict(model.named_modules())
    assert list(after) == list(modules) and all(after[k] is modules[k] for k in modules)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, x), expected, strict=True))


@pytest.mark.parametrize("host", ["timm-vit", "timm-eva02", "dinov2-registers", "dinov3", "beit"])
def test_an_image_does_not_depend_on_its_batch(host: str) -> None:
    model = VITS[host]()
    x = images(model, batch=3)
    mmtokmerge.apply(model, "algm", threshold=0.3, layers=(1, 2), proportional=True)
    together = outputs(model, x)
    for index in range(len(x)):
        alone = outputs(model, x[index : index + 1])
        assert worst([each[index : index + 1] for each in together], alone) < 1e-5


@pytest.mark.parametrize("host", VITS)
def test_tokens_of_a_group_are_equal_and_others_are_not(host: str) -> None:
    model = VITS[host]()
    x = images(model, batch=1)
    mmtokmerge.apply(model, "algm", **KEEP)
    with torch.no_grad(), trace(model) as seen:
        hidden = run(model, x)[4 if "timm" not in host else 2]
    assert seen.assignment is not None
    groups, count = seen.assignment.groups[0], seen.assignment.num_groups
    assert count == round(0.3 * len(groups))
    if hidden.dim() == 4:
        hidden = hidden.flatten(2).transpose(1, 2)
    if host == "eomt":  # queries entered since, in front
        return
    tokens = hidden[0, -len(groups) :]
    assert len(tokens.unique(dim=0)) == count
    first = seen.assignment.representatives()[0]
    assert torch.equal(tokens, tokens[first][groups])


def timm_equals_own(reducers: list[dict[str, Any]], proportional: bool, **options: Any) -> None:
    models = own_models()
    from mmtokmerge.models.weights.rename import rename
    from mmtokmerge.models.weights.vit_formats import VIT_FORMATS

    model = VITS["timm-vit"]()
    arch = dict(embed_dims=48, num_layers=4, num_heads=4)
    own = models.VisionTransformer(
        arch,
        img_size=128,
        reducers=reducers,
        proportional=proportional,
        norm_cfg=dict(type="LN", eps=1e-6),
        out_indices=[0, 1, 2, 3],
    ).eval()
    weights = rename(model.state_dict(), VIT_FORMATS["timm"]).weights
    found_weights = {
        k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")
    }
    missing = own.load_state_dict(found_weights, strict=False)
    assert all("ln1" in key or "tau" in key for key in (*missing.missing_keys,))
    x = images(model)
    mmtokmerge.apply(model, proportional=proportional, **options)
    with torch.no_grad():
        found = model.forward_intermediates(x, norm=False, intermediates_only=True)
        expected = own(x)
    assert worst(list(found), list(expected)) < 1e-5


@pytest.mark.parametrize("proportional", [False, True])
def test_algm_equals_our_own_vit(proportional: bool) -> None:
    reducers = [
        dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=0.3),
        dict(type="mmtokmerge.GlobalBipartiteMerging", layer=3, threshold=0.3),
    ]
    timm_equals_own(reducers, proportional, merging="algm", threshold=0.3, layers=(1, 3))


def test_fixed_rates_equal_our_own_vit() -> None:
    reducers = [
        dict(type="mmtokmerge.LocalMergingByRate", layer=1, keep=0.5),
        dict(type="mmtokmerge.GlobalMergingByRate", layer=2, keep=0.3),
    ]
    timm_equals_own(reducers, False, merging="algm", **KEEP)


def test_tome_equals_our_own_vit() -> None:
    reducers = [dict(type="mmtokmerge.ToMe", layer=[1, 2, 3, 4], num_merged=3)]
    timm_equals_own(reducers, True, merging="tome", count=3)


@pytest.mark.parametrize(
    ("reducers", "merging", "options"),
    [
        (
            [
                dict(type="mmtokmerge.PiToMe", layer=n, num_merged=3, margin=0.9 - 0.225 * n)
                for n in (1, 2, 3, 4)
            ],
            "pitome",
            dict(count=3),
        ),
        ([dict(type="mmtokmerge.EViT", layer=[1, 2, 3], keep=0.7)], "evit", dict(keep=0.7)),
        ([dict(type="mmtokmerge.TokenClustering", layer=1, keep=0.3)], "elvit", dict(keep=0.3)),
        ([dict(type="mmtokmerge.DensityPeaks", layer=1, keep=0.3)], "ailurus", dict(keep=0.3)),
        ([dict(type="mmtokmerge.FacilityLocation", layer=1, keep=0.3)], "toma", dict(keep=0.3)),
        ([dict(type="mmtokmerge.GridMerging", layer=1, keep=0.3)], "cubist", dict(keep=0.3)),
        (
            [dict(type="mmtokmerge.MutualPairMerging", layer=[1, 2], position="after")],
            "mpm",
            dict(layers=[1, 2]),
        ),
    ],
)
def test_other_methods_equal_our_own_vit(
    reducers: list[dict[str, Any]], merging: str, options: dict[str, Any]
) -> None:
    timm_equals_own(reducers, merging == "pitome", merging=merging, **options)


@pytest.mark.parametrize("host", ["timm-vit", "dinov2", "dinov3", "beit", "eomt"])
def test_copies_and_pickles(host: str) -> None:
    model = VITS[host]()
    x = images(model)
    mmtokmerge.apply(model, "algm", **KEEP)
    expected = copy.deepcopy(model)(x)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    found = outputs(model, x)
    for each in copies:
        assert all(torch.equal(a, b) for a, b in zip(outputs(each, x), found, strict=True))
        mmtokmerge.remove(each)
        assert worst(outputs(each, x), found) > 1e-3
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, x), found, strict=True))
    assert expected is not None


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    sum(out.square().mean() for out in run(model, x)).backward()
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("host", ["dinov2", "vit", "beit"])
def test_checkpointed_layers_find_their_own_groups(host: str, reentrant: bool) -> None:
    model = VITS[host]().train()
    first, second = images(model), torch.randn_like(images(model))
    mmtokmerge.apply(model, "algm", **KEEP)
    expected = gradients(model, first)
    settings = dict(gradient_checkpointing_kwargs=dict(use_reentrant=reentrant))
    model.gradient_checkpointing_enable(**settings)
    # Another forward between this one and its backward must not change whose groups are found.
    model.zero_grad()
    loss = sum(out.square().mean() for out in run(model, first))
    run(model, second)
    loss.backward()
    found = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    for key, grad in expected.items():
        torch.testing.assert_close(found[key], grad, atol=1e-5, rtol=1e-4)


def test_training_gives_every_parameter_a_gradient() -> None:
    model = VITS["timm-vit"]().train()
    mmtokmerge.apply(model, "algm", threshold=0.3, layers=(1, 2))
    model(images(model)).square().mean().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("host", ["timm-vit", "timm-dinov3", "dinov2"])
def test_fixed_rates_compile_without_a_break(host: str) -> None:
    model = VITS[host]()
    x = images(model)
    mmtokmerge.apply(model, "algm", **KEEP)
    with torch.no_grad():
        expected = model(x)
        torch._dynamo.reset()
        compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
        found = compiled(x)
    a, b = (out if isinstance(out, Tensor) else out.last_hidden_state for out in (found, expected))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert worst(outputs(model, x), outputs(copy.deepcopy(model), x)) == 0


def test_fixed_rates_export() -> None:
    model = VITS["timm-vit"]()
    x = images(model)
    mmtokmerge.apply(model, "algm", **KEEP)
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), model(x), atol=1e-5, rtol=1e-5)


def test_a_threshold_is_not_traced() -> None:
    model = VITS["timm-vit"]()
    mmtokmerge.apply(model, "algm", threshold=0.3)
    with pytest.raises(InputError, match=r"torch\.jit\.trace cannot record"):
        torch.jit.trace(model, images(model))


def test_autocast_keeps_the_tokens_dtype() -> None:
    model = VITS["timm-eva02"]()
    x = images(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        mmtokmerge.apply(model, "algm", threshold=1.0)
        found = model(x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found.float(), expected.float(), atol=0.1, rtol=0.1)


def test_hooks_see_full_maps_and_keep_them() -> None:
    model = VITS["timm-vit"]()
    seen: list[Tensor] = []
    model.blocks[2].register_forward_hook(lambda module, args, out: seen.append(out))
    mmtokmerge.apply(model, "algm", **KEEP)
    x = images(model)
    model(x)
    assert seen[0].shape[1] == model.patch_embed.num_patches + 1
    mmtokmerge.remove(model)
    model(x)
    assert len(seen) == 2


def test_calibration_is_the_papers_formula() -> None:
    """Mean plus standard deviation of all pairs' cosines after the attention of all layers."""
    model = VITS["timm-vit"]()
    x = images(model)
    taken: list[Tensor] = []
    for block in model.blocks:
        block.norm2.register_forward_pre_hook(lambda module, args: taken.append(args[0]))
    with torch.no_grad():
        model(x)
    cosines = []
    for tokens in taken:
        unit = nn.functional.normalize(tokens[:, 1:].double(), dim=-1)
        upper = torch.triu_indices(unit.shape[1], unit.shape[1], 1)
        cosines.append((unit @ unit.mT)[:, upper[0], upper[1]].flatten())
    every = torch.cat(cosines)
    found = mmtokmerge.calibrate(model, [x[:1], x[1:]])
    assert found == pytest.approx(float(every.mean() + every.std(correction=0)), abs=1e-6)
    assert mmtokmerge.calibrate(model, x) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize(
    ("merging", "options", "sentence"),
    [
        ("hq", {}, "merging='hq' is unknown, allowed are 'none', 'algm', 'tome'"),
        ("evit", {}, "merging='evit' takes keep="),
        ("elvit", dict(keep=(0.5, 0.3)), "merging='elvit' takes keep="),
        ("elvit", dict(keep=0.5, layers=[1, 2]), "layers of elvit are a list of one"),
        ("pitome", {}, "merging='pitome' takes count="),
        ("algm", {}, "takes threshold="),
        ("algm", dict(threshold=0.5, keep=(0.5, 0.3)), "takes threshold="),
        ("algm", dict(threshold=2.0), "threshold must be from -1 to 1"),
        ("algm", dict(keep=(0.1, 0.1)), "keep=0.1 cannot be reached"),
        ("algm", dict(keep=(0.5, 0.6)), "the second share must not exceed the first"),
        ("algm", dict(keep=0.5), "keep must be two shares"),
        ("algm", dict(threshold=0.5, layers=(3, 1)), "the local layer is before the global one"),
        ("algm", dict(threshold=0.5, layers=(1, 9)), "layers: 9 is not from 1 to 4"),
        ("tome", dict(threshold=0.5), "threshold=0.5 does nothing with merging='tome'"),
        ("tome", {}, "takes count="),
        ("tome", dict(rate=0.7), "rate must be from 0 to 0.5"),
        ("none", dict(count=3), "count=3 does nothing with merging='none'"),
        ("algm", dict(keep=(1.0, 1.0)), "merges nothing: take merging='none'"),
        ("algm", dict(threshold=0.5, layers=3), "layers of ALGM are two"),
        ("algm", dict(threshold=0.5, proportional="no"), "proportional must be True or False"),
        ("tome", dict(count=3, layers=[]), "a list of at least one"),
    ],
)
def test_wrong_settings_are_a_sentence_and_change_nothing(
    merging: str, options: dict[str, Any], sentence: str
) -> None:
    model = VITS["timm-vit"]()
    modules = dict(model.named_modules())
    with pytest.raises(InputError, match=sentence.replace("(", r"\(")):
        mmtokmerge.apply(model, merging, **options)
    assert all(modules[k] is v for k, v in model.named_modules())


def test_what_cannot_be_given_is_a_sentence() -> None:
    vit = VITS["vit"]()
    mmtokmerge.apply(vit, "algm", threshold=0.5)
    vit.set_attn_implementation("eager")
    with pytest.raises(InputError, match="output_attentions=True cannot be given"):
        vit(images(vit), output_attentions=True)
    eomt = VITS["eomt"]()
    with pytest.raises(InputError, match="the layers after it take queries too"):
        mmtokmerge.apply(eomt, "algm", threshold=0.5, layers=(1, 4))
    dropping: Any = VITS["timm-vit"]()
    timm = pytest.importorskip("timm.layers")
    dropping.patch_drop = timm.PatchDropout(0.5, num_prefix_tokens=1)
    mmtokmerge.apply(dropping.train(), "algm", threshold=0.5)
    with pytest.raises(InputError, match="dropped patches"):
        dropping(images(dropping))


def test_the_report_counts_tokens_at_a_size() -> None:
    model = VITS["timm-vit"]()
    report = mmtokmerge.apply(model, "algm", **KEEP).at(128, 128)
    tokens = report.tokens(128, 128)
    assert tokens["layer 1"]["tokens"].after == 34  # 64 patches, 10 of 16 windows
    assert tokens["layer 2"]["tokens"].after == 19
    assert report.pays(128, 128) and "saves" in str(report)
    text = str(mmtokmerge.apply(model, "algm", threshold=0.9))
    assert "by threshold" in text and "saves" not in text


@pytest.mark.parametrize("how", ["first", "mean"])
@pytest.mark.parametrize("host", ["timm-eva02", "timm-dinov3", "timm-mixed-rope", "dinov3"])
def test_how_a_merged_token_turns(host: str, how: str) -> None:
    """The host's own third layer, given one token of each group and its rotation.

    The mean's is worked out by complex numbers, a group at a time.
    """
    model: Any = VITS[host]()
    x = images(model, batch=1)
    blocks = model.blocks if "timm" in host else find_layers(model)
    given: dict[str, Any] = {}

    def keep(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        given.update(args=args, kwargs=dict(kwargs), out=out)

    mmtokmerge.apply(model, "algm", keep=(0.5, 0.4), layers=(1, 2), rotary=how)
    layer = blocks[2]
    handle = layer.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad(), trace(model) as seen:
        model(x)
    handle.remove()
    assert seen.assignment is not None
    groups = seen.assignment.groups[0].tolist()
    firsts = [groups.index(number) for number in range(seen.assignment.num_groups)]
    whole = given["args"][0]
    prefix = whole.shape[1] - len(groups)
    rows = [*range(prefix), *(prefix + first for first in firsts)]
    turned = {key: turn(value, firsts) for key, value in given["kwargs"].items()}
    if how == "mean":
        turned = {key: turn_by_mean(value, groups) for key, value in given["kwargs"].items()}
    host_layer = (
        mmtokmerge.remove(model) and (model.blocks if "timm" in host else find_layers(model))[2]
    )
    with torch.no_grad():
        expected = host_layer(whole[:, rows], **turned)
    spread = [*range(prefix), *(prefix + group for group in groups)]
    torch.testing.assert_close(given["out"], expected[:, spread], atol=1e-5, rtol=1e-4)


def find_layers(model: nn.Module) -> Any:
    return next(
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and "ViTLayer" in type(module[0]).__name__
    )


def turn_by_mean(value: Any, groups: list[int]) -> Any:
    """Cosines and sines, in either order, apart or side by side, of each group's mean direction."""
    pair = isinstance(value, tuple)
    if not pair and not isinstance(value, Tensor):
        return value
    one, other = value if pair else value.chunk(2, -1)
    points = torch.complex(one.double(), other.double())
    members = [[i for i, g in enumerate(groups) if g == n] for n in range(max(groups) + 1)]
    means = [points[..., each, :].mean(-2) for each in members]
    firsts = [points[..., each[0], :] for each in members]  # where directions cancel
    pairs = zip(means, firsts, strict=True)
    unit = torch.stack([torch.where(m.abs() > 1e-3, m / m.abs(), f) for m, f in pairs], dim=-2)
    found = (unit.real.to(one.dtype), unit.imag.to(one.dtype))
    return found if pair else torch.cat(found, dim=-1)


def test_an_option_of_rotations_needs_rotations() -> None:
    model = VITS["timm-vit"]()
    with pytest.raises(InputError, match="rotary='mean' does nothing"):
        mmtokmerge.apply(model, "algm", **KEEP, rotary="mean")
    with pytest.raises(InputError, match="rotary"):
        mmtokmerge.apply(VITS["timm-eva02"](), "algm", **KEEP, rotary="last")


def turn(value: Any, firsts: list[int]) -> Any:
    """Rotations of the patches ``(..., N, D)`` at the first patch of each group."""
    if isinstance(value, tuple):
        return tuple(turn(each, firsts) for each in value)
    return value[..., firsts, :] if isinstance(value, Tensor) else value
