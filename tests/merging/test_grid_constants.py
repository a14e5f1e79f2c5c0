"""Constants of a grid are computed once, and none of them carries a mode over to the next call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reference.dispatch import Watch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmtokmerge.merging import bipartite_matching, neighbour_pooling


def by_rate(x: torch.Tensor, hw: tuple[int, int]) -> torch.Tensor:
    value = bipartite_matching(x, hw, rate=0.5)
    return value.unmerge(value.merge(x))


def by_cells(x: torch.Tensor, hw: tuple[int, int]) -> torch.Tensor:
    value = neighbour_pooling(hw, kernel=2, device=x.device)
    return value.unmerge(value.merge(x))


# Each test takes a grid of its own: the cache outlives a test.
METHODS = pytest.mark.parametrize("method", [by_rate, by_cells])
Method = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]


@METHODS
def test_inference_first_then_training(method: Method) -> None:
    hw = (5, 23)
    x = torch.randn(2, 5 * 23, 3)
    with torch.inference_mode():
        expected = method(x, hw).clone()
    x.requires_grad_()
    out = method(x, hw)
    out.square().sum().backward()
    assert torch.equal(out, expected)
    assert x.grad is not None and x.grad.any()


def test_cells_made_in_inference_serve_a_weighted_merge_in_training() -> None:
    """A batch of one indexes by the cached constant itself, which autograd then keeps."""
    with torch.inference_mode():
        neighbour_pooling((2, 31), kernel=2)
    value = neighbour_pooling((2, 31), kernel=2)
    x = torch.randn(1, 62, 3, requires_grad=True)
    value.merge(x, torch.randint(1, 4, (1, 62))).square().sum().backward()
    assert x.grad is not None and x.grad.any()


@METHODS
def test_shapes_without_data_first_then_real_tensors(method: Method) -> None:
    """Counting operators or tracing with fake tensors leaves no fake constant behind."""
    hw = (7, 19)
    with FakeTensorMode():
        assert method(torch.randn(2, 7 * 19, 3), hw).shape == (2, 7 * 19, 3)
    out = method(torch.randn(2, 7 * 19, 3), hw)
    assert type(out) is torch.Tensor


@METHODS
def test_under_a_default_device(method: Method) -> None:
    hw = (3, 29)
    x = torch.randn(2, 3 * 29, 3)
    with torch.device("meta"):
        out = method(x, hw)
    assert out.device.type == "cpu"


@METHODS
def test_constants_are_computed_once(method: Method) -> None:
    hw = (11, 13)
    x = torch.randn(1, 11 * 13, 3)
    with Watch() as first:
        method(x, hw)
    with Watch() as second:
        method(x, hw)
    assert first.names - second.names, "the second call did what only the first has to"
    assert "arange" not in second.names
