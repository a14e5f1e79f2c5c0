"""Bilinear unmerging against a weighted sum in plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmtokmerge.merging import CellPooling, neighbour_pooling

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def between(position: int, cell: int, cells: int) -> dict[int, float]:
    """The one or two cells that a token lies between along a side, with their shares."""
    centre = (position + 0.5) / cell - 0.5
    centre = min(max(centre, 0.0), cells - 1.0)
    low = math.floor(centre)
    shares = {low: 1 - (centre - low)}
    if low + 1 < cells:
        shares[low + 1] = centre - low
    return shares


@given(hw=SIDES, kernel=SIDES, seed=st.integers(0, 2**16))
def test_equals_loops(hw: tuple[int, int], kernel: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    groups = CellPooling(kernel, unmerge="bilinear").assign(torch.randn(1, hw[0] * hw[1], 1), hw)
    ky, kx = min(kernel[0], hw[0]), min(kernel[1], hw[1])
    rows, columns = -(-hw[0] // ky), -(-hw[1] // kx)
    y = torch.randn(2, rows * columns, 3, dtype=torch.float64)
    out = groups.unmerge(y)
    for token in range(hw[0] * hw[1]):
        wanted = torch.zeros(2, 3, dtype=torch.float64)
        for row, share in between(token // hw[1], ky, rows).items():
            for column, part in between(token % hw[1], kx, columns).items():
                wanted += share * part * y[:, row * columns + column]
        torch.testing.assert_close(out[:, token], wanted)


def test_merging_is_pooling() -> None:
    x = torch.randn(2, 7 * 9, 3, dtype=torch.float64)
    groups = CellPooling((2, 2), unmerge="bilinear").assign(x, (7, 9))
    pooled = neighbour_pooling((7, 9), kernel=2)
    assert torch.equal(groups.merge(x), pooled.merge(x))
    assert torch.equal(groups.groups, pooled.groups)


def test_a_ramp_comes_back_inside() -> None:
    """Copying makes steps of a ramp; interpolation gives it back, but for half a cell at edges."""
    x = torch.arange(12, dtype=torch.float64).view(1, 12, 1)
    groups = CellPooling((1, 2), unmerge="bilinear").assign(x, (1, 12))
    out = groups.unmerge(groups.merge(x))
    torch.testing.assert_close(out[:, 1:-1], x[:, 1:-1])


def test_a_linear_layer_may_act_on_the_cells() -> None:
    """As the output projection of the attention does, with its bias."""
    layer = torch.nn.Linear(4, 6).double()
    x = torch.randn(2, 5 * 7, 4, dtype=torch.float64)
    groups = CellPooling((2, 3), unmerge="bilinear").assign(x, (5, 7))
    y = groups.merge(x)
    torch.testing.assert_close(groups.unmerge(layer(y)), layer(groups.unmerge(y)))


def test_gradients() -> None:
    groups = CellPooling((2, 2), unmerge="bilinear").assign(torch.zeros(1, 15, 1), (3, 5))
    x = torch.randn(2, 15, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: groups.unmerge(groups.merge(t)), (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    x = torch.randn(2, 15, 4, dtype=dtype)
    groups = CellPooling((2, 2), unmerge="bilinear").assign(x, (3, 5))
    y = groups.merge(x)
    out = groups.unmerge(y)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), groups.unmerge(y.double()), atol=0.02, rtol=0.02)
