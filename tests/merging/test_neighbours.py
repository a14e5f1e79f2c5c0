"""Neighbour pooling against plain loops; the fast cells against the general assignment."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import brute_force

from mmtokmerge.merging import TokenAssignment, neighbour_pooling

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(hw=SIDES, kernel=SIDES, seed=st.integers(0, 2**16))
def test_equals_loops(hw: tuple[int, int], kernel: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    value = neighbour_pooling(hw, kernel=kernel)
    groups = brute_force.pool_cells(hw, kernel)
    assert value.groups.tolist() == [groups]
    assert value.sizes.tolist() == [[groups.count(g) for g in range(max(groups) + 1)]]
    x = torch.randn(2, hw[0] * hw[1], 3, dtype=torch.float64)
    means = [brute_force.merge(tokens, groups) for tokens in x.tolist()]
    merged = value.merge(x)
    torch.testing.assert_close(merged, torch.tensor(means, dtype=torch.float64))
    back = [brute_force.unmerge(rows, groups) for rows in merged.tolist()]
    assert value.unmerge(merged).tolist() == back


@given(hw=SIDES, kernel=SIDES, seed=st.integers(0, 2**16))
def test_pooling_is_the_general_merge(
    hw: tuple[int, int], kernel: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    cells = neighbour_pooling(hw, kernel=kernel)
    general = TokenAssignment(cells.groups, cells.sizes)
    x = torch.randn(2, hw[0] * hw[1], 3, dtype=torch.float64)
    y = torch.randn(2, cells.num_groups, 3, dtype=torch.float64)
    sizes = torch.randint(1, 6, x.shape[:2])
    torch.testing.assert_close(cells.merge(x), general.merge(x))
    torch.testing.assert_close(cells.merge(x, sizes), general.merge(x, sizes))
    assert torch.equal(cells.unmerge(y), general.unmerge(y))


def test_golden_by_hand() -> None:
    """3x3 in 2x2 cells: (1+2+4+5)/4, (3+6)/2, (7+8)/2 and 9 alone."""
    value = neighbour_pooling((3, 3), kernel=2)
    x = torch.arange(1.0, 10.0).view(1, 9, 1)
    assert value.sizes.tolist() == [[4, 2, 2, 1]]
    assert value.merge(x).flatten().tolist() == [3.0, 4.5, 7.5, 9.0]
    back = value.unmerge(value.merge(x)).flatten().tolist()
    assert back == [3.0, 3.0, 4.5, 3.0, 3.0, 4.5, 7.5, 7.5, 9.0]


def test_one_dimension_runs_along_the_sequence() -> None:
    """Seven tokens in runs of three; an int kernel shrinks to the one row."""
    for kernel in (3, (1, 3)):
        value = neighbour_pooling((1, 7), kernel=kernel)
        assert value.groups.tolist() == [[0, 0, 0, 1, 1, 1, 2]]
        assert value.sizes.tolist() == [[3, 3, 1]]


def test_one_token() -> None:
    value = neighbour_pooling((1, 1), kernel=4)
    x = torch.randn(3, 1, 2)
    assert torch.equal(value.unmerge(value.merge(x)), x)


def test_gradients() -> None:
    value = neighbour_pooling((3, 5), kernel=(2, 3))
    x = torch.randn(2, 15, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: value.unmerge(value.merge(t)), (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_fp32(dtype: torch.dtype) -> None:
    """4096 tokens of 20 sum to 81920: above fp16's largest number, and stuck at 8192 in bf16."""
    value = neighbour_pooling((64, 64), kernel=64)
    x = torch.full((1, 4096, 3), 20.0, dtype=dtype)
    assert torch.equal(value.merge(x), torch.full((1, 1, 3), 20.0, dtype=dtype))


def test_composes_with_other_assignments() -> None:
    first = neighbour_pooling((4, 4), kernel=2)
    both = first.compose(neighbour_pooling((2, 2), kernel=2))
    x = torch.randn(2, 16, 3, dtype=torch.float64)
    torch.testing.assert_close(both.merge(x), x.mean(1, keepdim=True))
    assert both.sizes.tolist() == [[16]]


@pytest.mark.parametrize(
    ("hw", "kernel", "error", "message"),
    [
        ((4, 4), 0, ValueError, "kernel.*0"),
        ((4, 4), (2, 0), ValueError, r"kernel.*\(2, 0\)"),
        ((4, 4), 2.0, TypeError, r"kernel.*2\.0"),
        ((4, 4), (1, 2, 3), TypeError, r"kernel.*\(1, 2, 3\)"),
        ((4, 4), True, TypeError, "kernel.*True"),
        ((0, 4), 2, ValueError, r"hw.*\(0, 4\)"),
    ],
)
def test_wrong_cells_are_refused(
    hw: Any, kernel: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        neighbour_pooling(hw, kernel=kernel)


def test_wrong_shapes_are_refused() -> None:
    value = neighbour_pooling((4, 4), kernel=2)
    with pytest.raises(ValueError, match=r"\(B, 16, C\).*\(1, 15, 2\)"):
        value.merge(torch.zeros(1, 15, 2))
    with pytest.raises(ValueError, match=r"\(B, 4, C\).*\(1, 5, 2\)"):
        value.unmerge(torch.zeros(1, 5, 2))


def test_runs_without_data() -> None:
    x = torch.empty(2, 15, 2, device="meta")
    value = neighbour_pooling((3, 5), kernel=2, device="meta")
    assert value.unmerge(value.merge(x)).shape == x.shape
