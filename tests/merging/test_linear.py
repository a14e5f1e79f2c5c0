"""linear() and products() against double precision, whichever kernel they take."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmtokmerge.kernels import linear as module
from mmtokmerge.kernels.linear import by_convolution, linear, products

SIZE = st.integers(1, 40)


@pytest.fixture(autouse=True, scope="module", params=[True, False], ids=["onednn", "torch"])
def products_are_slow(request: pytest.FixtureRequest) -> Iterator[bool]:
    """As on AMD's processors, where products go to oneDNN, and as on others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "products_are_slow", lambda: request.param)
        yield request.param


@given(
    lead=st.lists(st.integers(0, 5), max_size=3), channels=SIZE, width=SIZE, biased=st.booleans()
)
def test_equals_double_precision(lead: list[int], channels: int, width: int, biased: bool) -> None:
    x, weight = torch.randn(*lead, channels), torch.randn(width, channels)
    bias = torch.randn(width) if biased else None
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    out = linear(x, weight, bias)
    assert out.shape == (*lead, width)
    torch.testing.assert_close(out, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_products(batch: int) -> None:
    x, y = torch.randn(batch, 70, 33), torch.randn(batch, 19, 33)
    expected = torch.einsum("bnc,bmc->bnm", x.double(), y.double())
    torch.testing.assert_close(products(x, y), expected.float(), rtol=1e-5, atol=1e-5)


def test_any_strides() -> None:
    wide = torch.randn(2, 6, 30, 20)
    x, weight = wide[:, 1, ::2, 3:11], torch.randn(8, 14).t()  # neither is contiguous
    expected = (x.double() @ weight.t().double()).float()
    torch.testing.assert_close(linear(x, weight), expected, rtol=1e-5, atol=1e-5)


def test_gradients() -> None:
    x, weight, bias = (torch.randn(*s, requires_grad=True) for s in ((2, 5, 7), (3, 7), (3,)))
    given = torch.autograd.grad(linear(x, weight, bias).square().sum(), (x, weight, bias))
    wanted = torch.autograd.grad(F.linear(x, weight, bias).square().sum(), (x, weight, bias))
    for one, other in zip(given, wanted):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_single_precision_on_a_cpu_is_a_convolution(
    monkeypatch: pytest.MonkeyPatch, products_are_slow: bool
) -> None:
    if not products_are_slow:
        assert not by_convolution(torch.randn(2, 9, 16))
        return
    taken: list[torch.dtype] = []
    convolve = F.conv2d

    def spy(x: Tensor, *args: Tensor) -> Tensor:
        assert x.is_contiguous(memory_format=torch.channels_last)
        taken.append(x.dtype)
        return convolve(x, *args)

    monkeypatch.setattr(F, "conv2d", spy)
    x, weight = torch.randn(2, 9, 16), torch.randn(8, 16)
    linear(x, weight)
    assert taken == [torch.float32]
    linear(x.double(), weight.double())
    linear(x.bfloat16(), weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        linear(x, weight)
    assert taken == [torch.float32]


def test_no_convolution_of_nothing_or_while_compiling() -> None:
    assert not by_convolution(torch.empty(0, 4))
    asked: list[bool] = []

    def ask(x: Tensor) -> Tensor:
        asked.append(by_convolution(x))
        return linear(x, x)

    x = torch.randn(6, 4)
    out = torch.compile(ask, backend="eager", fullgraph=True, dynamic=True)(x)
    assert asked == [False]  # while this was traced
    torch.testing.assert_close(out, x @ x.t())
