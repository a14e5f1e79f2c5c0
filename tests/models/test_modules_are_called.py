"""Modules are called unless plain, and no output that a hook kept is overwritten."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from mmtokmerge.kernels.plain import is_plain, reuses_memory
from mmtokmerge.models.backbones import BEiT, MiTPlusPlus, VisionTransformer

seg = pytest.importorskip("mmseg.models", reason="needs MMSegmentation")

MIT = dict(embed_dims=8, num_layers=(1, 2, 1, 1))
VIT = dict(embed_dims=32, num_layers=3, num_heads=2)
CLAP = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=0.5)
BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "mit": lambda: MiTPlusPlus(MIT),
    "mit hq": lambda: MiTPlusPlus(MIT, merging="hq"),
    "mit plus": lambda: MiTPlusPlus(MIT, merging="plus"),
    "vit": lambda: VisionTransformer(VIT, img_size=64),
    "vit algm": lambda: VisionTransformer(VIT, img_size=64, reducers=[CLAP]),
    "beit": lambda: BEiT(VIT, img_size=64),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = BUILDERS[name]().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def image() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", BUILDERS)
def test_every_module_with_a_hook_is_called_once_and_changes_nothing(name: str, grad: bool) -> None:
    model, x = build(name), image()
    with torch.set_grad_enabled(grad):
        expected = model(x)
        skipped = (nn.ModuleList, nn.Identity)
        for path, module in model.named_modules():
            if isinstance(module, skipped) or path.endswith("positions") or "reducers" in path:
                continue
            calls: list[str] = []
            hook = module.register_forward_hook(lambda *_, p=path, c=calls: c.append(p))
            found = model(x)
            hook.remove()
            # Both halves of a layer share their stochastic depth.
            assert len(calls) == (2 if path.endswith("drop_path") else 1), path
            for a, b in zip(found, expected):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", BUILDERS)
def test_what_a_hook_keeps_stays_as_it_was(name: str) -> None:
    model = build(name)
    kept: list[tuple[str, Tensor, Tensor]] = []

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            kept.extend((path, y, y.clone()) for y in outputs if isinstance(y, Tensor))

        return hook

    for path, module in model.named_modules():
        module.register_forward_hook(keep(path))
    with torch.no_grad():
        model(image())
    assert len(kept) > 20
    assert [path for path, y, copied in kept if not torch.equal(y, copied)] == []


class LowRank(nn.Module):
    """LoRA as adapters write it: the frozen layer, and two small ones beside it."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        is_conv = isinstance(base, nn.Conv2d)
        width = (base.in_channels, base.out_channels) if is_conv else (0, 0)
        if is_conv:
            self.down, self.up = nn.Conv2d(width[0], 2, 1), nn.Conv2d(2, width[1], 1)
        else:
            self.down = nn.Linear(base.in_features, 2)
            self.up = nn.Linear(2, base.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("name", BUILDERS)
def test_every_adapter_gets_a_gradient(name: str) -> None:
    model = build(name).train().requires_grad_(False)
    for path, module in list(model.named_modules()):
        pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
        if isinstance(module, nn.Linear) or (pointwise and module.groups == 1):
            owner, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(owner), leaf, LowRank(module))
    adapters = {k: p for k, p in model.named_parameters() if ".up." in k or ".down." in k}
    for parameter in adapters.values():
        parameter.requires_grad_(True)
    assert len(adapters) >= 12
    sum(out.square().mean() for out in model(image())).backward()
    silent = [k for k, p in adapters.items() if p.grad is None or not bool(p.grad.any())]
    assert silent == []


