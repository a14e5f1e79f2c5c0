"""Merging on a GPU: the kernels beside torch's path, graphs, no waits, flash kept, large grids."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmtokmerge.kernels.gpu import switch
from mmtokmerge.layers import EfficientAttention
from mmtokmerge.merging import TokenAssignment, bipartite_matching, read_merging

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PRESETS = ("none", "hq", "fast", "n2d", "plus")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MERGINGS: list[dict[str, Any]] = [
    dict(r_q=0.8, q_stride=4),
    dict(r_q=0.9, q_stride=4),
    dict(r_kv=0.6, kv_stride=2),
    dict(q_mode="n2d", r_kv=0.8, kv_stride=4, proportional=True),
    dict(q_mode="n2d", unmerge="bilinear"),
    dict(r_q=0.5, r_kv=0.5, match="local", destination="centre"),
]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels wherever they may run, and fp32 products in fp32."""
    pytest.importorskip("triton")
    monkeypatch.setenv(switch.SWITCH, "1")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def encoder(preset: Any, dtype: torch.dtype, arch: str = "b0") -> nn.Module:
    from mmtokmerge.models.backbones import MiTPlusPlus

    torch.manual_seed(0)
    return MiTPlusPlus(arch=arch, merging=preset).cuda().to(dtype).eval()


