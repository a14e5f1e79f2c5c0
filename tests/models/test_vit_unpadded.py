"""Attention without padding: the features of the bias that hides it, and of each image alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from tracing import ended, follow

from mmtokmerge.errors import InputError
from mmtokmerge.kernels import unpadded
from mmtokmerge.layers import SelfAttention, attend_unpadded
from mmtokmerge.merging.trace import trace
from mmtokmerge.models import VisionTransformer
from mmtokmerge.models.overrides import without_merging
from mmtokmerge.models.policies import Policy, PolicyInput
from mmtokmerge.registry import MODELS

REPO = Path(__file__).resolve().parents[2]
ARCH = dict(embed_dims=32, num_layers=4, num_heads=2)
SIZE = (112, 80)  # 7x5 patches
CLAP = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=0.97)
GBM = dict(type="mmtokmerge.GlobalBipartiteMerging", layer=3, threshold=0.97)
TOME = dict(type="mmtokmerge.ToMe", num_merged=2, layer=1)


@MODELS.register_module(name="FlatnessPolicy", force=True)
class FlatnessPolicy(Policy):
    """Superpatches with little contrast share."""

    def forward(self, inputs: PolicyInput) -> Tensor:
        cells = torch.nn.functional.unfold(inputs.images, 32, stride=32)  # (B, 3*32*32, cells)
        scores = inputs.images.new_zeros(len(inputs.images), *inputs.cells)
        rows, columns = (side // 32 for side in inputs.images.shape[2:])
        scores[:, :rows, :columns] = (cells.std(1) < 0.3).float().unflatten(1, (rows, columns))
        return scores


CTS = dict(policy=dict(type="mmtokmerge.FlatnessPolicy"), threshold=0.5)


def build(unpadded_attention: bool = True, **kwargs: Any) -> VisionTransformer:
    """A ViT of random weights, ALGM's reducers unless others are given."""
    torch.manual_seed(0)
    kwargs = {"reducers": [CLAP, GBM], **kwargs}
    model = VisionTransformer(
        ARCH, img_size=SIZE, unpadded_attention=unpadded_attention, out_indices=[0, 2, 3], **kwargs
    )
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3 + (parameter == 1)
    model.pos_embed.data *= 0.1
    return follow(model.eval())


def images(batch: int = 6) -> Tensor:
    """Noise above a nearly flat part, which is larger from one image to the next."""
    x = torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    for row in range(batch):
        x[row, :, : 16 * (row + 2)].mul_(0.05).add_(0.5)
    return x


def counts(model: VisionTransformer) -> list[int]:
    return (ended(model).assignment.sizes > 0).sum(1).tolist()


