"""EfficientAttention against a slow reference, for every kind of merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reference.slow_attention import attention, by_cells, by_rate, by_runs

from mmtokmerge.layers import EfficientAttention
from mmtokmerge.merging import read_merging

HQ_KV, HQ_Q = dict(r_kv=0.6, kv_stride=2), dict(r_q=0.8, q_stride=4)
FAST_KV, FAST_Q = dict(r_kv=0.9, kv_stride=4), dict(r_q=0.9, q_stride=4)


def build(sr_ratio: int, stage: dict[str, Any], fused: bool = True) -> EfficientAttention:
    torch.manual_seed(0)
    merging = read_merging([stage, {}, {}, {}])[0]
    layer = EfficientAttention(8, 2, sr_ratio, merging, fused=fused).double()
    for parameter in layer.parameters():  # no bias stays 0, no norm weight 1
        torch.nn.init.normal_(parameter, std=0.5)
    return layer.eval()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("sr_ratio", "hw", "stage", "matches"),
    [
        (1, (5, 7), {}, {}),
        (4, (16, 23), {}, {}),
        (8, (40, 52), HQ_KV, dict(kv_match=by_rate(0.6, (2, 2)))),
        (4, (21, 18), HQ_KV, dict(kv_match=by_rate(0.6, (2, 2)))),
        (2, (9, 14), HQ_Q, dict(q_match=by_rate(0.8, (4, 4)))),
        (1, (7, 9), HQ_Q, dict(q_match=by_rate(0.8, (4, 4)))),
        (4, (35, 33), FAST_KV, dict(kv_match=by_rate(0.9, (4, 4)))),
        (1, (8, 8), FAST_Q, dict(q_match=by_rate(0.9, (4, 4)))),
        (2, (7, 9), dict(q_mode="n2d", q_stride=2), dict(q_match=by_cells((2, 2)))),
        (2, (7, 9), dict(q_mode="n1d", q_stride=3), dict(q_match=by_runs(3))),
        (2, (8, 13), dict(kv_mode="n2d", kv_stride=(2, 3)), dict(kv_match=by_cells((2, 3)))),
        (1, (4, 5), dict(kv_mode="n1d", kv_stride=4), dict(kv_match=by_runs(4))),
        (
            2,
            (11, 10),
            dict(r_q=0.7, q_stride=(3, 2), r_kv=0.5, kv_stride=(1, 4), proportional=True),
            dict(q_match=by_rate(0.7, (3, 2)), kv_match=by_rate(0.5, (1, 4)), proportional=True),
        ),
        (
            1,
            (6, 7),
            dict(q_mode="n2d", q_stride=2, r_kv=0.6, kv_stride=2, proportional=True),
            dict(q_match=by_cells((2, 2)), kv_match=by_rate(0.6, (2, 2)), proportional=True),
        ),
        (
            2,
            (18, 19),
            dict(r_q=0.9, q_stride=4, r_kv=0.5, match="local", destination="centre"),
            dict(
                q_match=by_rate(0.9, (4, 4), centre=True, local=True),
                kv_match=by_rate(0.5, (2, 2), centre=True, local=True),
            ),
        ),
        (
            2,
            (9, 9),
            dict(kv_mode="n2d", kv_stride=3, proportional=True),
            dict(kv_match=by_cells((3, 3)), proportional=True),
        ),
    ],
)
def test_equals_the_slow_reference(
    sr_ratio: int, hw: tuple[int, int], stage: dict[str, Any], matches: dict[str, Any], fused: bool
) -> None:
    layer = build(sr_ratio, stage, fused)
    x = torch.randn(2, hw[0] * hw[1], 8, dtype=torch.float64)
    with torch.no_grad():
        out, _ = layer(x, hw)
        slow = [attention(layer.state_dict(), one, hw, 2, sr_ratio, **matches) for one in x]
    torch.testing.assert_close(out, torch.stack(slow))


@pytest.mark.parametrize("sr_ratio", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stage", [{}, dict(r_q=0.5, r_kv=0.6, proportional=True)])
def test_one_head_projects_its_values_first(
    sr_ratio: int, bias: bool, stage: dict[str, Any]
) -> None:
    merging = read_merging([stage, {}, {}, {}])[0]
    layer = EfficientAttention(6, 1, sr_ratio, merging, qkv_bias=bias).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    state = layer.state_dict()
    if not bias:
        state["attn.in_proj_bias"] = torch.zeros(18, dtype=torch.float64)
        state["attn.out_proj.bias"] = torch.zeros(6, dtype=torch.float64)
    matches = dict(q_match=by_rate(0.5, (2, 2)), kv_match=by_rate(0.6, (2, 2)), proportional=True)
    x = torch.randn(2, 6 * 9, 6, dtype=torch.float64)
    slow = [attention(state, one, (6, 9), 1, sr_ratio, **(matches if stage else {})) for one in x]
    for mode in (layer.train(), layer.eval()):
        torch.testing.assert_close(mode(x, (6, 9))[0], torch.stack(slow))


def test_one_head_with_dropped_weights_projects_last() -> None:
    """Where dropout takes every weight, what is left is the bias of the output projection."""
    layer = EfficientAttention(8, 1, attn_drop=1.0).train()
    torch.nn.init.normal_(layer.attn.out_proj.bias)
    out, _ = layer(torch.randn(1, 12, 8), (3, 4))
    torch.testing.assert_close(out, layer.attn.out_proj.bias.expand(1, 12, 8))


@pytest.mark.parametrize("stage", [{}, dict(q_mode="n2d"), dict(r_q=0.7, q_stride=2, r_kv=0.5)])
def test_groups_are_used_again(stage: dict[str, Any]) -> None:
    """Groups that another input gave: the same as merging this input's tokens by hand."""
    layer = build(2, stage)
    first, second = torch.randn(2, 2, 6 * 8, 8, dtype=torch.float64)
    _, groups = layer(first, (6, 8))
    out, again = layer(second, (6, 8), groups)
    assert again is groups
    kv, _ = layer.reduce(second, (6, 8))
    kv = kv if groups.kv is None else groups.kv.merge(kv)
    q = second if groups.q is None else groups.q.merge(second)
    y = layer.attn(q, kv)
    torch.testing.assert_close(out, y if groups.q is None else groups.q.unmerge(y))
    own, _ = layer(second, (6, 8))
    assert torch.allclose(out, own) == ("r_q" not in stage)