@pytest.mark.parametrize("name", ["mit hq", "vit algm"])
def test_pruned_layers_train(name: str) -> None:
    model = build(name).train()
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            prune.l1_unstructured(module, "weight", amount=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        sum(out.square().mean() for out in model(image())).backward()
        optimizer.step()
        optimizer.zero_grad()
    for module in model.modules():
        if hasattr(module, "weight_mask"):
            assert bool((module.weight[module.weight_mask == 0] == 0).all())


@pytest.mark.parametrize("name", BUILDERS)
def test_gradients_under_mmengine_activation_checkpointing(name: str) -> None:
    from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

    plain = build(name).train()
    wrapped = copy.deepcopy(plain)
    kinds = [k for k, m in plain.named_modules() if type(m).__name__.endswith(("Layer", "Block"))]
    turn_on_activation_checkpointing(wrapped, kinds)
    assert len(kinds) >= 3
    for model in (plain, wrapped):
        torch.manual_seed(2)
        sum(out.square().mean() for out in model(image())).backward()
    found = {k.replace("_checkpoint_wrapped_module.", ""): p for k, p in wrapped.named_parameters()}
    for key, parameter in plain.named_parameters():
        assert (parameter.grad is None) == (found[key].grad is None), key
        if parameter.grad is not None:
            torch.testing.assert_close(found[key].grad, parameter.grad, msg=key)


def test_dynamic_quantization_finds_the_linear_layers() -> None:
    model = build("vit")
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
    kinds = [type(m).__module__ for m in quantized.modules() if type(m).__name__ == "Linear"]
    assert len([k for k in kinds if "quantized" in k]) >= 2 * 3  # both layers of three MLPs
    with torch.no_grad():
        a, b = quantized(image())[0], model(image())[0]
    assert 0 < float((a - b).abs().max()) < 0.5 * float(b.abs().max())


def test_what_is_plain() -> None:
    layer = nn.Linear(4, 4)
    assert is_plain(layer, nn.Linear)
    assert not is_plain(layer, nn.Conv2d)
    assert not is_plain(type("Own", (nn.Linear,), {})(4, 4), nn.Linear)
    hook = layer.register_forward_pre_hook(lambda *_: None)
    assert not is_plain(layer, nn.Linear)
    hook.remove()
    assert is_plain(layer, nn.Linear)
    rewritten = nn.Linear(4, 4)
    rewritten.forward = lambda x: x  # type: ignore[method-assign]
    assert not is_plain(rewritten, nn.Linear)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    assert not is_plain(layer, nn.Linear)
    x = torch.zeros(2, 4)
    everywhere = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not is_plain(nn.Linear(4, 4), nn.Linear)
        with torch.no_grad():
            assert not reuses_memory([], x)
    finally:
        everywhere.remove()
    with torch.no_grad():
        assert reuses_memory([nn.Linear(4, 4)], x)
    assert not reuses_memory([nn.Linear(4, 4)], x)


class ResponseNorm(nn.Module):
    """ConvNeXt v2's: looks at the whole map ``(B, C, h, w)``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.norm(dim=(2, 3), keepdim=True)
        return x * size / (size.mean(1, keepdim=True) + 1e-6)


def other_depthwise(channels: int, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, groups=channels, **settings)


REPLACED = {
    "5x5": lambda ffn, c: ffn.__setitem__(1, other_depthwise(c, kernel_size=5, padding=2)),
    "5x5, same": lambda ffn, c: ffn.__setitem__(
        1, other_depthwise(c, kernel_size=5, padding="same")
    ),
    "dilated, same": lambda ffn, c: ffn.__setitem__(
        1, other_depthwise(c, kernel_size=3, padding="same", dilation=2)
    ),
    "dilated": lambda ffn, c: ffn.__setitem__(
        1, other_depthwise(c, kernel_size=3, padding=2, dilation=2)
    ),
    "circular": lambda ffn, c: ffn.__setitem__(
        1, other_depthwise(c, kernel_size=3, padding=1, padding_mode="circular")
    ),
    "whole map": lambda ffn, c: ffn.__setitem__(2, ResponseNorm()),
    "channels": lambda ffn, c: ffn.__setitem__(2, nn.PReLU(c, 0.3)),
    "grouped": lambda ffn, c: ffn.__setitem__(0, nn.Conv2d(c // 4, c, 1, groups=2)),
    "3x3": lambda ffn, c: ffn.__setitem__(0, nn.Conv2d(c // 4, c, 3, padding=1)),
}


@pytest.mark.parametrize("name", REPLACED)
def test_what_others_put_into_a_mixffn_does_what_it_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In strips, in one piece and with gradients, beside the layers called one after another."""
    from mmtokmerge.layers import mix_ffn

    torch.manual_seed(0)
    ffn = mix_ffn.MixFFN(8, 32).eval()
    REPLACED[name](ffn.layers, 32)
    for parameter in ffn.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, hw = torch.randn(2, 24 * 10, 8), (24, 10)
    expected = ffn.layers(x.transpose(1, 2).unflatten(2, hw)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ffn(x, hw), expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(ffn(x, hw), expected, atol=1e-5, rtol=1e-4)
        monkeypatch.setattr(mix_ffn, "WHOLE_BYTES", 0)
        monkeypatch.setattr(mix_ffn, "STRIP_BYTES", 1)
        torch.testing.assert_close(ffn(x, hw), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_a_class_that_somebody_patched_is_called(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, seen = kind.forward, set()

    def patched(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        seen.add(id(self))
        return own(self, x)

    model = MiTPlusPlus(dict(embed_dims=8, num_layers=(1, 1, 1, 1)), merging="hq").eval()
    monkeypatch.setattr(kind, "forward", patched)
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert seen == {id(module) for module in model.modules() if type(module) is kind}
