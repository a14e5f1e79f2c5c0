"""Matching by rate beyond the paper, centre destinations and local search, against plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import brute_force
from reference.dispatch import Watch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmtokmerge.merging import BipartiteMatcher, bipartite_matching

STRIDES = [(2, 2), (4, 4), (3, 2), (1, 4)]


@given(
    hw=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    stride=st.sampled_from(STRIDES),
    part=st.floats(0, 1),
    batch=st.integers(1, 3),
    centre=st.booleans(),
    local=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_equals_loops(
    hw: tuple[int, int],
    stride: tuple[int, int],
    part: float,
    batch: int,
    centre: bool,
    local: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    rate = part * (1 - 1 / (stride[0] * stride[1]))
    x = torch.randn(batch, hw[0] * hw[1], 4, dtype=torch.float64)
    value = bipartite_matching(
        x,
        hw,
        rate=rate,
        stride=stride,
        destination="centre" if centre else "corner",
        match="local" if local else "global",
    )
    for row, tokens in enumerate(x.tolist()):
        groups = value.groups[row % len(value.groups)].tolist()
        expected = brute_force.match_by_rate(tokens, hw, rate, stride, centre, local)
        assert brute_force.canonical(groups) == expected


def angles(degrees: list[float]) -> torch.Tensor:
    angle = torch.tensor([degrees], dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], -1)


def test_local_golden_by_hand() -> None:
    """One row of cells of two; destinations 0, 2, 4, 6 stand at 0, 30, 60 and 90 degrees.

    Token 1 (85) is nearest to token 6, three cells away; of its own and the next cell, token 2 is
    nearest. Token 7 (50) has cells 2 and 3 and takes token 4, which is nearest anyway.
    """
    x = angles([0, 85, 30, 31, 60, 61, 90, 50])
    options = dict(rate=0.5, stride=(1, 2))
    everywhere = bipartite_matching(x, (1, 8), **options)
    nearby = bipartite_matching(x, (1, 8), match="local", **options)
    assert brute_force.canonical(everywhere.groups[0].tolist()) == [0, 1, 2, 2, 3, 3, 1, 3]
    assert brute_force.canonical(nearby.groups[0].tolist()) == [0, 1, 1, 1, 2, 2, 3, 2]


def test_centre_golden_by_hand() -> None:
    """Cells of three: tokens 1 and 4 are destinations, at 0 and 90 degrees; the two at 90 + 1 and
    0 + 2 degrees merge first, a rate of 1/3 merges no more."""
    x = angles([91, 0, 45, 2, 90, 45])
    value = bipartite_matching(x, (1, 6), rate=1 / 3, stride=(1, 3), destination="centre")
    assert brute_force.canonical(value.groups[0].tolist()) == [0, 1, 2, 1, 0, 3]


def test_local_is_global_on_three_by_three_cells() -> None:
    """Seen from the middle cell all cells are near, from a corner they are not."""
    x = torch.randn(1, 4 * 4, 6, dtype=torch.float64)
    options = dict(rate=0.7, stride=2)
    near = bipartite_matching(x, (4, 4), match="local", **options)
    assert torch.equal(near.groups, bipartite_matching(x, (4, 4), **options).groups)


def test_local_makes_nothing_of_the_size_of_all_scores() -> None:
    tokens, channels = 128 * 128, 16
    x = torch.randn(1, tokens, channels)
    bipartite_matching(x, (128, 128), rate=0.9, stride=4, match="local")
    with Watch() as watch:
        bipartite_matching(x, (128, 128), rate=0.9, stride=4, match="local")
    assert watch.largest <= tokens * channels  # all scores would be tokens * 1024
    assert not watch.names & {"arange", "sort", "argsort", "item", "_local_scalar_dense", "nonzero"}


def test_images_do_not_touch_each_other() -> None:
    x = torch.randn(3, 63, 8, dtype=torch.float64)
    options = dict(rate=0.6, match="local", destination="centre")
    together = bipartite_matching(x, (7, 9), **options)
    for row in range(3):
        alone = bipartite_matching(x[row : row + 1], (7, 9), **options)
        assert torch.equal(alone.groups[0], together.groups[row])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_finds_clear_matches(dtype: torch.dtype) -> None:
    """Each source stands within a degree of one of four destinations that are 90 degrees apart."""
    torch.manual_seed(0)
    angle = (torch.randint(4, (2, 64)) * 90 + torch.rand(2, 64)).deg2rad()
    at = torch.arange(64).view(8, 8)[2::4, 2::4].flatten()  # the centres of 4x4 cells
    angle[:, at] = (torch.arange(4) * 90.0 + 0.5).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], -1) * (1 + torch.rand(2, 64, 1))
    options = dict(rate=0.9375, stride=4, destination="centre", match="local")
    exact = bipartite_matching(x.double(), (8, 8), **options)
    half = bipartite_matching(x.to(dtype), (8, 8), **options)
    for a, b in zip(half.groups.tolist(), exact.groups.tolist()):
        assert brute_force.canonical(a) == brute_force.canonical(b)


def test_shapes_without_data_then_real_tensors() -> None:
    options = dict(rate=0.6, match="local")
    meta = bipartite_matching(torch.empty(2, 7 * 17, 8, device="meta"), (7, 17), **options)
    assert meta.num_groups == 7 * 17 - int(7 * 17 * 0.6)
    with FakeTensorMode():
        bipartite_matching(torch.randn(2, 7 * 17, 8), (7, 17), **options)
    assert type(bipartite_matching(torch.randn(2, 7 * 17, 8), (7, 17), **options).groups) is (
        torch.Tensor
    )


def test_an_empty_batch() -> None:
    found = bipartite_matching(torch.zeros(0, 9, 3), (3, 3), rate=0.5, match="local")
    assert found.groups.shape == (0, 9) and found.sizes.shape == (0, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rate=0.5, match="near"), "match='near'.*'global', 'local'"),
        (dict(rate=0.5, destination="center"), "destination='center'.*'corner', 'centre'"),
        (dict(threshold=0.5, match="local"), "destination and match go with rate"),
        (dict(threshold=0.5, destination="centre"), "destination and match go with rate"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    hw = (3, 4) if "rate" in options else None
    with pytest.raises(ValueError, match=message):
        bipartite_matching(torch.randn(1, 12, 2), hw, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("hw", [(8, 8), (7, 9), (1, 5), (1, 1), (2, 11)])
def test_comparisons(hw: tuple[int, int]) -> None:
    """Locally nine for each token of the cells, filled up; globally one for each destination."""
    sy, sx = min(2, hw[0]), min(2, hw[1])
    filled = -(-hw[0] // sy) * sy * -(-hw[1] // sx) * sx
    local, all_of_them = BipartiteMatcher(0.5, (2, 2), match="local"), BipartiteMatcher(0.5, (2, 2))
    merges = int(hw[0] * hw[1] * 0.5) > 0
    assert local.num_comparisons(hw) == (9 * filled if merges else 0)
    wanted = hw[0] * hw[1] * (hw[0] // sy) * (hw[1] // sx)
    assert all_of_them.num_comparisons(hw) == (wanted if merges else 0)
