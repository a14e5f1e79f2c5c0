"""What people do with a model goes on while merging is applied: LoRA, DDP, pipelines, compiling."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from host_models import SEGFORMERS, VITS, images, run
from torch import Tensor, nn

import mmtokmerge

KEEP = dict(merging="algm", keep=(0.5, 0.3), layers=(1, 2))


@pytest.mark.parametrize("host", ["transformers", "vit", "dinov2", "timm-vit"])
def test_lora_by_peft_trains_every_adapter(host: str) -> None:
    peft = pytest.importorskip("peft")
    model = {**SEGFORMERS, **VITS}[host]()
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if is_linear(module)}
    targets = [n for n in names if n in TARGETS]
    setting: dict[str, Any] = dict(merging="hq") if host == "transformers" else dict(KEEP)
    x = torch.randn(2, 3, 64, 64) if host == "transformers" else images(model)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets))
    mmtokmerge.apply(wrapped, **setting)
    out = wrapped(x)
    loss = out if isinstance(out, Tensor) else out[0]
    loss.square().mean().backward()
    adapters = {k: p for k, p in wrapped.named_parameters() if "lora_B" in k}
    assert adapters and all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.values()
    )
    mmtokmerge.remove(wrapped)
    assert all("lora" in k for k, p in wrapped.named_parameters() if p.requires_grad)


TARGETS = ("query", "value", "q_proj", "v_proj", "qkv", "fc1", "dense1")


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


@pytest.fixture
def one_process(tmp_path: Path) -> Any:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("host", ["transformers", "timm-vit"])
def test_ddp_finds_a_gradient_for_every_parameter(host: str, one_process: None) -> None:
    model = {**SEGFORMERS, **VITS}[host]().train()
    setting: dict[str, Any] = dict(merging="hq") if host == "transformers" else dict(KEEP)
    mmtokmerge.apply(model, **setting)
    wrapped = nn.parallel.DistributedDataParallel(model)
    x = torch.randn(2, 3, 64, 64) if host == "transformers" else images(model)
    for _ in range(2):  # the second forward complains of parameters without a gradient
        out = wrapped(x)
        (out if isinstance(out, Tensor) else out.logits).square().mean().backward()


def test_a_pipeline_goes_on(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    image = pytest.importorskip("PIL.Image")
    model = SEGFORMERS["transformers"]()
    mmtokmerge.apply(model, "hq")
    processor = transformers.SegformerImageProcessor(size=dict(height=64, width=64))
    pipe = transformers.pipeline("image-segmentation", model=model, image_processor=processor)
    found = pipe(image.new("RGB", (50, 40), (200, 30, 90)))
    assert found and all(each["mask"].size == (50, 40) for each in found)


@pytest.mark.parametrize("preset", ["none", "hq", "n2d", "plus"])
@pytest.mark.parametrize("host", ["transformers", "mmseg", "smp-segformer"])
def test_segformers_compile_without_a_break(host: str, preset: str) -> None:
    model, x = SEGFORMERS[host](), torch.randn(1, 3, 64, 96)
    mmtokmerge.apply(model, preset)
    with torch.no_grad():
        expected = model(x)  # transformers 5 puts hooks in at the first call, under a lock
        torch._dynamo.reset()
        compiled: Any = torch.compile(model, fullgraph=True, backend="eager")
        found = compiled(x)
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def leaves(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    return list(out if isinstance(out, (tuple, list)) else out.to_tuple())


@pytest.mark.parametrize("host", ["transformers", "mmseg", "smp-segformer"])
def test_gradients_equal_the_host_s_without_merging(host: str) -> None:
    model = SEGFORMERS[host]()
    other, x = copy.deepcopy(model), torch.randn(2, 3, 64, 64)
    mmtokmerge.apply(other, "none")
    for each in (model, other):
        sum(out.square().mean() for out in run(each, x)).backward()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, atol=1e-6, rtol=2e-3, msg=name)


def test_activation_checkpointing_of_transformers_goes_on() -> None:
    model, x = SEGFORMERS["transformers"]().train(), torch.randn(1, 3, 64, 64)
    if not model.supports_gradient_checkpointing:
        pytest.skip("transformers 4's SegFormer has no gradient checkpointing")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    mmtokmerge.apply(model, "hq")
    grads = []
    for turn_on in (False, True):
        if turn_on:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(x).logits.square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_keeps_the_logits_dtype() -> None:
    model, x = SEGFORMERS["transformers"](), torch.randn(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(x).logits
        mmtokmerge.apply(model, "none")
        found = model(x).logits
    assert found.dtype == expected.dtype
    assert float((found - expected).abs().max() / expected.abs().max()) < 0.05