def images(batch: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(1)
    x = torch.randn(batch, 3, height, width, device="cuda", generator=generator)
    return x.to(dtype)


def assert_alike(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """But for a few tokens: two cosines that differ by rounding may change places."""
    scale = expected.double().std()
    error = (found.double() - expected.double()).abs() / scale
    assert error.median() < tolerance / 10
    assert error.flatten().quantile(0.98) < tolerance if error.numel() < 2**24 else True


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernels_agree_with_torch_here(dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device = torch.device("cuda", torch.cuda.current_device())
        for kind in (switch.MERGING, switch.LAYERS):
            assert switch.agree(device, dtype, switch._check_of(kind))


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("merging", MERGINGS)
@pytest.mark.parametrize("hw", [(64, 64), (45, 80)])
def test_a_block_is_the_same_by_kernels_and_by_torch(
    merging: dict[str, Any], batch: int, hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    attention = EfficientAttention(64, 2, 2, read_merging([merging] * 4)[0]).cuda().eval()
    x = torch.randn(batch, hw[0] * hw[1], 64, device="cuda")
    with torch.no_grad():
        found = attention(x, hw, onto=x)[0]
        monkeypatch.setenv(switch.SWITCH, "0")
        expected = attention(x, hw)[0] + x
    assert found.shape == expected.shape
    if batch:
        assert_alike(found, expected, 1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_encoder_on_the_gpu_is_that_on_the_cpu(preset: str) -> None:
    model, x = encoder(preset, torch.float32), images(2, 256, 320, torch.float32)
    with torch.no_grad():
        found = [each.cpu() for each in model(x)]
        expected = model.cpu()(x.cpu())
    for one, other in zip(found, expected):
        assert_alike(one, other, 1e-2)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_encoder_in_half_precision_is_that_by_torch(
    preset: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = encoder(preset, dtype), images(1, 512, 640, dtype)
    with torch.no_grad():
        found = model(x)
        monkeypatch.setenv(switch.SWITCH, "0")
        for one, other in zip(found, model(x)):
            assert_alike(one, other, 0.3)


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_waits_for_the_device(preset: str) -> None:
    model, x = encoder(preset, torch.bfloat16), images(2, 256, 256, torch.bfloat16)
    with torch.no_grad():
        model(x)  # finds its constants, compiles and checks its kernels
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(x)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("preset", PRESETS)
def test_flash_attention_is_kept(preset: str) -> None:
    """Another kernel than flash is forbidden: a mask would raise."""
    model, x = encoder(preset, torch.bfloat16), images(1, 256, 256, torch.bfloat16)
    with torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        model(x)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_graph_replays_a_forward(preset: str) -> None:
    model, x = encoder(preset, torch.bfloat16), images(1, 256, 256, torch.bfloat16)
    with torch.no_grad():
        replay = captured(lambda: model(x))
        x.copy_(images(1, 256, 256, torch.bfloat16).flip(2))
        found = [each.clone() for each in replay()]
        for one, other in zip(found, model(x)):
            assert_alike(one, other, 5e-2)


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
    from mmtokmerge.benchmark.steps import capture

    return capture(step)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["hq", "plus"])
def test_compiles_whole(preset: str) -> None:
    model, x = encoder(preset, torch.float32), images(1, 128, 160, torch.float32)
    with torch.no_grad():
        found = torch.compile(model, fullgraph=True, dynamic=False)(x)
        for one, other in zip(found, model(x)):
            assert_alike(one, other, 1e-2)


@pytest.mark.parametrize("merging", [MERGINGS[0], MERGINGS[3]])
def test_gradients_by_kernels_are_torchs(
    merging: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    attention = EfficientAttention(64, 2, 2, read_merging([merging] * 4)[0]).cuda()
    x = torch.randn(2, 32 * 32, 64, device="cuda", requires_grad=True)
    weights = torch.randn_like(x)
    given = []
    for setting in ("1", "0"):
        monkeypatch.setenv(switch.SWITCH, setting)
        loss = (attention(x, (32, 32))[0] * weights).sum()
        given.append(torch.autograd.grad(loss, [x, *attention.parameters()]))
    for one, other in zip(*given):
        assert_alike(one, other, 1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_thousand_gradients_are_summed_in_fp32(dtype: torch.dtype) -> None:
    groups = torch.zeros(1, 1000, dtype=torch.int64, device="cuda")
    one = TokenAssignment.from_groups(groups, 1)
    y = torch.ones(1, 1, 32, device="cuda", dtype=dtype, requires_grad=True)
    one.unmerge(y).sum().backward()
    assert y.grad is not None and (y.grad == 1000).all()


def test_merging_is_deterministic_where_torch_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    x = torch.randn(2, 64 * 64, 64, device="cuda", requires_grad=True)

    def step() -> tuple[Tensor, Tensor]:
        groups = bipartite_matching(x, (64, 64), rate=0.7, stride=2)
        merged = groups.merge(x)
        whole = groups.unmerge(merged * merged)
        return whole.detach(), torch.autograd.grad(whole.sum(), x)[0]

    torch.use_deterministic_algorithms(True)
    try:
        first = step()
        for _ in range(3):
            assert all(torch.equal(one, other) for one, other in zip(first, step()))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size", [(1, 16384, 1024, 64), (2, 16384, 1024, 32), (8, 4096, 256, 320), (4, 8192, 2048, 256)]
)
def test_no_best_destination_is_lost(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """A race loses a few of many thousand, another few at each draw."""
    from mmtokmerge.kernels.gpu.operators import most_similar_triton

    torch.manual_seed(0)
    batch, tokens, targets, channels = size
    for _ in range(40):
        x = torch.randn(batch, tokens, channels, device="cuda").to(dtype)
        destinations = torch.randn(batch, targets, channels, device="cuda").to(dtype)
        cosine, index = most_similar_triton(x, destinations)
        unit, others = (F.normalize(each.float(), dim=-1) for each in (x, destinations))
        scores = unit @ others.mT
        assert (cosine - scores.amax(-1)).abs().max() < 1e-5
        chosen = scores.gather(2, index[..., None])[..., 0]
        assert (scores.amax(-1) - chosen).max() < 1e-5


@pytest.mark.slow
def test_more_values_than_an_int32_counts() -> None:
    """4K's first grid, a batch of 66: 2.19 billion values."""
    from mmtokmerge.kernels.gpu.operators import match_on_grid, mean_of_groups, spread_onto

    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    hw, channels, batch = (540, 960), 64, 66
    tokens = hw[0] * hw[1]
    assert batch * tokens * channels > 2**31
    x = torch.randn(1, tokens, channels, device="cuda", dtype=torch.bfloat16)
    x = x.repeat(batch, 1, 1)
    x[-1] = x[-1].flip(0)
    cosine, index = match_on_grid(x, hw, (60, 60), (0, 0))
    last_cosine, last_index = match_on_grid(x[-1:].clone(), hw, (60, 60), (0, 0))
    assert torch.equal(cosine[-1], last_cosine[0]) and torch.equal(index[-1], last_index[0])
    for cell in (4, 30):
        rows = torch.arange(hw[0], device="cuda") // cell * (hw[1] // cell)
        groups = (rows[:, None] + torch.arange(hw[1], device="cuda") // cell).reshape(1, -1)
        one = TokenAssignment.from_groups(groups, (hw[0] // cell) * (hw[1] // cell))
        means = mean_of_groups(x, one.groups, one.sizes, None, one.num_groups)
        expected = x[-1].view(hw[0] // cell, cell, hw[1] // cell, cell, channels).float()
        expected = expected.mean((1, 3)).reshape(-1, channels)
        torch.testing.assert_close(means[-1].float(), expected, atol=4e-3, rtol=1e-2)
    whole = spread_onto(means, one.groups, x)
    taken = x[-1].float() + means[-1].index_select(0, one.groups[0]).float()
    torch.testing.assert_close(whole[-1], taken.bfloat16())


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["hq", "plus"])
def test_4k_images_eight_at_once(preset: str) -> None:
    model = encoder(preset, torch.bfloat16)
    x = images(8, 2160, 3840, torch.bfloat16)
    with torch.no_grad():
        found = [each[-1].clone() for each in model(x)]
        expected = [each[0] for each in model(x[-1:])]
    for one, other in zip(found, expected):
        assert one.isfinite().all()
        assert_alike(one[:, ::8, ::8], other[:, ::8, ::8], 0.2)
