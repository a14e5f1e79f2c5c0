"""Triton's kernels of layers in Triton's interpreter, against torch; and who may take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtokmerge.kernels import depthwise, norm
from mmtokmerge.kernels.gpu import switch

Run = Callable[..., Any]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check(dtype: torch.dtype) -> str | None:
    from mmtokmerge.kernels.gpu.layer_check import first_difference_of_layers

    return first_difference_of_layers(torch.device("cpu"), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_check_at_first_use_agrees(dtype: torch.dtype, run: Run) -> None:
    assert run(check, dtype) is None


def check_broken(name: str) -> str | None:
    from mmtokmerge.kernels.gpu import layer_check

    right = getattr(layer_check, name)
    setattr(layer_check, name, lambda *args: right(*args).flip(1))
    try:
        return layer_check.first_difference_of_layers(torch.device("cpu"), torch.float32)
    finally:
        setattr(layer_check, name, right)


@pytest.mark.parametrize(
    ("name", "sentence"), [("norm_rows", "norms of 24"), ("depthwise_rows", "grid of (7, 5)")]
)
def test_the_check_finds_what_is_wrong(name: str, sentence: str, run: Run) -> None:
    assert sentence in run(check_broken, name)


def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from mmtokmerge.kernels.gpu.layer_operators import norm_rows

    return norm_rows(x, weight, bias, 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(0, 3, 8), (1, 1, 1), (2, 37, 32), (1, 5, 320), (1, 3, 1024)])
def test_a_norm(size: tuple[int, ...], dtype: torch.dtype, run: Run) -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(each).to(dtype) for each in (size, size[-1:], size[-1:]))
    x = x * 3 + 100 * (dtype == torch.float32)  # a large mean takes nothing from the deviation
    expected = F.layer_norm(x.double(), size[-1:], weight.double(), bias.double(), 1e-5)
    found = run(normed, x, weight, bias)
    assert found.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, atol=max(step, 1e-4), rtol=2 * step)


def filtered(*args: Any) -> Tensor:
    from mmtokmerge.kernels.gpu.layer_operators import depthwise_rows

    return depthwise_rows(*args)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("hw", [(1, 1), (1, 9), (6, 17), (5, 16), (11, 3)])
@pytest.mark.parametrize("channels", [5, 64, 80])
def test_a_depthwise_convolution(channels: int, hw: tuple[int, int], gelu: bool, run: Run) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, hw[0] * hw[1], channels)
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    grid = x.double().unflatten(1, hw).permute(0, 3, 1, 2)
    expected = conv.double()(grid).permute(0, 2, 3, 1).flatten(1, 2)
    expected = F.gelu(expected) if gelu else expected
    conv.float()
    found = run(filtered, x, conv.weight.detach(), conv.bias.detach(), hw, gelu)
    torch.testing.assert_close(found.double(), expected.detach(), atol=2e-6, rtol=1e-5)


def test_infinity_stays_where_the_filter_reaches(run: Run) -> None:
    x = torch.zeros(1, 9 * 9, 16)
    x[0, 4 * 9 + 4] = torch.inf
    found = run(filtered, x, torch.ones(16, 1, 3, 3), None, (9, 9), False)
    reached = found[0, :, 0].view(9, 9).isinf()
    assert reached[3:6, 3:6].all() and reached.sum() == 9


def opcheck() -> bool:
    ops = torch.ops.mmtokmerge
    x, weight = torch.randn(2, 12, 16), torch.randn(16)
    torch.library.opcheck(ops.norm_rows.default, (x, weight, weight, 1e-6))
    taps = torch.randn(16, 1, 3, 3)
    torch.library.opcheck(ops.depthwise_rows.default, (x, taps, weight, 3, 4, True))
    return True


def test_the_operators_are_registered_well(run: Run) -> None:
    from mmtokmerge.kernels.gpu import layer_operators

    assert layer_operators and run(opcheck)


@pytest.mark.parametrize("capability", [90])
def test_compiles_for_gpus_without_one(
    capability: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmtokmerge.kernels.gpu.depthwise import depthwise_kernel
    from mmtokmerge.kernels.gpu.norm import norm_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = dict(GELU=True, ROWS=16, BLOCK_X=16, BLOCK_C=64, BLOCK_R=64)
    for kernel in (norm_kernel, depthwise_kernel):
        signature = {
            name: "constexpr"
            if name in constants
            else "*bf16"
            if name.endswith("_ptr")
            else "fp32"
            if name == "epsilon"
            else "i32"
            for name in kernel.arg_names
        }
        given = {
            (index,): constants[name]
            for index, name in enumerate(kernel.arg_names)
            if name in constants
        }
        source = ASTSource(kernel, signature, given, {})
        triton.compile(source, target=GPUTarget("cuda", capability, 32))


class Card:
    """A tensor of a card, for what asks of it; this machine may have none."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __getattr__(self, name: str) -> Any:
        return dict(is_cuda=True).get(name, getattr(self.x, name))


