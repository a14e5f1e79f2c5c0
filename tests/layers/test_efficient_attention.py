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
        out = layer(x, hw)
        slow = [attention(layer.state_dict(), one, hw, 2, sr_ratio, **matches) for one in x]
    torch.testing.assert_close(out, torch.stack(slow))


def test_proportional_makes_equal_keys_exact() -> None:
    """Keys that come in equal pairs: merged in pairs and weighed by size, nothing is lost."""
    torch.manual_seed(0)
    pairs = torch.randn(2, 4 * 5, 8, dtype=torch.float64).repeat_interleave(2, 1)  # a 4x10 grid
    pair = dict(kv_mode="n2d", kv_stride=(1, 2))
    plain = build(1, {})(pairs, (4, 10))
    torch.testing.assert_close(build(1, dict(pair, proportional=True))(pairs, (4, 10)), plain)


def test_proportional_differs_where_sizes_differ() -> None:
    x = torch.randn(1, 35, 8, dtype=torch.float64)
    off, on = (
        build(1, dict(r_kv=0.6, kv_stride=2, proportional=flag))(x, (5, 7))
        for flag in (False, True)
    )
    assert not torch.allclose(off, on, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    stage = dict(q_mode="n2d", q_stride=2, kv_mode="n2d", kv_stride=2, proportional=True)
    x = torch.randn(2, 16 * 12, 8, dtype=torch.float64)
    exact = build(2, stage)(x, (16, 12))
    half = build(2, stage).to(dtype)(x.to(dtype), (16, 12))
    assert half.dtype == dtype
    scale = exact.abs().max()
    assert (half.double() - exact).abs().max() / scale < 0.03


@pytest.mark.parametrize("hw", [(1, 1), (1, 9), (3, 5), (7, 2)])
@pytest.mark.parametrize("stage", [{}, dict(HQ_KV, proportional=True), FAST_Q])
def test_grids_smaller_than_the_reduction(hw: tuple[int, int], stage: dict[str, Any]) -> None:
    layer = build(8, stage)
    x = torch.randn(1, hw[0] * hw[1], 8, dtype=torch.float64)
    out = layer(x, hw)
    assert out.shape == x.shape
    assert torch.isfinite(out).all()


def test_gradients_reach_input_and_parameters() -> None:
    layer = build(2, dict(r_q=0.5, r_kv=0.5, proportional=True))
    x = torch.randn(1, 24, 8, dtype=torch.float64, requires_grad=True)
    layer(x, (4, 6)).square().sum().backward()
    assert x.grad is not None and x.grad.any()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
