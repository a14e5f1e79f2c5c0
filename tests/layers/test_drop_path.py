"""Stochastic depth drops whole samples and keeps the mean."""

from __future__ import annotations

import torch

from mmtokmerge.layers import DropPath


def test_whole_samples_are_dropped_and_the_others_scaled() -> None:
    torch.manual_seed(0)
    out = DropPath(0.25)(torch.ones(4000, 3, 2))
    rows = out.flatten(1)
    assert (rows == rows[:, :1]).all()
    values = rows[:, 0]
    torch.testing.assert_close(values[values != 0].unique(), torch.tensor([1 / 0.75]))
    assert 0.22 < (values == 0).float().mean() < 0.28


def test_nothing_happens_in_evaluation_or_at_zero() -> None:
    x = torch.randn(5, 3, 2)
    assert torch.equal(DropPath(0.5).eval()(x), x)
    assert torch.equal(DropPath(0.0)(x), x)