def test_who_takes_a_norm() -> None:
    x = torch.randn(2, 5, 32)
    assert norm._is_taken(nn.LayerNorm(32), x)
    assert not norm._is_taken(nn.LayerNorm(32), x.transpose(0, 1))
    assert not norm._is_taken(nn.LayerNorm((5, 32)), x)
    assert not norm._is_taken(nn.LayerNorm(32, elementwise_affine=False), x)
    assert not norm._is_taken(nn.LayerNorm(32, bias=False), x)
    assert not norm._is_taken(nn.LayerNorm(32).double(), x)
    assert not norm._is_taken(nn.LayerNorm(2048), torch.randn(1, 2048))


def test_who_takes_a_convolution() -> None:
    x, right = torch.randn(2, 12, 8), dict(padding=1, groups=8)
    taken = [(3, right), (3, dict(right, bias=False)), (3, dict(groups=8, padding="same"))]
    left = [
        (5, dict(padding=2, groups=8)),
        (3, dict(padding=1)),
        (3, dict(padding=1, groups=4)),
        (3, dict(padding=0, groups=8)),
        (3, dict(right, stride=2)),
        (3, dict(padding=2, groups=8, dilation=2)),
        (3, dict(right, padding_mode="reflect")),
    ]
    for kernel, settings in taken:
        assert depthwise._is_taken(nn.Conv2d(8, 8, kernel, **settings), x)
    for kernel, settings in left:
        assert not depthwise._is_taken(nn.Conv2d(8, 8, kernel, **settings), x), settings
    assert not depthwise._is_taken(nn.Conv2d(8, 8, 3, **right).half(), x)


def test_a_kernel_is_launched_directly_where_nobody_else_looks() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from mmtokmerge.kernels.gpu.direct import is_direct

    x = torch.randn(2, 5, 32)
    assert not is_direct(x)  # gradients
    with torch.no_grad():
        assert is_direct(x) and not is_direct(nn.Parameter(x))
        with FlopCounterMode(display=False):
            assert not is_direct(x)
        with FakeTensorMode() as mode:
            fake = mode.from_tensor(x)
            assert not is_direct(fake)
        assert not is_direct(fake)
        seen = []
        torch.func.vmap(lambda row: seen.append(is_direct(row)) or row)(x)
        assert seen == [False]


def test_gradients_and_autocast_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "use_kernels", lambda x, kind: True)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        assert switch.use_layer_kernels(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert not switch.use_layer_kernels(x)
    assert not switch.use_layer_kernels(x)


def test_hooks_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm with a hook is called, on a card too."""
    monkeypatch.setattr(norm, "use_layer_kernels", lambda x: True)
    monkeypatch.setattr(norm, "norm_rows", lambda *args: "the kernel's")
    layer, x = nn.LayerNorm(32), torch.randn(2, 5, 32)
    card: Any = Card(x)
    assert norm.call_norm(layer, card) == "the kernel's"
    layer.register_forward_hook(lambda *args: "the hook's")
    layer.forward = lambda given: x  # type: ignore[method-assign]  # F.layer_norm takes no Card
    assert norm.call_norm(layer, card) == "the hook's"
