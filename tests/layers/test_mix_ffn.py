"""MixFFN against mmseg's, whole and in strips."""

from __future__ import annotations

import pytest
import torch

from mmtokmerge.layers import MixFFN, mix_ffn

stock = pytest.importorskip("mmseg.models.backbones.mit", reason="needs MMSegmentation")


def pair(drop: float = 0.0) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    ours, theirs = MixFFN(8, 32, drop=drop).double(), stock.MixFFN(8, 32, ffn_drop=drop).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("hw", [(16, 24), (7, 5), (1, 9), (1, 1)])
def test_equals_mmseg(hw: tuple[int, int]) -> None:
    ours, theirs = pair()
    x = torch.randn(2, hw[0] * hw[1], 8, dtype=torch.float64, requires_grad=True)
    out, expected = ours(x, hw), theirs(x, hw) - x  # mmseg's adds the residual itself
    torch.testing.assert_close(out, expected)
    grads = torch.autograd.grad(out.square().sum(), [x, *ours.parameters()])
    wanted = torch.autograd.grad(expected.square().sum(), [x, *theirs.parameters()])
    for grad, other in zip(grads, wanted):
        torch.testing.assert_close(grad, other)


@pytest.mark.parametrize("hw", [(16, 24), (17, 5), (9, 1), (24, 3)])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_strips_equal_the_whole(
    hw: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair()
    strips: list[int] = []
    convolve = torch.nn.Conv2d._conv_forward
    monkeypatch.setattr(
        torch.nn.Conv2d,
        "_conv_forward",
        lambda self, x, *rest: strips.append(x.shape[2]) or convolve(self, x, *rest),
    )
    monkeypatch.setattr(mix_ffn, "WHOLE_BYTES", 0)
    monkeypatch.setattr(mix_ffn, "STRIP_BYTES", 0)
    monkeypatch.setattr(mix_ffn, "MIN_ROWS", rows)
    x = torch.randn(2, hw[0] * hw[1], 8, dtype=torch.float64)
    with torch.no_grad():
        out = ours(x, hw)
        assert len(strips) == -(-hw[0] // rows)  # the depthwise convolution of each
        torch.testing.assert_close(out, theirs(x, hw) - x)
        norm = torch.nn.LayerNorm(8).double()
        torch.testing.assert_close(ours(x, hw, norm), theirs(norm(x), hw) - norm(x))


def test_large_maps_are_made_in_strips_without_gradients_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mix_ffn, "STRIP_BYTES", 2**12)  # few rows, however many threads
    layer, hw = MixFFN(1, 64), (300, 300)  # a hidden map of 23 MB
    calls: list[int] = []
    convolve = torch.nn.Conv2d._conv_forward
    monkeypatch.setattr(
        torch.nn.Conv2d,
        "_conv_forward",
        lambda self, *rest: calls.append(1) or convolve(self, *rest),
    )
    x = torch.randn(1, 300 * 300, 1)
    whole = layer(x, hw)
    assert len(calls) == 1
    with torch.inference_mode():
        strips = layer(x, hw)
    assert len(calls) > 2
    torch.testing.assert_close(strips, whole, rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    ours, _ = pair(drop=0.5)
    x = torch.randn(1, 12, 8, dtype=torch.float64)
    assert not torch.equal(ours(x, (3, 4)), ours(x, (3, 4)))
    ours.eval()
    assert torch.equal(ours(x, (3, 4)), ours(x, (3, 4)))