def test_bilinear_queries() -> None:
    """Cells of 2 along a row of 8: a token lies a quarter of a cell from its own cell's centre."""
    x = torch.randn(1, 8, 8, dtype=torch.float64)
    pool = dict(q_mode="n2d", q_stride=(1, 2))
    copied, _ = build(1, pool)(x, (1, 8))
    smooth, _ = build(1, dict(pool, unmerge="bilinear"))(x, (1, 8))
    cells = copied[:, ::2]
    torch.testing.assert_close(smooth[:, 3], 0.75 * cells[:, 1] + 0.25 * cells[:, 2])
    torch.testing.assert_close(smooth[:, 0], cells[:, 0])


def test_proportional_makes_equal_keys_exact() -> None:
    """Keys that come in equal pairs: merged in pairs and weighed by size, nothing is lost."""
    torch.manual_seed(0)
    pairs = torch.randn(2, 4 * 5, 8, dtype=torch.float64).repeat_interleave(2, 1)  # a 4x10 grid
    pair = dict(kv_mode="n2d", kv_stride=(1, 2))
    plain, _ = build(1, {})(pairs, (4, 10))
    merged, _ = build(1, dict(pair, proportional=True))(pairs, (4, 10))
    torch.testing.assert_close(merged, plain)


def test_proportional_differs_where_sizes_differ() -> None:
    x = torch.randn(1, 35, 8, dtype=torch.float64)
    off, on = (
        build(1, dict(r_kv=0.6, kv_stride=2, proportional=flag))(x, (5, 7))[0]
        for flag in (False, True)
    )
    assert not torch.allclose(off, on, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    stage = dict(q_mode="n2d", q_stride=2, kv_mode="n2d", kv_stride=2, proportional=True)
    x = torch.randn(2, 16 * 12, 8, dtype=torch.float64)
    exact, _ = build(2, stage)(x, (16, 12))
    half, _ = build(2, stage).to(dtype)(x.to(dtype), (16, 12))
    assert half.dtype == dtype
    scale = exact.abs().max()
    assert (half.double() - exact).abs().max() / scale < 0.03


@pytest.mark.parametrize("hw", [(1, 1), (1, 9), (3, 5), (7, 2)])
@pytest.mark.parametrize("stage", [{}, dict(HQ_KV, proportional=True), FAST_Q])
def test_grids_smaller_than_the_reduction(hw: tuple[int, int], stage: dict[str, Any]) -> None:
    layer = build(8, stage)
    x = torch.randn(1, hw[0] * hw[1], 8, dtype=torch.float64)
    out, _ = layer(x, hw)
    assert out.shape == x.shape
    assert torch.isfinite(out).all()


def test_gradients_reach_input_and_parameters() -> None:
    layer = build(2, dict(r_q=0.5, r_kv=0.5, proportional=True))
    x = torch.randn(1, 24, 8, dtype=torch.float64, requires_grad=True)
    layer(x, (4, 6))[0].square().sum().backward()
    assert x.grad is not None and x.grad.any()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
