"""Merging applied where other things are going on: threads, compiled layers, hooks, wrappers."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from host_models import SEGFORMERS, VITS, images, run
from torch import Tensor, nn

import mmtokmerge
from mmtokmerge.errors import InputError

KEEP = dict(keep=(0.5, 0.3), layers=(1, 2))


def vit() -> Any:
    model: Any = VITS["timm-vit"]()
    timm = pytest.importorskip("timm")
    other = timm.create_model(
        "vit_tiny_patch16_224", depth=4, embed_dim=48, num_heads=4, dynamic_img_size=True
    )
    torch.manual_seed(0)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.1)
    del model
    return other.eval()


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
def test_layers_compiled_by_themselves_hand_on_what_they_merged() -> None:
    pytest.importorskip("timm")
    import timm

    model: Any = timm.create_model(
        "vit_tiny_patch16_224", depth=12, embed_dim=48, num_heads=4, img_size=128
    ).eval()
    x = torch.randn(2, 3, 128, 128)
    mmtokmerge.apply(model, "algm", keep=(0.5, 0.3), layers=(1, 5))
    expected = model(x)
    torch._dynamo.reset()
    for block in model.blocks:  # more than torch compiles before it gives up and runs eagerly
        block.compile(backend="eager")
    assert difference(model(x), expected) < 1e-4
    mmtokmerge.remove(model)
    assert all("_compiled_call_impl" not in vars(block) for block in model.blocks)
    one = copy.deepcopy(model)
    host = one(x)
    mmtokmerge.apply(one, "algm", keep=(0.5, 0.3), layers=(1, 5))
    one.blocks[7].compile(backend="eager")
    assert difference(one(x), expected) < 1e-4
    pickle.dumps(one)
    assert torch.equal(mmtokmerge.remove(one)(x), host)


def test_a_layer_compiled_before_is_a_sentence() -> None:
    model = vit()
    model.blocks[2].compile(backend="eager")
    with pytest.raises(
        InputError, match=r"blocks\.2: it is compiled by itself: apply merging first"
    ):
        mmtokmerge.apply(model, "algm", **KEEP)
    assert all("Merging" not in type(module).__name__ for module in model.modules())


@torch.no_grad()
def test_threads_with_other_sizes_do_not_mix() -> None:
    model = vit()
    mmtokmerge.apply(model, "algm", threshold=0.2, layers=(1, 2))
    shapes = [(64, 256), (256, 64), (128, 128), (64, 128)]
    inputs = [torch.randn(2, 3, *shape) for shape in shapes]
    expected = [model(x) for x in inputs]
    faults: list[Any] = []

    def work(index: int) -> None:
        for _ in range(6):
            try:
                with torch.no_grad():
                    worst = difference(model(inputs[index]), expected[index])
                if worst > 1e-5:
                    faults.append(worst)
            except Exception as error:
                faults.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_checkpointed_layers_find_their_own_grid() -> None:
    model = vit().train()
    mmtokmerge.apply(model, "algm", **KEEP)
    first, second = torch.randn(1, 3, 64, 256), torch.randn(1, 3, 256, 64)
    grads = []
    for checkpointed in (False, True):
        model.set_grad_checkpointing(checkpointed)
        model.zero_grad()
        (model(first).square().mean() + model(second).square().mean()).backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_tokens_that_somebody_changed_are_a_sentence() -> None:
    model, x = vit(), torch.randn(1, 3, 128, 128)
    mmtokmerge.apply(model, "algm", **KEEP)
    handle = model.blocks[2].register_forward_hook(lambda module, args, out: out.clone())
    with pytest.raises(InputError, match="layer 4 got other tokens than layer 3 returned"):
        model(x)
    handle.remove()

    def in_place(module: nn.Module, args: Any, out: Tensor) -> None:
        out[:, 20:40] = 0

    handle = model.blocks[2].register_forward_hook(in_place)
    with pytest.raises(InputError, match="a hook or wrapper changed or copied them"):
        model(x)
    handle.remove()
    with pytest.raises(InputError, match="or the layer was called by itself"):
        model.blocks[3](torch.randn(1, 65, 48))
    assert model(x).shape == (1, 1000)


@torch.no_grad()
def test_an_attention_that_was_replaced_is_a_sentence() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor, **_: Any) -> Tensor:
            return x

    model = vit()
    mmtokmerge.apply(model, "tome", count=3)
    model.blocks[1].attn = Own()
    with pytest.raises(InputError, match="the attention of layer 2 was replaced or wrapped"):
        model(torch.randn(1, 3, 128, 128))


def test_a_second_encoder_is_left_alone_and_said() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = vit(), vit()

    report = mmtokmerge.apply(Two(), "algm", **KEEP)
    assert report.left_alone == [("b.blocks", "another encoder: apply merging to it by itself")]
    shared = vit()
    shared.blocks[2] = shared.blocks[1]
    with pytest.raises(InputError, match="holds a layer twice"):
        mmtokmerge.apply(shared, "algm", **KEEP)


def test_calibration_leaves_every_mode_as_it_was() -> None:
    model = vit().train()
    model.blocks[0].norm1.eval()
    modes = [module.training for module in model.modules()]
    mmtokmerge.calibrate(model, torch.randn(2, 3, 64, 64))
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(InputError, match="the tokens hold NaN"):
        mmtokmerge.calibrate(model, torch.full((1, 3, 64, 64), torch.nan))
    with pytest.raises(TypeError, match="images are batches"):
        mmtokmerge.calibrate(model, None)
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module"):
        mmtokmerge.apply(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="for plain ViTs, not SegFormer"):
        mmtokmerge.calibrate(SEGFORMERS["transformers"](), torch.zeros(1, 3, 64, 64))


@torch.no_grad()
def test_a_refused_setting_leaves_what_was_applied() -> None:
    model, x = vit(), torch.randn(1, 3, 128, 128)
    mmtokmerge.apply(model, "algm", **KEEP)
    expected = model(x)
    with pytest.raises(InputError):
        mmtokmerge.apply(model, "algm", threshold=7.0)
    assert torch.equal(model(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("host", ["vit", "dinov2", "dpt", "vitpose"])
def test_a_refused_call_does_not_spoil_the_next(host: str) -> None:
    model = VITS[host]()
    x = images(model)
    mmtokmerge.apply(model, "algm", threshold=0.3, layers=(1, 2))
    expected = run(model, x)
    with pytest.raises(InputError, match="output_attentions=True cannot be given"):
        model(x, output_attentions=True)
    for a, b in zip(run(model, x), expected, strict=True):
        assert torch.equal(a, b)
    mmtokmerge.apply(model, "tome", count=1)  # nothing says that somebody replaced a forward


@torch.no_grad()
def test_experts_of_vitpose_get_their_index() -> None:
    transformers = pytest.importorskip("transformers")
    small = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 64], patch_size=[8, 8], num_experts=2, part_features=8, **small
    )
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=5)
    torch.manual_seed(0)
    model = transformers.VitPoseForPoseEstimation(config).eval()
    x, index = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
    expected = model(x, dataset_index=index).heatmaps
    mmtokmerge.apply(model, "algm", threshold=1.0)
    torch.testing.assert_close(model(x, dataset_index=index).heatmaps, expected)


def test_a_hybrid_s_patches_are_counted_by_its_own_rule() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_r_s16_p8_224", pretrained=False)
        padded = timm.create_model(
            "vit_tiny_patch16_224", dynamic_img_size=True, dynamic_img_pad=True
        )
    report = mmtokmerge.apply(model, "tome", count=3)
    assert report.tokens(224, 224)["patches"]["tokens"].before == 49
    report = mmtokmerge.apply(padded, "tome", count=3)
    assert report.tokens(90, 150)["patches"]["tokens"].before == 60


@torch.no_grad()
def test_a_trace_whose_first_merging_layer_is_not_the_first() -> None:
    model, x = vit(), torch.randn(1, 3, 128, 128)
    mmtokmerge.apply(model, "algm", keep=(0.5, 0.3), layers=(2, 3))
    traced = torch.jit.trace(model, x, check_trace=False)
    y = torch.randn(1, 3, 128, 128)
    torch.testing.assert_close(traced(y), model(y), atol=1e-4, rtol=1e-4)
    with pytest.raises(RuntimeError):
        traced(torch.randn(1, 3, 128, 64))
