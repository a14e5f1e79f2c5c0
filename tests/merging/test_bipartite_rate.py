"""Matching by rate against a matcher in plain loops, and by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import brute_force
from reference.dispatch import Watch

from mmtokmerge.kernels import similarity
from mmtokmerge.merging import bipartite_matching

STRIDES = [(2, 2), (4, 4), (3, 2), (1, 4)]


def reach(stride: tuple[int, int]) -> float:
    return 1 - 1 / (stride[0] * stride[1])


@given(
    hw=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    stride=st.sampled_from(STRIDES),
    part=st.floats(0, 1),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_equals_loops(
    hw: tuple[int, int], stride: tuple[int, int], part: float, batch: int, seed: int
) -> None:
    torch.manual_seed(seed)
    rate = part * reach(stride)
    x = torch.randn(batch, hw[0] * hw[1], 4, dtype=torch.float64)
    value = bipartite_matching(x, hw, rate=rate, stride=stride)
    merged = value.merge(x)
    for row, tokens in enumerate(x.tolist()):
        groups = value.groups[row % len(value.groups)].tolist()
        expected = brute_force.match_by_rate(tokens, hw, rate, stride)
        assert brute_force.canonical(groups) == expected
        means = brute_force.merge(tokens, expected)
        back = torch.tensor(brute_force.unmerge(means, expected), dtype=torch.float64)
        torch.testing.assert_close(value.unmerge(merged)[row], back)
    counts = torch.zeros_like(value.sizes).scatter_add_(
        1, value.groups, torch.ones_like(value.groups)
    )
    assert torch.equal(value.sizes, counts)
    assert (value.sizes > 0).all()


@pytest.mark.parametrize(
    ("hw", "rate", "stride", "kept"),
    [
        ((4, 4), 0.5, (2, 2), 8),
        ((4, 4), 0.75, (2, 2), 4),
        ((5, 5), 0.6, (2, 2), 10),  # int(25 * 0.6) = 15 of 21 sources
        ((7, 9), 0.9, (4, 4), 7),  # int(63 * 0.9) = 56 of 61 sources
        ((3, 3), 0.9, (4, 4), 1),  # the stride becomes 3x3; int(8.1) = 8 of 8 sources
        ((1, 5), 0.9, (4, 4), 1),  # the stride becomes 1x4: one full cell, int(4.5) = 4 sources
        ((1, 8), 0.9, (4, 4), 2),  # int(7.2) = 7, but there are only 6 sources
        ((1, 1), 0.75, (2, 2), 1),
        ((2, 3), 0.1, (2, 2), 6),  # int(0.6) = 0
        ((4, 4), 0.0, (2, 2), 16),
        ((128, 128), 0.9, (4, 4), 1639),
    ],
)
def test_number_of_groups(
    hw: tuple[int, int], rate: float, stride: tuple[int, int], kept: int
) -> None:
    x = torch.randn(2, hw[0] * hw[1], 4)
    value = bipartite_matching(x, hw, rate=rate, stride=stride)
    assert value.num_groups == kept
    assert (value.sizes.sum(1) == x.shape[1]).all()


def test_golden_by_hand() -> None:
    """A 2x4 grid of angles; 2x2 cells, so tokens 0 (0 degrees) and 2 (90 degrees) are destinations.

    Sources and their nearest destination: 1 (50) -> 2, off by 40; 3 (85) -> 2, off by 5;
    4 (10) -> 0, off by 10; 5 (-30) -> 0, off by 30; 6 (61) -> 2, off by 29; 7 (180) -> 2,
    off by 90. A rate of 0.5 merges int(8 * 0.5) = 4: tokens 3, 4, 6 and 5. Lengths differ: they do
    not matter to the cosine, but they do to the mean.
    """
    degrees = torch.tensor([0.0, 50.0, 90.0, 85.0, 10.0, -30.0, 61.0, 180.0])
    lengths = torch.tensor([1.0, 9.0, 1.0, 5.0, 0.1, 3.0, 7.0, 2.0])
    angle = degrees.deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], -1)[None] * lengths[:, None]
    value = bipartite_matching(x, (2, 4), rate=0.5, stride=(2, 2))
    assert brute_force.canonical(value.groups[0].tolist()) == [0, 1, 2, 2, 0, 0, 2, 3]
    group = value.groups[0, 0]
    assert value.sizes[0, group] == 3
    torch.testing.assert_close(value.merge(x)[0, group], (x[0, 0] + x[0, 4] + x[0, 5]) / 3)


def test_tokens_outside_full_cells_are_sources() -> None:
    """A 3x3 grid has one full 2x2 cell: eight sources, of which int(9 * 0.75) = 6 merge."""
    x = torch.ones(1, 9, 2)
    value = bipartite_matching(x, (3, 3), rate=0.75, stride=(2, 2))
    assert sorted(value.sizes[0].tolist()) == [1, 1, 7]
    assert value.sizes[0, value.groups[0, 0]] == 7


def test_an_int_stride_is_square() -> None:
    x = torch.randn(1, 36, 3)
    square = bipartite_matching(x, (6, 6), rate=0.7, stride=(3, 3))
    assert torch.equal(bipartite_matching(x, (6, 6), rate=0.7, stride=3).groups, square.groups)


def test_rate_zero_is_the_identity() -> None:
    x = torch.randn(2, 12, 3)
    value = bipartite_matching(x, (3, 4), rate=0.0)
    assert torch.equal(value.merge(x), x)


@pytest.mark.parametrize(
    ("rate", "stride", "message"),
    [
        (0.76, (2, 2), r"rate=0\.76 .*stride \(2, 2\).* 0\.75"),
        (0.95, (4, 4), r"rate=0\.95 .*stride \(4, 4\).* 0\.9375"),
        (0.9, (1, 4), r"rate=0\.9 .*stride \(1, 4\).* 0\.75"),
        (0.1, (1, 1), r"rate=0\.1 .*stride \(1, 1\).* 0\b"),
        (-0.1, (2, 2), r"rate=-0\.1 "),
        (1.0, (4, 4), r"rate=1\.0 "),
        (float("nan"), (4, 4), r"rate=nan "),
    ],
)
def test_unreachable_rates_say_what_can_be_reached(
    rate: float, stride: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bipartite_matching(torch.randn(1, 64, 2), (8, 8), rate=rate, stride=stride)


def test_wrong_arguments_are_refused() -> None:
    x = torch.randn(1, 12, 2)
    with pytest.raises(ValueError, match=r"12 tokens.*\(3, 5\)"):
        bipartite_matching(x, (3, 5), rate=0.5)
    with pytest.raises(ValueError, match="hw=None"):
        bipartite_matching(x, rate=0.5)
    with pytest.raises(ValueError, match=r"rate=.*threshold="):
        bipartite_matching(x, (3, 4))
    with pytest.raises(ValueError, match=r"rate=.*threshold="):
        bipartite_matching(x, (3, 4), rate=0.5, threshold=0.5)
    with pytest.raises(ValueError, match="sizes"):
        bipartite_matching(x, (3, 4), rate=0.5, sizes=torch.ones(1, 12))
    with pytest.raises(ValueError, match=r"\(B, N, C\).*\(12, 2\)"):
        bipartite_matching(x[0], (3, 4), rate=0.5)
    with pytest.raises(TypeError, match=r"stride.*2\.5"):
        bipartite_matching(x, (3, 4), rate=0.5, stride=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"stride.*0"):
        bipartite_matching(x, (3, 4), rate=0.5, stride=0)


def test_images_do_not_touch_each_other() -> None:
    x = torch.randn(3, 63, 8, dtype=torch.float64)
    together = bipartite_matching(x, (7, 9), rate=0.6)
    for row in range(3):
        alone = bipartite_matching(x[row : row + 1], (7, 9), rate=0.6)
        assert torch.equal(alone.groups[0], together.groups[row])


def test_permuted_channels_match_alike() -> None:
    x = torch.randn(2, 63, 8, dtype=torch.float64)
    shuffled = bipartite_matching(x[..., torch.randperm(8)], (7, 9), rate=0.6)
    assert torch.equal(shuffled.groups, bipartite_matching(x, (7, 9), rate=0.6).groups)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_finds_clear_matches(dtype: torch.dtype) -> None:
    """Each source stands within a degree of one of four destinations that are 90 degrees apart."""
    torch.manual_seed(0)
    angle = (torch.randint(4, (2, 64)) * 90 + torch.rand(2, 64)).deg2rad()
    at = torch.arange(64).view(8, 8)[::4, ::4].flatten()  # the destinations of 4x4 cells
    angle[:, at] = (torch.arange(4) * 90.0 + 0.5).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], -1) * (1 + torch.rand(2, 64, 1))
    exact = bipartite_matching(x.double(), (8, 8), rate=0.9375, stride=4)
    half = bipartite_matching(x.to(dtype), (8, 8), rate=0.9375, stride=4)
    for a, b in zip(half.groups.tolist(), exact.groups.tolist()):
        assert brute_force.canonical(a) == brute_force.canonical(b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_token_of_zeros_attracts_nobody(dtype: torch.dtype) -> None:
    """Token 0, a destination, is all zeros: everything else belongs to token 2."""
    x = torch.ones(1, 8, 4, dtype=dtype)
    x[0, 0] = 0
    value = bipartite_matching(x, (2, 4), rate=0.75, stride=(2, 2))
    assert brute_force.canonical(value.groups[0].tolist()) == [0, 1, 1, 1, 1, 1, 1, 1]
    assert torch.isfinite(value.merge(x)).all()


def test_scores_are_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 48 * 48, 4, dtype=torch.float64)
    whole = bipartite_matching(x, (48, 48), rate=0.6)
    monkeypatch.setattr(similarity, "MAX_SCORES", 2**16)
    with Watch() as watch:
        sliced = bipartite_matching(x, (48, 48), rate=0.6)
    assert torch.equal(sliced.groups, whole.groups)
    assert watch.largest <= 2**16


def test_no_square_of_the_tokens() -> None:
    tokens = 128 * 128
    x = torch.randn(1, tokens, 4)
    with Watch() as watch:
        value = bipartite_matching(x, (128, 128), rate=0.9, stride=4)
        value.unmerge(value.merge(x))
    assert watch.largest <= tokens * tokens // 16


def test_asks_for_no_sort_and_waits_for_nothing() -> None:
    x = torch.randn(2, 63, 8)
    bipartite_matching(x, (7, 9), rate=0.6)  # the grid's constants are made once
    with Watch() as watch:
        value = bipartite_matching(x, (7, 9), rate=0.6)
        value.unmerge(value.merge(x))
    waits = {"_local_scalar_dense", "item", "nonzero", "masked_select", "_unique2", "bincount"}
    sorts = {"sort", "argsort", "msort"}
    wrong_export = {"scatter_reduce"}  # a mean that ONNX has not
    assert not watch.names & (waits | sorts | wrong_export)
    assert "topk" in watch.names


def test_shapes_without_data() -> None:
    """The meta device has no values to wait for."""
    x = torch.empty(2, 63, 8, device="meta")
    value = bipartite_matching(x, (7, 9), rate=0.6)
    assert value.merge(x).shape == (2, 63 - int(63 * 0.6), 8)
    assert value.unmerge(value.merge(x)).shape == x.shape


def test_gradients_flow_through_the_merge_not_the_matching() -> None:
    x = torch.randn(1, 16, 3, dtype=torch.float64, requires_grad=True)
    value = bipartite_matching(x, (4, 4), rate=0.5)
    assert torch.autograd.gradcheck(lambda t: value.unmerge(value.merge(t)), (x,))
    assert not value.groups.requires_grad


def test_an_empty_batch_gives_an_empty_assignment():
    found = bipartite_matching(torch.zeros(0, 9, 3), (3, 3), rate=0.5, stride=2)
    assert found.groups.shape == (0, 9) and found.sizes.shape == (0, 5)
    assert found.unmerge(found.merge(torch.zeros(0, 9, 3))).shape == (0, 9, 3)