WAYS: dict[str, dict[str, Any]] = {
    "between": dict(),
    "after": dict(reducers=[dict(CLAP, position="after"), dict(GBM, position="after")]),
    "keys": dict(reducers=[CLAP, dict(GBM, feature="K")]),
    "no class token": dict(with_cls_token=False),
    "distilled": dict(with_dist_token=True),
    "explicit": dict(fused_attention=False),
    "shared": dict(reducers=[], sharing=CTS),
    "shared and merged": dict(sharing=CTS),
    "averaged": dict(reducers=[dict(CLAP), dict(GBM, reduce=False)]),
    "checkpointed": dict(with_cp=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_features_are_those_of_the_bias(way: str) -> None:
    model, padded = build(**WAYS[way]), build(unpadded_attention=False, **WAYS[way])
    x = images()
    with torch.no_grad():
        found, expected = model(x), padded(x)
    assert ended(model).assignment.padded
    assert len(set(counts(model))) > 2, "the images must differ for this test to say anything"
    assert counts(model) == counts(padded)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["between", "after", "distilled", "shared and merged"])
def test_images_together_equal_each_alone(way: str) -> None:
    model, x = build(**WAYS[way]), images()
    with torch.no_grad():
        together = model(x)
        own = counts(model)
        for row in range(len(x)):
            for a, b in zip(model(x[row : row + 1]), together):
                torch.testing.assert_close(a, b[row : row + 1], atol=1e-5, rtol=1e-5)
            assert ended(model).assignment.num_groups == own[row]


@pytest.mark.parametrize("with_cp", [False, True])
def test_gradients_are_those_of_the_bias(with_cp: bool) -> None:
    reducers = [dict(CLAP, count="image"), dict(GBM, count="image")]
    x, found = images(), {}
    for unpadded_attention in (True, False):
        model = build(unpadded_attention, reducers=reducers, with_cp=with_cp).train()
        y = model(x)[-1]
        assert ended(model).assignment.padded
        y.square().mean().backward()
        found[unpadded_attention] = {k: v.grad for k, v in model.named_parameters()}
    for name, expected in found[False].items():
        assert expected is not None and found[True][name] is not None, name
        torch.testing.assert_close(found[True][name], expected, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("way", ["between", "after", "shared and merged"])
def test_tokens_stand_first_and_padding_is_finite(way: str) -> None:
    model = build(**WAYS[way])
    seen = []
    with torch.no_grad(), trace(model, seen.append):
        model(images())
    assert any(each.assignment.padded for each in seen)
    for each in seen:
        for stood in (each.assignment,):
            present = stood.sizes > 0
            assert torch.equal(present, present.cummin(1).values)
        assert each.tokens.isfinite().all()


@pytest.mark.parametrize("way", ["between", "after", "keys", "shared and merged", "averaged"])
def test_what_padded_queries_get_is_never_read(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build(**WAYS[way]), images()

    def fill(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, **kwargs: Any) -> Tensor:
        padding = torch.arange(q.shape[2]) >= lengths[:, None]  # (B, N)
        y = attend_unpadded(q, k, v, lengths, **kwargs)
        return y.masked_fill(padding[:, None, :, None], 50.0)

    with torch.no_grad():
        expected = model(x)
        monkeypatch.setattr("mmtokmerge.layers.attention.attend_unpadded", fill)
        for a, b in zip(model(x), expected):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_nothing_padded_is_ordinary_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("mmtokmerge.layers.attention.attend_unpadded")
    model, padded = build(), build(unpadded_attention=False)
    x = images()
    with torch.no_grad():
        with without_merging(model), without_merging(padded):
            assert torch.equal(model(x)[-1], padded(x)[-1])
        assert torch.equal(model(x[:1])[-1], padded(x[:1])[-1])
        with pytest.raises(NameError):
            model(x)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        (dict(proportional=True), "proportional=True, which needs a bias"),
        (dict(reducers=[]), "does nothing without sharing by threshold or a reducer"),
        (dict(reducers=[TOME]), "does nothing"),
        (dict(reducers=[dict(CLAP, reduce=False)]), "does nothing"),
        (dict(reducers=[], sharing=dict(policy=CTS["policy"], num_shared=2)), "does nothing"),
    ],
)
def test_what_cannot_be_is_a_sentence(kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=rf"^unpadded_attention=True .*{says}"):
        build(**kwargs)


def qkv(batch: int, heads: int, tokens: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and values as the layers make them: views of one product's rows."""
    generator = torch.Generator().manual_seed(tokens)
    rows = torch.randn(batch, tokens, 3, heads, width, generator=generator).to(dtype)
    return list(rows.permute(2, 0, 3, 1, 4).unbind(0))


def brute_force(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """Equation by equation, query by query; zeros where a query is padding."""
    y = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    for image, length in enumerate(lengths):
        for head in range(q.shape[1]):
            for row in range(length):
                logits = k[image, head, :length] @ q[image, head, row] / q.shape[-1] ** 0.5
                weights = logits.exp() / logits.exp().sum()
                y[image, head, row] = weights @ v[image, head, :length]
    return y


def own_rows(x: Tensor, lengths: list[int]) -> Tensor:
    """The rows ``(heads, sum of lengths, d)`` that are not padding."""
    return torch.cat([x[image, :, :length] for image, length in enumerate(lengths)], dim=1)


@given(
    tokens=st.integers(1, 9),
    parts=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    heads=st.integers(1, 3),
    width=st.sampled_from([1, 4, 8]),
    fused=st.booleans(),
    kind=st.sampled_from([torch.int32, torch.int64]),
)
def test_equals_brute_force(
    tokens: int, parts: list[float], heads: int, width: int, fused: bool, kind: torch.dtype
) -> None:
    lengths = [1 + round(part * (tokens - 1)) for part in parts]
    q, k, v = qkv(len(lengths), heads, tokens, width, torch.float64)
    found = attend_unpadded(q, k, v, torch.tensor(lengths, dtype=kind), fused=fused)
    torch.testing.assert_close(found, brute_force(q, k, v, lengths))


def test_many_queries_at_a_time() -> None:
    """Images on both sides of where ``attend`` changes how it computes."""
    lengths = [700, 40, 512]
    q, k, v = qkv(3, 2, 700, 8, torch.float32)
    for x in (q, k, v):
        x[1, :, 40:] = torch.nan  # padding that is read anywhere is seen
    with torch.no_grad():
        found = attend_unpadded(q, k, v, torch.tensor(lengths))
    assert found.isfinite().all()
    assert not found[1, :, 40:].any() and not found[2, :, 512:].any()
    for row, length in enumerate(lengths):
        own = [x[row : row + 1, :, :length] for x in (q, k, v)]
        expected = torch.nn.functional.scaled_dot_product_attention(*own)[0]
        torch.testing.assert_close(found[row, :, :length], expected, atol=1e-5, rtol=1e-5)


def test_gradients_stay_with_their_image() -> None:
    lengths = torch.tensor([2, 5])
    leaves = [x.contiguous().requires_grad_() for x in qkv(2, 2, 5, 4, torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: attend_unpadded(*x, lengths), leaves)
    attend_unpadded(*leaves, lengths).sum().backward()
    assert all(not leaf.grad[0, :, 2:].any() for leaf in leaves)


def test_dropout_drops() -> None:
    q, k, v = qkv(2, 2, 6, 8, torch.float32)
    lengths = torch.tensor([3, 6])
    kept = attend_unpadded(q, k, v, lengths)
    assert not torch.equal(attend_unpadded(q, k, v, lengths, dropout=0.5), kept)


def test_inside_torch_compile() -> None:
    q, k, v = qkv(2, 2, 6, 8, torch.float32)
    lengths = torch.tensor([3, 6])
    torch._dynamo.reset()
    compiled = torch.compile(attend_unpadded, backend="eager")
    torch.testing.assert_close(compiled(q, k, v, lengths), attend_unpadded(q, k, v, lengths))


def test_lengths_of_the_wrong_shape_and_two_ways_at_once() -> None:
    q, k, v = qkv(2, 2, 6, 8, torch.float32)
    with pytest.raises(ValueError, match=r"lengths must be \(2,\), got \(3,\)"):
        attend_unpadded(q, k, v, torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="either a bias or lengths"):
        SelfAttention(8, 2)(torch.zeros(1, 3, 8), torch.zeros(1, 1, 1, 3), torch.tensor([2]))


class Kernel:
    """torch's ``varlen_attn`` in plain torch, in fp32; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        seqused_k: Tensor,
    ) -> Tensor:
        self.calls += 1
        assert query.dtype == key.dtype == value.dtype and query.dtype in unpadded.DTYPES
        assert cu_seq_q.dtype == cu_seq_k.dtype == seqused_k.dtype == torch.int32
        assert len(cu_seq_q) == len(cu_seq_k) == len(seqused_k) + 1
        assert seqused_k.is_contiguous() and isinstance(max_q, int) and isinstance(max_k, int)
        for x, cu_seq in ((query, cu_seq_q), (key, cu_seq_k), (value, cu_seq_k)):
            assert x.dim() == 3 and x.stride(-1) == 1
            assert cu_seq[0] == 0 and cu_seq[-1] == len(x)
        assert (cu_seq_q.diff() <= max_q).all() and (cu_seq_k.diff() <= max_k).all()
        parts = []
        for image, used in enumerate(seqused_k.tolist()):
            own = query[cu_seq_q[image] : cu_seq_q[image + 1]].transpose(0, 1).float()
            k, v = (
                x[cu_seq_k[image] : cu_seq_k[image] + used].transpose(0, 1).float()
                for x in (key, value)
            )
            logits = own @ k.transpose(1, 2) / query.shape[-1] ** 0.5
            parts.append((logits.softmax(-1) @ v).transpose(0, 1))
        return torch.cat(parts).to(query.dtype)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """Flash attention as if it ran here, computed in plain torch."""
    pytest.importorskip("torch.nn.attention.varlen")
    stand_in = Kernel()
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_in)
    monkeypatch.setattr(unpadded, "_has_flash", lambda device: True)
    yield stand_in


@pytest.mark.parametrize("dtype", unpadded.DTYPES)
@pytest.mark.parametrize("lengths", [[1, 7, 4], [7, 7, 7], [5]])
def test_flash_attention_takes_the_rows_as_they_lie(
    kernel: Kernel, lengths: list[int], dtype: torch.dtype
) -> None:
    q, k, v = qkv(len(lengths), 3, 7, 8, dtype)
    found = attend_unpadded(q, k, v, torch.tensor(lengths))
    assert kernel.calls == 1 and found.dtype == dtype and found.shape == q.shape
    assert found.isfinite().all()
    expected = brute_force(*(x.float() for x in (q, k, v)), lengths)
    found, expected = own_rows(found.float(), lengths), own_rows(expected, lengths)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)


def test_flash_attention_waits_for_nothing_and_copies_nothing(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sees the memory of the product, and no length comes to the host before it."""
    q, k, v = qkv(2, 2, 6, 8, torch.bfloat16)
    lengths, seen = torch.tensor([2, 6]), []

    def look(*args: Any, **kwargs: Any) -> Tensor:
        seen.extend(x.data_ptr() for x in args[:3])
        return args[0]

    monkeypatch.setattr(unpadded, "_takes_lengths", lambda kernel: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", look)
    monkeypatch.setattr(Tensor, "tolist", None)
    monkeypatch.setattr(Tensor, "item", None)
    assert torch.equal(attend_unpadded(q, k, v, lengths), q)
    assert seen == [q.data_ptr(), k.data_ptr(), v.data_ptr()]


def test_a_vit_by_flash_attention(kernel: Kernel) -> None:
    """Only CLAP, which decides before attention differs: rounding then moves no token."""
    model, padded = (
        build(way, reducers=[dict(CLAP, threshold=0.95)]).to(torch.bfloat16)
        for way in (True, False)
    )
    x = images().to(torch.bfloat16)
    with torch.no_grad():
        found, expected = model(x)[-1].float(), padded(x)[-1].float()
    assert kernel.calls == ARCH["num_layers"] - 1, "the first layer has nothing padded"
    assert len(set(counts(model))) > 2 and counts(model) == counts(padded)
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_where_flash_attention_does_not_run(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = qkv(2, 2, 6, 8, torch.float16)
    lengths = torch.tensor([3, 6])
    assert unpadded.find_kernel(q, k, v) is kernel
    assert unpadded.find_kernel(*qkv(2, 2, 6, 8, torch.float32)) is None
    assert unpadded.find_kernel(*qkv(2, 2, 6, 12, torch.float16)) is None
    assert unpadded.find_kernel(*qkv(2, 2, 6, 264, torch.float16)) is None
    learned = q.clone().requires_grad_()
    assert unpadded.find_kernel(learned, k, v) is None
    with torch.no_grad():
        assert unpadded.find_kernel(learned, k, v) is kernel
    attend_unpadded(q, k, v, lengths, dropout=0.1)
    attend_unpadded(q, k, v, lengths, fused=False)
    assert kernel.calls == 0
    monkeypatch.setattr(unpadded, "_has_flash", lambda device: False)
    assert unpadded.find_kernel(q, k, v) is None


def test_a_torch_without_lengths_or_without_the_kernel(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = qkv(2, 2, 6, 8, torch.float16)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda query, key, value: None)
    assert unpadded.find_kernel(q, k, v) is None
    monkeypatch.delattr("torch.nn.attention.varlen.varlen_attn")
    assert unpadded.find_kernel(q, k, v) is None
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert unpadded.find_kernel(q, k, v) is None
    assert attend_unpadded(q, k, v, torch.tensor([3, 6])).isfinite().all()


def test_the_operator_itself_takes_these_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """By shapes and types alone, on torch's meta device."""
    monkeypatch.setattr(unpadded, "_has_flash", lambda device: True)
    q, k, v = (x.to("meta") for x in qkv(2, 3, 6, 8, torch.bfloat16))
    if unpadded.find_kernel(q, k, v) is None:
        pytest.skip("this torch has no varlen_attn that takes lengths")
    found = attend_unpadded(q, k, v, torch.empty(2, dtype=torch.int64, device="meta"))
    assert found.shape == (2, 3, 6, 8) and found.dtype == torch.bfloat16


def test_no_flash_attention_on_a_cpu() -> None:
    assert not unpadded._has_flash(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", unpadded.DTYPES)
def test_on_a_gpu(dtype: torch.dtype) -> None:
    lengths = [700, 40, 1, 512]
    q, k, v = (x.cuda() for x in qkv(4, 6, 700, 64, dtype))
    if unpadded.find_kernel(q, k, v) is None:
        pytest.skip("no variable-length flash attention here")
    found = attend_unpadded(q, k, v, torch.tensor(lengths, device="cuda"))
    assert found.isfinite().all()
    exact = [x.double().cpu() for x in (q, k, v)]
    expected = attend_unpadded(*exact, torch.tensor(lengths))
    found, expected = own_rows(found.double().cpu(), lengths), own_rows(expected, lengths)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_says_that_there_is_no_gpu() -> None:
    command = [sys.executable, str(REPO / "benchmarks" / "unpadded_gpu.py"), "--batch-size", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=environment)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == (
        "error: unpadded_gpu.py times GPU kernels, but torch finds no CUDA device here."
    )
