"""TokenAssignment against plain loops, and the laws that every merge keeps."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import brute_force
from reference.dispatch import Watch

from mmtokmerge.merging import TokenAssignment


def assign(groups: torch.Tensor) -> TokenAssignment:
    return TokenAssignment.from_groups(groups, int(groups.max()) + 1)


@st.composite
def partitions(draw: st.DrawFn, tokens: int | None = None) -> torch.Tensor:
    """``(B, N)`` random groups, none of them empty in any image."""
    batch = draw(st.integers(1, 3))
    number = tokens if tokens is not None else draw(st.integers(1, 12))
    count = draw(st.integers(1, number))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    rows = []
    for _ in range(batch):
        row = torch.cat([torch.arange(count), torch.randint(count, (number - count,))])
        rows.append(row[torch.randperm(number)])
    return torch.stack(rows)


def random_tokens(groups: torch.Tensor, channels: int = 3) -> torch.Tensor:
    return torch.randn(*groups.shape, channels, dtype=torch.float64)


def test_is_immutable() -> None:
    value = assign(torch.tensor([[0, 1, 0]]))
    with pytest.raises(FrozenInstanceError):
        value.groups = value.groups  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        value.sizes = value.sizes  # type: ignore[misc]


def test_golden_by_hand() -> None:
    """Groups {0, 2, 3} and {1}: (1 + 5 + 6) / 3 = 4, and 2."""
    value = assign(torch.tensor([[0, 1, 0, 0]]))
    x = torch.tensor([[[1.0], [2.0], [5.0], [6.0]]])
    assert value.sizes.tolist() == [[3, 1]]
    assert value.merge(x).tolist() == [[[4.0], [2.0]]]
    assert value.unmerge(value.merge(x)).tolist() == [[[4.0], [2.0], [4.0], [4.0]]]
    # Token 0 stands for 3 already: (3 * 1 + 1 * 5 + 2 * 6) / 6 = 20 / 6.
    weighted = value.merge(x, torch.tensor([[3, 7, 1, 2]]))
    assert torch.allclose(weighted, torch.tensor([[[20 / 6], [2.0]]]))


@given(partitions())
def test_merge_and_unmerge_equal_loops(groups: torch.Tensor) -> None:
    value, x = assign(groups), random_tokens(groups)
    merged = value.merge(x)
    expected = [brute_force.merge(t, g) for t, g in zip(x.tolist(), groups.tolist())]
    torch.testing.assert_close(merged, torch.tensor(expected, dtype=torch.float64))
    back = [brute_force.unmerge(y, g) for y, g in zip(merged.tolist(), groups.tolist())]
    assert value.unmerge(merged).tolist() == back


@given(partitions(), st.integers(0, 2**16))
def test_weighted_merge_equals_loops_and_conserves_the_sum(groups: torch.Tensor, seed: int) -> None:
    value, x = assign(groups), random_tokens(groups)
    sizes = torch.randint(1, 9, groups.shape, generator=torch.Generator().manual_seed(seed))
    merged = value.merge(x, sizes)
    expected = [
        brute_force.merge(t, g, s) for t, g, s in zip(x.tolist(), groups.tolist(), sizes.tolist())
    ]
    torch.testing.assert_close(merged, torch.tensor(expected, dtype=torch.float64))
    totals = torch.zeros(value.sizes.shape, dtype=torch.long).scatter_add_(1, groups, sizes)
    torch.testing.assert_close((merged * totals[..., None]).sum(1), (x * sizes[..., None]).sum(1))


@given(partitions())
def test_mean_is_conserved_and_sizes_sum_to_n(groups: torch.Tensor) -> None:
    value, x = assign(groups), random_tokens(groups)
    assert value.num_tokens == groups.shape[1]
    assert value.num_groups == value.sizes.shape[1]
    assert (value.sizes.sum(1) == groups.shape[1]).all()
    torch.testing.assert_close((value.merge(x) * value.sizes[..., None]).sum(1), x.sum(1))


@given(partitions())
def test_equal_tokens_unmerge_exactly(groups: torch.Tensor) -> None:
    value = assign(groups)
    # Whole numbers: their sums and means are exact in floating point.
    rows = torch.randint(-50, 50, (groups.shape[0], value.num_groups, 3)).float()
    x = value.unmerge(rows)
    assert torch.equal(value.unmerge(value.merge(x)), x)


@given(st.data())
def test_composition_is_one_merge_after_the_other(data: st.DataObject) -> None:
    first = assign(data.draw(partitions()))
    second = assign(data.draw(partitions(tokens=first.num_groups)))
    if 1 not in (len(first.groups), len(second.groups)):
        batch = min(len(first.groups), len(second.groups))
        first = assign(first.groups[:batch])
        second = assign(second.groups[:batch])
        if second.num_tokens != first.num_groups:  # the largest group was cut off with the batch
            return
    batch = max(len(first.groups), len(second.groups))
    both = first.compose(second)
    x = torch.randn(batch, first.num_tokens, 2, dtype=torch.float64)
    sizes = first.sizes.expand(batch, -1)
    y = second.merge(first.merge(x), sizes)
    torch.testing.assert_close(both.merge(x), y)
    assert torch.equal(both.unmerge(y), first.unmerge(second.unmerge(y)))
    assert (both.sizes.sum(1) == first.num_tokens).all()
    for row in range(batch):
        g = first.groups[row % len(first.groups)].tolist()
        h = second.groups[row % len(second.groups)].tolist()
        assert both.groups[row].tolist() == [h[group] for group in g]


def test_composition_keeps_padded_groups_empty() -> None:
    first = TokenAssignment(torch.tensor([[0, 0, 1]]), torch.tensor([[2, 1, 0]]))  # one padded row
    second = TokenAssignment(torch.tensor([[0, 1, 1]]), torch.tensor([[1, 2]]))
    assert first.compose(second).sizes.tolist() == [[2, 1]]
    x = torch.tensor([[[1.0], [3.0], [8.0]]])
    assert second.merge(first.merge(x), first.sizes).tolist() == [[[2.0], [8.0]]]


@given(partitions())
def test_images_do_not_touch_each_other(groups: torch.Tensor) -> None:
    value, x = assign(groups), random_tokens(groups)
    for row in range(len(groups)):
        alone = TokenAssignment(value.groups[row : row + 1], value.sizes[row : row + 1])
        assert torch.equal(alone.merge(x[row : row + 1])[0], value.merge(x)[row])


@given(partitions())
def test_permuted_channels_give_permuted_means(groups: torch.Tensor) -> None:
    value, x = assign(groups), random_tokens(groups, 5)
    order = torch.randperm(5)
    assert torch.equal(value.merge(x[..., order]), value.merge(x)[..., order])


def test_batch_of_one_stands_for_any_batch() -> None:
    one = assign(torch.tensor([[0, 1, 1, 0]]))
    many = assign(torch.tensor([[0, 1, 1, 0]] * 3))
    x, sizes = torch.randn(3, 4, 2), torch.randint(1, 5, (3, 4))
    assert torch.equal(one.merge(x), many.merge(x))
    assert torch.equal(one.merge(x, sizes), many.merge(x, sizes))
    assert torch.equal(one.unmerge(one.merge(x)), many.unmerge(many.merge(x)))


def test_identity_changes_nothing() -> None:
    value = TokenAssignment.identity(7)
    x = torch.randn(2, 7, 3)
    assert torch.equal(value.merge(x), x)
    assert torch.equal(value.unmerge(x), x)
    other = assign(torch.tensor([[0, 1, 1, 0, 2, 2, 2]]))
    assert torch.equal(value.compose(other).groups, other.groups)
    assert torch.equal(other.compose(TokenAssignment.identity(3)).groups, other.groups)


def test_empty_groups_give_zeros() -> None:
    value = TokenAssignment(torch.tensor([[0, 0]]), torch.tensor([[2, 0]]))
    x = torch.tensor([[[1.0], [3.0]]])
    assert value.merge(x).tolist() == [[[2.0], [0.0]]]
    assert value.merge(x, torch.tensor([[1, 3]])).tolist() == [[[2.5], [0.0]]]


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients(batch: int) -> None:
    value = assign(torch.tensor([[0, 2, 1, 0, 2], [1, 1, 2, 0, 1]][:batch]))
    x = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    sizes = torch.randint(1, 5, (2, 5))
    assert torch.autograd.gradcheck(value.merge, (x,))
    assert torch.autograd.gradcheck(lambda t: value.merge(t, sizes), (x,))
    assert torch.autograd.gradcheck(value.unmerge, (y,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
def test_half_precision_sums_in_fp32(dtype: torch.dtype, weighted: bool) -> None:
    """4096 tokens of 20 sum to 81920: above fp16's largest number, and stuck at 8192 in bf16."""
    value = TokenAssignment.from_groups(torch.zeros(1, 4096, dtype=torch.long), 1)
    x = torch.full((2, 4096, 3), 20.0, dtype=dtype)
    merged = value.merge(x, torch.full((2, 4096), 5) if weighted else None)
    assert merged.dtype == dtype
    assert torch.equal(merged, torch.full((2, 1, 3), 20.0, dtype=dtype))
    assert value.unmerge(merged).dtype == dtype


