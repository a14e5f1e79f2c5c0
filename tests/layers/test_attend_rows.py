"""attend() many queries at a time, and one head whose projections change places."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mmtokmerge.kernels import attention as dot_product
from mmtokmerge.kernels import linear as products
from mmtokmerge.layers import MultiheadAttention, attend
from mmtokmerge.layers import attention as attention_module
from mmtokmerge.models import MiTPlusPlus

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What goes by rows depends on the processor, and on the number of threads: 1 is within all."""
    monkeypatch.setattr(products, "products_are_slow", lambda: True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the queries that went by rows."""
    shapes: list[tuple[int, ...]] = []
    by_rows = dot_product._attend_rows

    def spy(q: Tensor, *args: Tensor | None) -> Tensor:
        shapes.append(tuple(q.shape))
        return by_rows(q, *args)

    monkeypatch.setattr(dot_product, "_attend_rows", spy)
    return shapes


def formula(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    logits = torch.einsum("bhnd,bhmd->bhnm", q.double(), k.double()) / q.shape[-1] ** 0.5
    logits = logits if bias is None else logits + bias.double()
    weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return torch.einsum("bhnm,bhmd->bhnd", weights, v.double()).float()


@pytest.mark.parametrize(
    ("batch", "heads", "queries", "keys", "width"),
    [
        (1, 1, 512, 256, 8),
        (1, 1, 2048, 64, 8),
        (2, 3, 700, 200, 16),
        (1, 2, 1025, 300, 5),
        (1, 1, 9000, 100, 4),
    ],
)
@pytest.mark.parametrize("bias", [None, (1, 1), (2, 1), (1, 3), (2, 3)])
def test_equals_the_formula(
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    width: int,
    bias: tuple[int, int] | None,
    taken: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dot_product, "SCORES", 70_000)  # some of them in several parts
    q, k, v = (torch.randn(batch, n, heads, width).transpose(1, 2) for n in (queries, keys, keys))
    added = None
    if bias is not None:
        added = torch.randn(min(bias[0], batch), min(bias[1], heads), 1, keys)
        added[..., 3] = -torch.inf
    with torch.no_grad():
        y = attend(q, k, v, added)
    assert taken == [(batch, heads, queries, width)]
    torch.testing.assert_close(y, formula(q, k, v, added), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("queries", "keys", "dtype"),
    [
        (511, 300, torch.float32),
        (3000, 63, torch.float32),
        (600, 100, torch.float32),
        (512, 300, torch.float64),
    ],
)
def test_few_rows_and_other_types_are_torchs(
    queries: int, keys: int, dtype: torch.dtype, taken: list[tuple[int, ...]]
) -> None:
    q, k, v = (torch.randn(1, 2, n, 8, dtype=dtype) for n in (queries, keys, keys))
    with torch.no_grad():
        y = attend(q, k, v)
    assert not taken
    torch.testing.assert_close(y.float(), formula(q, k, v), rtol=1e-4, atol=1e-5)


def test_gradients_and_biases_of_queries_are_torchs(taken: list[tuple[int, ...]]) -> None:
    q, k, v = (torch.randn(1, 1, n, 8) for n in (600, 300, 300))
    bias = torch.randn(1, 1, 600, 300)
    with torch.no_grad():
        y = attend(q, k, v, bias)
    torch.testing.assert_close(y, formula(q, k, v, bias), rtol=1e-4, atol=1e-5)
    attend(q.requires_grad_(), k, v).sum().backward()
    assert not taken, "a bias of each query, then gradients"
    assert q.grad is not None


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_one_head_equals_projecting_first(
    qkv_bias: bool,
    biased: bool,
    taken: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the same weights in double precision, where nothing changes places."""
    torch.manual_seed(0)
    layer = MultiheadAttention(12, 1, qkv_bias)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    q, kv = torch.randn(2, 600, 12), torch.randn(2, 220, 12)
    bias = torch.randn(2, 1, 1, 220) if biased else None
    monkeypatch.setattr(
        attention_module.MultiheadAttention, "_project", lambda *args: pytest.fail("projected")
    )
    with torch.no_grad():
        y = layer(q, kv, bias)
    assert taken == [(2, 1, 600, 12)]

    weight_q, weight_k, weight_v = layer.in_proj_weight.detach().double().chunk(3)
    shift = torch.zeros(36) if layer.in_proj_bias is None else layer.in_proj_bias.detach()
    shift_q, shift_k, shift_v = shift.double().chunk(3)
    queries = q.double() @ weight_q.t() + shift_q
    keys = kv.double() @ weight_k.t() + shift_k
    values = kv.double() @ weight_v.t() + shift_v
    mixed = formula(queries[:, None], keys[:, None], values[:, None], bias)[:, 0]
    expected = layer.double().out_proj(mixed.double()).detach()
    torch.testing.assert_close(y, expected.float(), rtol=1e-3, atol=1e-4)


def test_more_threads_take_more_rows_or_none(taken: list[tuple[int, ...]]) -> None:
    """A call must hold work for every thread."""
    q, k = torch.randn(1, 1, 1000, 8), torch.randn(1, 1, 100, 8)
    with torch.no_grad():
        attend(q, k, k)
        torch.set_num_threads(2)
        attend(q, k, k)
    assert len(taken) == 1


def test_many_keys_of_narrow_heads_are_torchs(taken: list[tuple[int, ...]]) -> None:
    for width, keys in ((32, 1536), (32, 1537), (64, 1537)):
        q, k = torch.randn(1, 1, 600, width), torch.randn(1, 1, keys, width)
        with torch.no_grad():
            y = attend(q, k, k)
        torch.testing.assert_close(y, formula(q, k, k), rtol=1e-4, atol=1e-5)
    assert [shape[-1] for shape in taken] == [32, 64]


def test_other_shapes_are_torchs(taken: list[tuple[int, ...]]) -> None:
    q, k = torch.randn(1, 2, 600, 8), torch.randn(1, 2, 300, 8)
    with torch.no_grad():
        y = attend(q, k, k, torch.ones(1, 2, 1, 1))
        torch.testing.assert_close(y, formula(q, k, k), rtol=1e-4, atol=1e-5)
        seen = torch.ones(1, 1, 1, 300, dtype=torch.bool)
        torch.testing.assert_close(attend(q, k, k, seen), y, rtol=1e-4, atol=1e-5)
    assert not taken


def test_a_trace_holds_for_other_sizes() -> None:
    """Loops over rows would be recorded for the size that was traced alone."""
    torch.manual_seed(0)
    model = MiTPlusPlus(arch="b0").eval()
    with torch.no_grad():
        traced = torch.jit.trace(model, torch.randn(1, 3, 256, 256), check_trace=False)
        for shape in ((2, 3, 256, 256), (1, 3, 288, 320)):
            x = torch.randn(*shape)
            for one, other in zip(traced(x), model(x)):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
