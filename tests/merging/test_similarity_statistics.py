"""Streamed mean and standard deviation of cosines against all pairs written out."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmtokmerge.merging.similarity_statistics import CosineStatistics


def all_cosines(tokens: Tensor) -> list[float]:
    """The cosine of each pair of rows of ``(N, C)``, one after the other."""
    rows = [row.double() for row in tokens]
    lengths = [row.norm().clamp(min=1e-12) for row in rows]
    return [
        float(rows[i] @ rows[j] / (lengths[i] * lengths[j]))
        for i, j in combinations(range(len(rows)), 2)
    ]


def check(statistics: CosineStatistics, cosines: list[float]) -> None:
    values = torch.tensor(cosines, dtype=torch.float64)
    assert statistics.count == len(cosines)
    assert statistics.mean == pytest.approx(float(values.mean()), abs=1e-10)
    assert statistics.std == pytest.approx(float(values.std(correction=0)), abs=1e-7)


@pytest.mark.parametrize(("tokens", "channels"), [(2, 1), (3, 16), (30, 4), (17, 17)])
def test_equals_all_pairs_written_out(tokens: int, channels: int) -> None:
    x = torch.randn(3, tokens, channels) + 0.5
    statistics = CosineStatistics()
    statistics.update(x)
    check(statistics, [value for image in x for value in all_cosines(image)])


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(1, 6),
    st.integers(0, 1000),
)
def test_any_split_into_batches(batches: list[tuple[int, int]], channels: int, seed: int) -> None:
    """Batches of any size, split over two instances that are merged, hold the same pairs."""
    generator = torch.Generator().manual_seed(seed)
    streams = CosineStatistics(), CosineStatistics()
    cosines: list[float] = []
    for index, (images, tokens) in enumerate(batches):
        x = torch.randn(images, tokens, channels, generator=generator)
        streams[index % 2].update(x)
        cosines += [value for image in x for value in all_cosines(image)]
    streams[0].merge(streams[1])
    if cosines:
        check(streams[0], cosines)
    else:
        assert streams[0].count == 0 and math.isnan(streams[0].mean) and math.isnan(streams[0].std)


@given(st.integers(0, 1000))
def test_padding_is_left_out_and_sizes_do_not_weigh(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 8, 5, generator=generator)
    sizes = torch.randint(0, 4, (2, 8), generator=generator)
    x[sizes == 0] = torch.nan
    statistics = CosineStatistics()
    statistics.update(x, sizes)
    cosines = [value for image, held in zip(x, sizes) for value in all_cosines(image[held > 0])]
    if cosines:
        check(statistics, cosines)


def test_zeros_have_cosine_zero() -> None:
    x = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [2.0, 0.0]]])
    statistics = CosineStatistics()
    statistics.update(x)
    check(statistics, [0.0, 0.0, 1.0])


def test_similar_tokens_keep_their_small_spread() -> None:
    """Cosines of 0.9999 that differ in the sixth place: single precision would lose them."""
    x = torch.randn(1, 60, 8, dtype=torch.float64) * 3e-3 + 1
    statistics = CosineStatistics()
    statistics.update(x)
    values = torch.tensor(all_cosines(x[0]), dtype=torch.float64)
    assert statistics.std == pytest.approx(float(values.std(correction=0)), rel=1e-5)


def test_millions_of_pairs_from_many_images() -> None:
    """Forty batches of images whose means lie far apart: the spread between images counts."""
    offsets = torch.linspace(-2, 2, 40)
    streamed, exact = CosineStatistics(), []
    for offset in offsets:
        x = torch.randn(2, 400, 6) + offset
        streamed.update(x)
        unit = torch.nn.functional.normalize(x.double(), dim=-1)
        gram = unit @ unit.mT
        upper = torch.ones(400, 400, dtype=torch.bool).triu(1)
        exact.append(gram[:, upper].flatten())
    values = torch.cat(exact)
    assert streamed.count == len(values) == 40 * 2 * 400 * 399 // 2
    assert streamed.mean == pytest.approx(float(values.mean()), abs=1e-12)
    assert streamed.std == pytest.approx(float(values.std(correction=0)), abs=1e-12)


def test_low_precision_tokens_are_compared_in_double() -> None:
    x = torch.randn(1, 20, 6).bfloat16()
    statistics = CosineStatistics()
    statistics.update(x.clone().requires_grad_())
    check(statistics, all_cosines(x[0]))


@pytest.mark.parametrize("sizes", [torch.ones(2, 3), torch.ones(4, 2)])
def test_wrong_shapes_are_refused(sizes: Tensor) -> None:
    with pytest.raises(ValueError, match="sizes"):
        CosineStatistics().update(torch.randn(2, 4, 3), sizes)
    with pytest.raises(ValueError, match=r"\(B, M, C\)"):
        CosineStatistics().update(torch.randn(4, 3))
