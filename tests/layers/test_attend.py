"""attend(): the fused kernel, the formula spelled out, and weights by size."""

from __future__ import annotations

import pytest
import torch

from mmtokmerge.layers import attend
from mmtokmerge.merging import TokenAssignment


def heads(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_golden_by_hand() -> None:
    """d = 4, so the scale is 1/2: logits 0 and ln 3, weights 1/4 and 3/4, value 7."""
    q = torch.tensor([[[[2.0, 0.0, 0.0, 0.0]]]])
    k = torch.zeros(1, 1, 2, 4)
    k[..., 1, 0] = torch.tensor(3.0).log()
    v = torch.tensor([[[[1.0], [9.0]]]]).expand(1, 1, 2, 4)
    for fused in (True, False):
        torch.testing.assert_close(attend(q, k, v, fused=fused), torch.full((1, 1, 1, 4), 7.0))


@pytest.mark.parametrize("biased", [False, True])
def test_fused_equals_explicit(biased: bool) -> None:
    q, k, v = heads(2, 3, 7, 4), heads(2, 3, 5, 4), heads(2, 3, 5, 4)
    bias = heads(2, 1, 1, 5) if biased else None
    torch.testing.assert_close(attend(q, k, v, bias), attend(q, k, v, bias, fused=False))


@pytest.mark.parametrize("fused", [True, False])
def test_bias_hides_a_key(fused: bool) -> None:
    q, k, v = heads(1, 2, 3, 4), heads(1, 2, 5, 4), heads(1, 2, 5, 4)
    bias = torch.zeros(1, 1, 1, 5, dtype=torch.float64)
    bias[..., 4] = -torch.inf
    expected = attend(q, k[:, :, :4], v[:, :, :4], fused=fused)
    torch.testing.assert_close(attend(q, k, v, bias, fused=fused), expected)


@pytest.mark.parametrize("fused", [True, False])
def test_weights_by_size_are_exact(fused: bool) -> None:
    """Merged duplicates that weigh by the log of their size are the unmerged softmax."""
    torch.manual_seed(0)
    groups = TokenAssignment.from_groups(
        torch.tensor([[0, 1, 0, 2, 1, 0, 3], [2, 0, 1, 1, 1, 3, 0]]), 4
    )
    distinct = heads(2, 4, 6)
    tokens = groups.unmerge(distinct)
    project = heads(6, 6), heads(6, 6)
    q = heads(2, 2, 5, 3)

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (2, 3)).transpose(1, 2)

    full = attend(q, split(tokens @ project[0]), split(tokens @ project[1]), fused=False)
    merged = groups.merge(tokens)
    k, v = split(merged @ project[0]), split(merged @ project[1])
    bias = groups.sizes.double().log()[:, None, None]
    torch.testing.assert_close(attend(q, k, v, bias, fused=fused), full)
    assert not torch.allclose(attend(q, k, v, fused=fused), full), "sizes make a difference here"


@pytest.mark.parametrize("fused", [True, False])
def test_dropout_drops_weights_and_keeps_the_mean(fused: bool) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 8, 4)
    v = torch.eye(8)[None, None]  # the result is the row of weights
    weights = attend(q, k, v, fused=fused)
    many = torch.stack([attend(q, k, v, dropout=0.5, fused=fused) for _ in range(400)])
    kept = many != 0
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(many[kept], (2 * weights).expand_as(many)[kept])


@pytest.mark.parametrize("fused", [True, False])
def test_gradients(fused: bool) -> None:
    q, k, v, bias = (
        t.requires_grad_()
        for t in (heads(1, 2, 3, 2), heads(1, 2, 4, 2), heads(1, 2, 4, 2), heads(1, 1, 1, 4))
    )
    assert torch.autograd.gradcheck(lambda *t: attend(*t, fused=fused), (q, k, v, bias))
