"""residual(): a sum, in the branch's memory where that is its own."""

from __future__ import annotations

import torch

from mmtokmerge.kernels.residual import residual


def test_in_place_without_gradients() -> None:
    x, branch = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = x + branch
    with torch.no_grad():
        out = residual(x, branch, reuse=True)
    assert out.data_ptr() == branch.data_ptr()
    assert torch.equal(out, expected)


def test_without_reuse_nothing_is_overwritten() -> None:
    x, branch = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    before = branch.clone()
    residual(x, branch).sum().backward()
    assert torch.equal(branch, before)
    assert torch.equal(x.grad, torch.ones(2, 3))


def test_a_view_of_fewer_numbers_stays() -> None:
    """One merged token that was copied to all places is one row of memory."""
    x, row = torch.randn(1, 5, 4), torch.randn(1, 1, 4)
    before = row.clone()
    with torch.no_grad():
        out = residual(x, row.expand(1, 5, 4), reuse=True)
    assert torch.equal(out, x + before)
    assert torch.equal(row, before)


def test_types_that_differ_are_promoted() -> None:
    x, branch = torch.randn(2, 3), torch.randn(2, 3).bfloat16()
    with torch.no_grad():
        assert residual(x, branch, reuse=True).dtype == torch.float32
