"""Reducers in the plain ViT: adaptive counts, batch independence, calibration, ablations."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tracing import ended, follow

from mmtokmerge.errors import InputError
from mmtokmerge.layers import TokenFeatures
from mmtokmerge.merging import TokenAssignment, bipartite_matching, local_pooling
from mmtokmerge.merging.trace import trace
from mmtokmerge.models import VisionTransformer
from mmtokmerge.models.overrides import without_merging

ARCH = dict(embed_dims=32, num_layers=4, num_heads=2)
SIZE = (112, 80)  # 7x5 patches


def clap(threshold: Any = 0.97, **kwargs: Any) -> dict[str, Any]:
    return dict(
        type="mmtokmerge.ConditionalLocalPooling", **{"layer": 1, "threshold": threshold, **kwargs}
    )


def gbm(threshold: Any = 0.97, **kwargs: Any) -> dict[str, Any]:
    return dict(
        type="mmtokmerge.GlobalBipartiteMerging", **{"layer": 3, "threshold": threshold, **kwargs}
    )


def build(*reducers: dict[str, Any], seed: int = 0, **kwargs: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    model = VisionTransformer(ARCH, img_size=SIZE, reducers=list(reducers), **kwargs)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3 + (parameter == 1)
    model.pos_embed.data *= 0.1
    return follow(model.eval())


def images(batch: int, seed: int = 1) -> torch.Tensor:
    """Images, each with a larger nearly flat part than the one before; no two patches tie."""
    torch.manual_seed(seed)
    x = torch.randn(batch, 3, *SIZE)
    for row in range(batch):
        x[row, :, : 16 * (row + 2)].mul_(0.05).add_(0.5)
    return x


def kept(model: VisionTransformer, x: torch.Tensor) -> list[int]:
    with torch.no_grad():
        model(x)
    sizes = ended(model).assignment.sizes.expand(len(x), -1)
    return (sizes > 0).sum(1).tolist()


@pytest.mark.parametrize("proportional", [False, True])
@pytest.mark.parametrize("position", ["between", "after"])
@pytest.mark.parametrize("with_cls_token", [True, False])
def test_eight_images_together_equal_each_alone(
    with_cls_token: bool, position: str, proportional: bool
) -> None:
    model = build(
        clap(position=position),
        gbm(position=position),
        with_cls_token=with_cls_token,
        proportional=proportional,
        out_indices=[0, 2, 3],
    )
    x = images(8)
    with torch.no_grad():
        together = model(x)
        counts = kept(model, x)
        assert len(set(counts)) > 3, "the images must differ for this test to say anything"
        assert ended(model).assignment.padded
        for row in range(8):
            for a, b in zip(model(x[row : row + 1]), together):
                torch.testing.assert_close(a, b[row : row + 1], atol=1e-4, rtol=1e-4)
            assert ended(model).assignment.num_groups == counts[row]


def test_one_wait_for_the_device_at_most_in_each_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    model, x = build(clap(), gbm()), images(3)
    for name in ("tolist", "item", "__bool__", "__int__", "__float__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda t, name=name, f=original: waits.append(name) or f(t)
        )
    with torch.no_grad():
        model(x)
    assert waits == ["tolist", "tolist"]


@pytest.mark.parametrize("threshold", [1.0])
def test_at_one_is_the_baseline_exactly(threshold: float) -> None:
    model, baseline = build(clap(threshold), gbm(threshold)), build()
    x = images(3)
    with torch.no_grad():
        assert torch.equal(model(x)[0], baseline(x)[0])


def test_without_reduction_is_the_baseline_exactly() -> None:
    model, baseline = build(clap(0.5), gbm(0.5)), build()
    x = images(3)
    with torch.no_grad():
        merged = model(x)[0]
        with without_merging(model):
            assert torch.equal(model(x)[0], baseline(x)[0])
        assert torch.equal(model(x)[0], merged)
        assert not torch.equal(merged, baseline(x)[0])


def test_tokens_kept_fall_with_the_threshold() -> None:
    counts = [kept(build(clap(t), gbm(t)), images(4)) for t in (1.0, 0.99, 0.95, 0.8, 0.5, -1.0)]
    for more, fewer in pairwise(counts):
        assert all(a >= b for a, b in zip(more, fewer))
    assert counts[0] == [35] * 4
    # 6 of the 7x4 windows, and 7 tokens outside; then half of those 13, rounded up, merge away.
    assert all(count < 14 for count in counts[-1])


def test_the_composed_map_is_that_of_the_steps() -> None:
    """Both steps by hand, on what the layers hand to them."""
    model = build(clap(0.9), gbm(0.9))
    seen: list[Any] = []
    x = images(1)
    with torch.no_grad(), trace(model, seen.append):
        model(x)
    assert [report.layer for report in seen] == [1, 2, 3, 4]
    first = local_pooling(seen[0].tokens, (7, 5), threshold=0.9)
    second = bipartite_matching(seen[2].tokens, threshold=0.9)
    assert torch.equal(seen[0].assignment.groups, torch.arange(35)[None])
    assert torch.equal(seen[1].assignment.groups, first.groups)
    assert torch.equal(seen[3].assignment.groups, first.compose(second).groups)
    assert torch.equal(ended(model).assignment.groups, first.compose(second).groups)
    assert seen[1].tokens.shape[1] == first.num_groups
    with torch.no_grad():
        model(x)
    assert len(seen) == 4, "nobody observes outside the context"


def test_later_means_weigh_by_what_tokens_stand_for() -> None:
    """Rows that hold 4, 1 and 1 tokens, all merged: (4 a + b + c) / 6."""
    model = build(gbm(-1.0))
    reducer = model.reducers[0]
    x = torch.tensor([[[6.0], [12.0], [18.0]]])
    given = TokenAssignment.from_groups(torch.tensor([[0, 0, 0, 0, 1, 2]]), 3)
    rows, state, _ = reducer(x, x, given, (2, 3))
    # Tokens 1 and 3 of the sequence join token 2.
    assert rows.tolist() == [[[(4 * 6 + 12 + 18) / 6]]]
    assert state.groups.tolist() == [[0] * 6]


@pytest.mark.parametrize("feature", ["X", "K", "Q", "V"])
def test_every_feature_decides(feature: str) -> None:
    model = build(clap(0.9, feature=feature), gbm(0.9, feature=feature))
    with torch.no_grad():
        out = model(images(2))[0]
    assert out.shape == (2, 32, 7, 5)
    assert out.isfinite().all()
    assert ended(model).assignment.num_groups < 35


def test_keys_are_those_of_the_layer() -> None:
    model = build(clap(0.5, feature="K"))
    x = images(2)
    seen: list[torch.Tensor] = []
    reducer = model.reducers[0]
    match = reducer.match
    reducer.match = lambda feature, *rest: seen.append(feature) or match(feature, *rest)
    with torch.no_grad():
        model(x)
        tokens, hw = model.patch_embed(x)
        tokens = torch.cat([model.cls_token.expand(2, -1, -1), tokens], 1) + model.pos_embed
        layer = model.layers[0]
        weight, bias = layer.attn.attn.in_proj_weight, layer.attn.attn.in_proj_bias
        keys = layer.ln1(tokens) @ weight[32:64].T + bias[32:64]
    expected = keys[:, 1:].view(2, 35, 2, 16).mean(2)
    torch.testing.assert_close(seen[0], expected)


def feed(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """The second half of a layer."""
    return x + layer.ffn(layer.ln2(x))


def test_no_reduction_but_averaged() -> None:
    """ALGM, table 6: all tokens stay, those of a group have one value."""
    model = build(clap(0.9, reduce=False))
    seen: list[Any] = []
    x = images(1, seed=3)
    with torch.no_grad(), trace(model, seen.append):
        model(x)
    assert seen[1].tokens.shape[1] == 35
    groups = local_pooling(seen[0].tokens, (7, 5), threshold=0.9)
    assert groups.num_groups < 35
    fed = feed(model.layers[0], groups.unmerge(groups.merge(seen[0].tokens)))
    with torch.no_grad():
        with_mean = build(clap(0.9, reduce=False))
        reports: list[Any] = []
        hook = with_mean.layers[1].register_forward_pre_hook(lambda *_: None)
        hook.remove()
        with trace(with_mean, reports.append):
            with_mean(x)
        # What enters the second layer: its attention's residual taken off again.
        head = torch.cat([_class_token_after(with_mean, x), fed], dim=1)
        layer = with_mean.layers[1]
        attended = head + layer.attn(layer.ln1(head))[0]
    torch.testing.assert_close(attended[:, 1:], reports[1].tokens, atol=1e-5, rtol=1e-4)


def _class_token_after(model: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
    """The class token after the first layer, on which local merging does not act."""
    tokens, _ = model.patch_embed(x)
    tokens = torch.cat([model.cls_token, tokens], dim=1) + model.pos_embed
    return model.layers[0](tokens)[:, :1]


def test_a_random_pick_is_one_of_the_group() -> None:
    model = build(clap(-1.0, operation="random"))
    x = torch.randn(3, 35, 4)
    torch.manual_seed(0)
    rows, state, _ = model.reducers[0](x, x, None, (7, 5))
    for image in range(3):
        for group in range(state.num_groups):
            members = x[image, state.groups[image] == group]
            assert (members == rows[image, group]).all(1).any()
    other, _, _ = model.reducers[0](x, x, None, (7, 5))
    assert not torch.equal(rows, other)


def test_tome_keeps_a_fixed_number() -> None:
    model = build(dict(type="mmtokmerge.ToMe", num_merged=5, layer=[1, 2, 3, 4]), proportional=True)
    assert kept(model, images(3)) == [35 - 20] * 3
    with pytest.raises(InputError, match="num_merged=9 of ToMe cannot be reached"):
        kept(build(dict(type="mmtokmerge.ToMe", num_merged=9, layer=[1, 2, 3, 4])), images(1))
    with pytest.raises(InputError, match="different numbers"):
        kept(build(clap(), dict(type="mmtokmerge.ToMe", num_merged=1, layer=2)), images(4))


def test_proportional_attention_of_copies_is_attention_of_the_full_set() -> None:
    """Equal patches merged and weighed by their number attend as the patches did."""
    merged = build(gbm(0.999999, layer=1, position="after"), proportional=True)
    merged.pos_embed.data.zero_()
    baseline = build()
    baseline.pos_embed.data.zero_()
    x = torch.full((1, 3, *SIZE), 0.5)
    assert kept(merged, x)[0] < 35
    with torch.no_grad():
        torch.testing.assert_close(merged(x)[0], baseline(x)[0], atol=1e-4, rtol=1e-4)


def test_training_shares_one_count_a_batch_or_keeps_the_images_own() -> None:
    x = images(4)
    alone = kept(build(clap()), x)
    shared = build(clap()).train()
    shared(x)[0].sum().backward()
    assert not ended(shared).assignment.padded
    assert ended(shared).assignment.num_groups == max(alone)
    own = build(clap(count="image")).train()
    own(x)[0].sum().backward()
    assert ended(own).assignment.padded
    assert (ended(own).assignment.sizes > 0).sum(1).tolist() == alone
    for model in (shared, own):
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_and_maps_say_the_same(dtype: torch.dtype) -> None:
    tokens = build(clap(), gbm(), out_type="tokens", final_norm=True, out_indices=[1, 3])
    maps = build(clap(), gbm(), final_norm=True, out_indices=[1, 3])
    x = images(3)
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for a, b in zip(tokens(x), maps(x), strict=True):
            assert isinstance(a, TokenFeatures)
            assert torch.equal(a.to_map(), b)
            assert b.isfinite().all()
            assert a.cls_token.shape == (3, 1, 32)
            assert torch.equal(a.key_mask, a.assignment.sizes > 0)


@pytest.mark.parametrize("size", [(16, 16), (9, 40), (48, 16)])
def test_grids_smaller_than_a_window(size: tuple[int, int]) -> None:
    model = build(clap(-1.0), gbm(-1.0))
    with torch.no_grad():
        out = model(torch.randn(2, 3, *size))[0]
    assert out.shape[2:] == (-(-size[0] // 16), -(-size[1] // 16))
    assert out.isfinite().all()


def test_auto_needs_a_number() -> None:
    model = build(clap("auto"))
    with pytest.raises(InputError, match=r"tools/calibrate_threshold\.py"):
        model(images(1))
    model.reducers[0].threshold = 0.97
    assert kept(model, images(2)) == kept(build(clap(0.97)), images(2))


def test_the_number_travels_with_the_weights(tmp_path: Any) -> None:
    model = build(clap("auto"), gbm(0.5))
    model.reducers[0].threshold = 0.9
    assert [key for key in model.state_dict() if "reducers" in key] == ["reducers.0.tau"]
    other = build(clap("auto"), gbm(0.5), seed=5)
    other.load_state_dict(model.state_dict())
    assert other.reducers[0]._known, "a forward would ask the device once more"
    assert kept(other, images(2)) == kept(model, images(2))
    torch.save({"state_dict": {"backbone.reducers.0.tau": torch.tensor(0.9)}}, tmp_path / "tau.pth")
    trained = build(clap("auto"), gbm(0.5), calibration=str(tmp_path / "tau.pth"))
    trained.init_weights()
    assert float(trained.reducers[0].threshold) == pytest.approx(0.9)
    torch.save({"state_dict": build().state_dict()}, tmp_path / "none.pth")
    empty = build(clap("auto"), calibration=str(tmp_path / "none.pth"))
    with pytest.raises(InputError, match=r"none\.pth.*no reducers\.0\.tau"):
        empty.init_weights()


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        (dict(layer=0), "counts from 1"),
        (dict(layer=[1, 1]), "twice"),
        (dict(layer="1"), "layer must be an int"),
        (dict(position="before"), "position='before'"),
        (dict(feature="Z"), "feature='Z'"),
        (dict(operation="sum"), "operation='sum'"),
        (dict(reduce=1), "reduce must be"),
        (dict(threshold="high"), "threshold must be"),
        (dict(threshold=float("nan")), "nan"),
        (dict(count="all"), "count='all'"),
        (dict(window=(2, 2, 2)), "window must be"),
    ],
)
def test_bad_settings_are_a_sentence(kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        build(clap(**kwargs))


def test_one_graph_with_fixed_counts() -> None:
    torch._dynamo.reset()
    model = build(dict(type="mmtokmerge.ToMe", num_merged=3, layer=[1, 2]), proportional=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    x = images(2)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x)[0], model(x)[0], atol=1e-5, rtol=1e-4)
