"""Rows by index: gradients of many places are summed in fp32."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmtokmerge.kernels.rows import take_rows
from mmtokmerge.merging import TokenAssignment


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_thousand_ones_give_a_thousand(dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    index = torch.zeros(1000, dtype=torch.long)
    take_rows(x, index).sum(0, dtype=torch.float32).sum().backward()
    assert x.grad is not None and x.grad.dtype == dtype
    assert torch.equal(x.grad.float(), torch.tensor([[1000.0] * 3, [0.0] * 3]))


class Sums(TorchDispatchMode):
    """Notes the precision of every sum by index."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__.startswith(("index_add", "index_put", "scatter_add")):
            self.dtypes.append(args[0].dtype)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_fp32_whatever_the_devices_own_backward_does(dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    index = torch.zeros(10, dtype=torch.long)
    with Sums() as ours:
        take_rows(x, index).sum().backward()
    assert ours.dtypes == [torch.float32]
    with Sums() as torchs:
        x.index_select(0, index).sum().backward()
    assert torchs.dtypes == [dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_values_and_gradients_are_those_of_indexing(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    index = torch.randint(0, 5, (40,))
    weights = torch.randn(40, 3, dtype=dtype)
    x = torch.randn(5, 3, dtype=dtype, requires_grad=True)
    y = take_rows(x, index)
    assert torch.equal(y, x[index])
    (y * weights).sum().backward()
    wanted = torch.zeros(5, 3).index_add_(0, index, weights.float())
    torch.testing.assert_close(x.grad.float(), wanted, atol=2e-2, rtol=2e-2)


def test_unmerging_uses_it() -> None:
    groups = TokenAssignment.from_groups(torch.zeros(1, 1000, dtype=torch.long), 1)
    y = torch.ones(1, 1, 2, dtype=torch.bfloat16, requires_grad=True)
    groups.unmerge(y).float().sum().backward()
    assert torch.equal(y.grad.float(), torch.full((1, 1, 2), 1000.0))
