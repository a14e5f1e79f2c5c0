"""The plain ViT without reducers is mmseg's: parameters, features and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mmtokmerge.errors import InputError
from mmtokmerge.models import VisionTransformer

vit = pytest.importorskip("mmseg.models.backbones.vit", reason="needs MMSegmentation")

ARCH = dict(embed_dims=32, num_layers=3, num_heads=2)


def randomise(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.05)
        is_norm = parameter.dim() == 1 and "ln" in name and name.endswith("weight")
        parameter.data = noise + (1.0 if is_norm else 0.0)
    return model


def pair_of_models(**kwargs: Any) -> tuple[nn.Module, VisionTransformer]:
    theirs = dict(patch_bias=True, interpolate_mode="bicubic", img_size=(64, 64), **kwargs)
    stock = randomise(vit.VisionTransformer(**ARCH, **theirs))
    stock.eval()
    ours = VisionTransformer(ARCH, **theirs).eval()
    ours.load_state_dict(stock.state_dict())
    return stock.double(), ours.double()


@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("patch_size", [8, 16, 32])
@pytest.mark.parametrize("with_cls_token", [False, True])
def test_features(patch_size: int, with_cls_token: bool, final_norm: bool) -> None:
    """The trained size, an odd one, one that no patch divides, and one below a patch.

    No grid here has as many patches as the trained one in another shape: mmseg then forgets to
    interpolate.
    """
    stock, ours = pair_of_models(
        patch_size=patch_size,
        with_cls_token=with_cls_token,
        final_norm=final_norm,
        out_indices=[0, 2],
    )
    assert list(stock.state_dict()) == list(ours.state_dict())
    for size in [(64, 64), (96, 160), (70, 45), (7, 41)]:
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            for a, b in zip(stock(x), ours(x), strict=True):
                torch.testing.assert_close(b, a, atol=1e-10, rtol=1e-8)


def test_explicit_attention_and_recomputation_change_nothing() -> None:
    stock, ours = pair_of_models()
    slow = VisionTransformer(ARCH, img_size=(64, 64), fused_attention=False, with_cp=True)
    slow.double().load_state_dict(stock.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    slow.train()(x)[0].square().mean().backward()
    ours.train()(x)[0].square().mean().backward()
    for a, b in zip(slow.parameters(), ours.parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


def test_gradients() -> None:
    stock, ours = pair_of_models()
    x = torch.randn(2, 3, 70, 45, dtype=torch.float64)
    stock(x)[0].square().mean().backward()
    ours(x)[0].square().mean().backward()
    theirs = dict(stock.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-4)


def test_initialisation_has_mmsegs_scale() -> None:
    stock, ours = vit.VisionTransformer(**ARCH, patch_bias=True), VisionTransformer(ARCH)
    torch.manual_seed(0)
    stock.init_weights()
    torch.manual_seed(0)
    ours.init_weights()
    for name, value in stock.state_dict().items():
        mean, std = value.mean().item(), value.std().item()
        assert ours.state_dict()[name].mean().item() == pytest.approx(mean, abs=3e-3), name
        assert ours.state_dict()[name].std().item() == pytest.approx(std, rel=0.1), name


def test_the_mlp_in_pieces_is_the_mlp(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = pair_of_models()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        whole = ours(x)[0]
        monkeypatch.setattr("mmtokmerge.layers.mlp.WHOLE_BYTES", 1)
        monkeypatch.setattr("mmtokmerge.layers.mlp.STRIP_BYTES", 7 * 128 * 8)
        torch.testing.assert_close(ours(x)[0], whole)


def test_position_embeddings_of_a_square_checkpoint_are_resized(tmp_path: Any) -> None:
    source = randomise(VisionTransformer(ARCH, img_size=64))
    torch.save({"state_dict": source.state_dict()}, tmp_path / "vit.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "vit.pth"))
    target = VisionTransformer(ARCH, img_size=(96, 32), init_cfg=init)
    target.init_weights()
    assert target.pos_embed.shape == (1, 6 * 2 + 1, 32)
    x = torch.randn(1, 3, 96, 32)
    with torch.no_grad():
        torch.testing.assert_close(target.eval()(x)[0], source.eval()(x)[0])


def test_a_square_of_as_many_patches_is_resized_too(tmp_path: Any) -> None:
    """A 4x4 grid into an 8x2 one: the same number of embeddings in another order."""
    source = randomise(VisionTransformer(ARCH, img_size=64))
    torch.save(source.state_dict(), tmp_path / "square.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "square.pth"))
    target = VisionTransformer(ARCH, img_size=(128, 32), init_cfg=init)
    target.init_weights()
    x = torch.randn(1, 3, 128, 32)
    with torch.no_grad():
        torch.testing.assert_close(target.eval()(x)[0], source.eval()(x)[0])


def test_pretrained_weights_that_do_not_fit_are_refused(tmp_path: Any) -> None:
    weights = VisionTransformer(ARCH).state_dict()
    del weights["layers.1.ln1.weight"]
    torch.save(weights, tmp_path / "cut.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "cut.pth"))
    with pytest.raises(InputError, match=r"cut\.pth.*layers\.1\.ln1\.weight"):
        VisionTransformer(ARCH, init_cfg=init).init_weights()
    torch.save({"pos_embed": torch.zeros(1, 12, 32)}, tmp_path / "odd.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "odd.pth"))
    with pytest.raises(InputError, match="pos_embed"):
        VisionTransformer(ARCH, init_cfg=init).init_weights()


def test_the_cached_positions_follow_their_parameter() -> None:
    _, ours = pair_of_models()
    x = torch.randn(1, 3, 80, 80, dtype=torch.float64)
    with torch.no_grad():
        before = ours(x)[0]
        ours.pos_embed.add_(1.0)
        assert not torch.equal(ours(x)[0], before)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        (dict(arch="x"), "arch='x' is unknown"),
        (dict(arch=dict(embed_dims=3)), "arch must be"),
        (dict(arch=dict(embed_dims=30, num_layers=1, num_heads=4)), "must divide"),
        (dict(img_size=8), "img_size=8 is smaller"),
        (dict(out_type="grid"), "out_type='grid'"),
        (dict(out_indices=[3]), "out_indices"),
        (dict(out_indices=[2, 0]), "out_indices"),
        (dict(interpolate_mode="cubic"), "interpolate_mode='cubic'"),
        (dict(proportional=True), "proportional=True does nothing"),
        (dict(calibration="x.pth"), "calibration does nothing"),
        (dict(reducers=dict(type="mmtokmerge.ToMe")), "a list of dicts"),
        (
            dict(reducers=[dict(type="mmtokmerge.ToMe", layer=4, num_merged=1)]),
            "layer=4 of ToMe is beyond",
        ),
        (dict(reducers=[dict(type="mmtokmerge.MiTPlusPlus")]), "no reducer"),
    ],
)
def test_bad_settings_are_a_sentence(kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        VisionTransformer(**{"arch": ARCH, **kwargs})


def test_the_fused_stock_model_is_the_stock_model() -> None:
    stock_module = pytest.importorskip("mmtokmerge.models.backbones.stock")
    stock, _ = pair_of_models()
    fused = stock_module.FusedVisionTransformer(
        **ARCH, img_size=(64, 64), patch_bias=True, interpolate_mode="bicubic"
    )
    fused.double().eval()
    fused.load_state_dict(stock.state_dict())
    x = torch.randn(2, 3, 70, 45, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fused(x)[0], stock(x)[0], atol=1e-5, rtol=1e-5)


def test_the_grid_comes_from_the_checkpoint_not_from_a_count(tmp_path: Any) -> None:
    """2x8 patches are as many as 4x4: reloaded as they are, and resized from 2x8 to 4x4."""
    source = randomise(VisionTransformer(ARCH, img_size=(32, 128)))
    torch.save({"state_dict": source.state_dict()}, tmp_path / "wide.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "wide.pth"))
    same = VisionTransformer(ARCH, img_size=(32, 128), init_cfg=init)
    same.init_weights()
    assert torch.equal(same.pos_embed, source.pos_embed)
    square = VisionTransformer(ARCH, img_size=64, init_cfg=init)
    square.init_weights()
    also = VisionTransformer(ARCH, img_size=64)
    also.load_state_dict(source.state_dict())
    maps = source.pos_embed[:, 1:].unflatten(1, (2, 8)).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(maps, (4, 4), mode="bicubic", align_corners=False)
    for model in (square, also):
        torch.testing.assert_close(model.pos_embed[:, 1:], wanted.flatten(2).transpose(1, 2))


def test_the_grid_of_mmsegs_checkpoints_is_read_off_their_config(tmp_path: Any) -> None:
    source = randomise(VisionTransformer(ARCH, img_size=(32, 128)))
    text = (
        "model = dict(backbone=dict(type='VisionTransformer', img_size=(32, 128), patch_size=16))"
    )
    content = {"state_dict": dict(source.state_dict()), "meta": {"cfg": text}}
    torch.save(content, tmp_path / "theirs.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "theirs.pth"))
    same = VisionTransformer(ARCH, img_size=(32, 128), init_cfg=init)
    same.init_weights()
    assert torch.equal(same.pos_embed, source.pos_embed)


@pytest.mark.parametrize("with_cls_token", [False, True])
def test_every_trained_parameter_gets_a_gradient(with_cls_token: bool) -> None:
    """DDP stops where one does not."""
    model = VisionTransformer(ARCH, img_size=64, with_cls_token=with_cls_token).train()
    model(torch.randn(1, 3, 64, 64))[0].square().mean().backward()
    trained = {k: v for k, v in model.named_parameters() if v.requires_grad}
    assert [k for k, v in trained.items() if v.grad is None] == []
    assert ("cls_token" in trained) == with_cls_token