def test_wrong_shapes_are_refused() -> None:
    value = assign(torch.tensor([[0, 1, 1], [0, 0, 1]]))
    with pytest.raises(ValueError, match=r"\(2, 3, C\).*\(2, 4, 1\)"):
        value.merge(torch.zeros(2, 4, 1))
    with pytest.raises(ValueError, match=r"\(2, 3, C\).*\(3, 3, 1\)"):
        value.merge(torch.zeros(3, 3, 1))
    with pytest.raises(ValueError, match=r"\(2, 3, C\).*\(2, 3\)"):
        value.merge(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"sizes \(2, 3\).*\(1, 3\)"):
        value.merge(torch.zeros(2, 3, 1), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"\(2, 2, C\).*\(2, 3, 1\)"):
        value.unmerge(torch.zeros(2, 3, 1))
    with pytest.raises(ValueError, match=r"2 tokens.*3"):
        value.compose(TokenAssignment.identity(3))


def test_memory_is_linear_in_the_tokens() -> None:
    tokens, channels = 2**14, 4
    groups = torch.randint(tokens // 4, (2, tokens))
    x = torch.randn(2, tokens, channels)
    with Watch() as watch:
        value = TokenAssignment.from_groups(groups, tokens // 4)
        half = TokenAssignment.from_groups(torch.arange(tokens // 4)[None] // 2, tokens // 8)
        both = value.compose(half)
        both.unmerge(both.merge(x))
        value.merge(x, torch.ones(2, tokens))
    assert watch.largest <= x.numel()
