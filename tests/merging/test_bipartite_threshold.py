"""Matching by threshold against a matcher in plain loops, and by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import brute_force
from reference.dispatch import Watch

from mmtokmerge.kernels import similarity
from mmtokmerge.merging import bipartite_matching


def angles(degrees: list[float], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    angle = torch.tensor([degrees], dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], -1).to(dtype)


@given(
    tokens=st.integers(1, 14),
    threshold=st.floats(-1, 1),
    batch=st.integers(1, 3),
    absent=st.integers(0, 4),
    anywhere=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_equals_loops(
    tokens: int, threshold: float, batch: int, absent: int, anywhere: bool, seed: int
) -> None:
    """Groups keep the order of their first token, as the reference numbers them."""
    torch.manual_seed(seed)
    x = torch.randn(batch, tokens, 3, dtype=torch.float64)
    sizes = torch.randint(1, 5, (batch, tokens))
    for row in range(batch):
        count = min(absent, tokens - 1)
        gone = (
            torch.randperm(tokens)[:count] if anywhere else torch.arange(tokens)[tokens - count :]
        )
        sizes[row, gone] = 0
    value = bipartite_matching(x, threshold=threshold, sizes=sizes)
    expected = [
        brute_force.match_by_threshold(t, threshold, s) for t, s in zip(x.tolist(), sizes.tolist())
    ]
    counts = [len({g for g in row if g is not None}) for row in expected]
    assert value.num_groups == max(counts)
    merged = value.merge(x, sizes)
    for row, groups in enumerate(expected):
        there = [i for i, g in enumerate(groups) if g is not None]
        kept = [groups[i] for i in there]
        assert value.groups[row, there].tolist() == kept
        held = [kept.count(g) for g in range(counts[row])]
        assert value.sizes[row].tolist() == held + [0] * (max(counts) - counts[row])
        means = brute_force.merge(x[row, there].tolist(), kept, sizes[row, there].tolist())
        torch.testing.assert_close(
            merged[row, : counts[row]], torch.tensor(means, dtype=torch.float64)
        )
        assert not merged[row, counts[row] :].any()


def test_golden_by_hand() -> None:
    """Sources 0 (0), 2 (45), 4 (90 degrees); destinations 1 (88), 3 (44), 5 (200 degrees).

    Token 4 goes to 1, off by 2 degrees, token 2 to 3, off by 1; token 0 is far from all. The order
    of first tokens: 0, 1 (with 4), 2 (with 3), 5.
    """
    value = bipartite_matching(angles([0, 88, 45, 44, 90, 200]), threshold=0.99)
    assert value.groups.tolist() == [[0, 1, 2, 2, 1, 3]]
    assert value.sizes.tolist() == [[1, 2, 2, 1]]


def test_strictly_greater() -> None:
    """The cosine of (1, 0) and (3, 4) is 3 / 5 exactly; one hair below it merges."""
    x = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]], dtype=torch.float64)
    cosine = 3 / 5
    assert bipartite_matching(x, threshold=cosine).num_groups == 2
    assert bipartite_matching(x, threshold=cosine - 1e-9).num_groups == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_threshold_above_one_is_the_identity(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 64).expand(2, 32, 64).to(dtype)  # all tokens equal
    value = bipartite_matching(x, threshold=1.001)
    assert value.groups.tolist() == [list(range(32))] * 2


def test_images_keep_their_own_counts() -> None:
    same, apart = angles([0, 0, 0, 0]), angles([0, 90, 180, 270])
    value = bipartite_matching(torch.cat([same, apart]), threshold=0.5)
    # Tokens 0 and 2 join token 1 or 3, equally near.
    assert value.sizes[1].tolist() == [1, 1, 1, 1]
    assert value.sizes[0].sum() == 4
    assert (value.sizes[0] == 0).any()


def test_images_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 21, 3, dtype=torch.float64)
    sizes = torch.ones(3, 21, dtype=torch.long)
    sizes[1, 15:] = 0
    together = bipartite_matching(x, threshold=0.8, sizes=sizes)
    for row in range(3):
        there = sizes[row] > 0
        alone = bipartite_matching(x[row : row + 1], threshold=0.8, sizes=sizes[row : row + 1])
        assert torch.equal(alone.groups[0, there], together.groups[row, there])
        assert torch.equal(alone.sizes[0], together.sizes[row, : alone.num_groups])
        assert not together.sizes[row, alone.num_groups :].any()


def test_absent_destinations_are_never_chosen() -> None:
    """Token 3 equals token 0 but is absent; token 1 is 60 degrees away."""
    x = angles([0, 60, 200, 0])
    sizes = torch.tensor([[1, 1, 1, 0]])
    assert bipartite_matching(x, threshold=0.9, sizes=sizes).sizes.tolist() == [[1, 1, 1]]
    assert bipartite_matching(x, threshold=0.4, sizes=sizes).sizes.tolist() == [[2, 1]]
    assert bipartite_matching(x, threshold=0.9).sizes.tolist() == [[2, 1, 1]]


def test_a_row_with_nothing_in_it() -> None:
    x = torch.randn(2, 4, 3)
    sizes = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])
    value = bipartite_matching(x, threshold=2.0, sizes=sizes)
    assert value.sizes.tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    assert not value.merge(x, sizes)[0].any()


def test_threshold_of_a_tensor() -> None:
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    number = bipartite_matching(x, threshold=0.3)
    tensor = bipartite_matching(x, threshold=torch.tensor(0.3, dtype=torch.float64))
    assert torch.equal(number.groups, tensor.groups)


def test_takes_no_grid() -> None:
    with pytest.raises(ValueError, match="hw"):
        bipartite_matching(torch.randn(1, 4, 2), (2, 2), threshold=0.5)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes"):
        bipartite_matching(torch.randn(2, 4, 2), threshold=0.5, sizes=torch.ones(2, 5))


def test_scores_are_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 1000, 4, dtype=torch.float64)
    whole = bipartite_matching(x, threshold=0.9)
    monkeypatch.setattr(similarity, "MAX_SCORES", 2**16)
    with Watch() as watch:
        sliced = bipartite_matching(x, threshold=0.9)
    assert torch.equal(sliced.groups, whole.groups)
    assert watch.largest <= 2**16


@given(
    tokens=st.integers(1, 14),
    batch=st.integers(1, 3),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
def test_by_count_merges_the_most_similar_sources(
    tokens: int, batch: int, share: float, seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(batch, tokens, 3, dtype=torch.float64)
    count = int(share * (tokens + 1) / 2) if tokens > 1 else 0
    value = bipartite_matching(x, count=count)
    assert value.num_groups == tokens - count
    assert not value.padded
    for row in range(batch):
        best = sorted(
            max(
                (brute_force.cosine(x[row, i].tolist(), x[row, j].tolist()))
                for j in range(1, tokens, 2)
            )
            for i in range(0, tokens, 2)
            if tokens > 1
        )
        # The count-th best cosine as a threshold merges the same sources.
        bound = 2.0 if count == 0 else best[-count] - 1e-9
        expected = brute_force.match_by_threshold(x[row].tolist(), bound)
        assert value.groups.expand(batch, -1)[row].tolist() == expected


def test_a_shared_count_is_that_of_the_image_that_merges_least() -> None:
    """One source of the first image is above 0.9, two of the second: of those its better one."""
    first, second = angles([0, 1, 100, 200]), angles([0, 20, 110, 111])
    value = bipartite_matching(torch.cat([first, second]), threshold=0.9, share_count=True)
    assert value.groups.tolist() == [[0, 0, 1, 2], [0, 1, 2, 2]]
    assert not value.padded
    own = bipartite_matching(torch.cat([first, second]), threshold=0.9)
    assert own.groups.tolist() == [[0, 0, 1, 2], [0, 0, 1, 1]]
    assert own.padded


@pytest.mark.parametrize("count", [-1, 3])
def test_a_count_that_cannot_be_reached_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count={count}"):
        bipartite_matching(torch.randn(1, 4, 2), count=count)
