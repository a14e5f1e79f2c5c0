"""A distilled DeiT: two tokens ahead of the patches, against timm's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from tracing import ended, follow

pytest.importorskip("timm", reason="needs timm")

import timm

from mmtokmerge.errors import InputError
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.models import VisionTransformer
from mmtokmerge.models.weights import convert_vit

NORM = dict(type="LN", eps=1e-6)
SIDE = 64
RANDOM = dict(type="mmtokmerge.RandomPolicy", seed=3)
HALF = dict(policy=RANDOM, num_shared=0.5)


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=SIDE, num_classes=3)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 or "token" in name or "pos" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def build(theirs: nn.Module, **kwargs: Any) -> VisionTransformer:
    settings = dict(img_size=SIDE, norm_cfg=NORM, final_norm=True, with_dist_token=True)
    model = VisionTransformer("t", **{**settings, **kwargs}).eval()
    model.load_state_dict(convert_vit(theirs.state_dict()).state_dict)
    return follow(model)


def test_published_weights_give_the_published_features(theirs: nn.Module) -> None:
    converted = convert_vit(theirs.state_dict())
    assert converted.distilled and converted.img_size == (SIDE, SIDE)
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = theirs.forward_features(x)
        out = build(theirs, out_type="tokens")(x)[0]
        grid = build(theirs)(x)[0]
    torch.testing.assert_close(out.tokens, expected[:, 2:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.cls_token, expected[:, :1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(grid.flatten(2).transpose(1, 2), out.tokens)


def test_both_tokens_stay_apart_from_sharing_and_merging(theirs: nn.Module) -> None:
    """Layers run by hand on class token, distillation token, and the shared patches."""
    clap = dict(type="mmtokmerge.ConditionalLocalPooling", layer=12, threshold=-1, position="after")
    model = build(theirs, out_type="tokens", proportional=True, sharing=HALF, reducers=[clap])
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        out = model(x)[0]
        shared = ended(model).sharing
        assert shared.num_groups == 16 - 2 * 3
        patches = theirs.patch_embed(x) + theirs.pos_embed[:, 2:]
        halved = nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear")
        means = theirs.pos_embed[:, 2:].view(1, 2, 2, 2, 2, -1).mean((2, 4)).flatten(1, 2)
        supers = model.patch_embed(halved)[0] + means
        rows = []
        for image in range(2):
            for group in range(shared.num_groups):
                members = (shared.groups.expand(2, -1)[image] == group).nonzero()[:, 0].tolist()
                cell = members[0] // 8 * 2 + members[0] % 4 // 2
                alone = len(members) == 1
                rows.append(patches[image, members[0]] if alone else supers[image, cell])
        tokens = torch.stack(rows).view(2, shared.num_groups, -1)
        ahead = torch.cat([theirs.cls_token, theirs.dist_token], 1) + theirs.pos_embed[:, :2]
        tokens = torch.cat([ahead.expand(2, -1, -1), tokens], dim=1)
        bias = torch.cat([torch.ones(2, 2), shared.sizes.expand(2, -1)], 1).log()[:, None, None]
        for layer in model.layers:
            tokens = layer(tokens, bias)
        state = ended(model).assignment
        assert state.num_groups < shared.num_groups
        means = []
        for image in range(2):
            groups, owners = state.groups.expand(2, -1)[image], shared.groups.expand(2, -1)[image]
            for group in range(state.num_groups):
                members = owners[groups == group]  # one for each patch: weighted by size
                means.append(tokens[image, 2 + members].mean(0))
        expected = model.ln1(torch.stack(means).view(2, state.num_groups, -1))
    torch.testing.assert_close(out.tokens, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.cls_token, model.ln1(tokens)[:, :1], atol=1e-4, rtol=1e-4)


def test_features_of_reducers_leave_both_tokens_out(theirs: nn.Module) -> None:
    """By keys, GBM in layer 1: what is merged is as if the two were not there."""
    settings = dict(type="mmtokmerge.GlobalBipartiteMerging", layer=1, threshold=0.5, feature="K")
    model = build(theirs, out_type="tokens", reducers=[settings])
    x = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        model(x)
        tokens, _ = model.embed(x)
        layer = model.layers[0]
        y, qkv = layer.attn(layer.ln1(tokens))
        tokens = tokens + y
        patches, state, _ = model.reducers[0](
            tokens[:, 2:], qkv[1].mean(1)[:, 2:], TokenAssignment.identity(16), (4, 4)
        )
    assert torch.equal(ended(model).assignment.groups, state.groups)
    assert patches.shape[1] == state.num_groups < 16


def test_positions_are_resized_and_the_token_is_left_out_of_a_plain_vit(
    theirs: nn.Module, tmp_path: Any
) -> None:
    path = str(tmp_path / "deit.pth")
    torch.save({"state_dict": convert_vit(theirs.state_dict()).state_dict}, path)
    init_cfg = dict(type="Pretrained", checkpoint=path)
    grid = theirs.pos_embed[:, 2:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    settings = dict(norm_cfg=NORM, final_norm=True, init_cfg=init_cfg)
    for size, hw in (((96, 80), (6, 5)), ((32, 128), (2, 8))):
        wanted = nn.functional.interpolate(grid, hw, mode="bicubic", align_corners=False)
        wanted = wanted.flatten(2).transpose(1, 2)
        for distilled in (True, False):
            model = VisionTransformer("t", img_size=size, with_dist_token=distilled, **settings)
            model.init_weights()
            ahead = 1 + distilled
            torch.testing.assert_close(model.pos_embed[:, ahead:], wanted)
            assert torch.equal(model.pos_embed[:, :ahead], theirs.pos_embed[:, :ahead])
            assert ("dist_token" in model.state_dict()) == distilled
    x = torch.randn(1, 3, 96, 80)
    sized = build(theirs, img_size=(96, 80))
    torch.testing.assert_close(build(theirs)(x)[0], sized(x)[0])


def test_weights_without_a_distillation_token_are_refused(tmp_path: Any) -> None:
    plain = VisionTransformer("t", img_size=SIDE)
    torch.save(plain.state_dict(), tmp_path / "vit.pth")
    init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "vit.pth"))
    with pytest.raises(InputError, match=r"dist_token is missing"):
        VisionTransformer(
            "t", img_size=SIDE, with_dist_token=True, init_cfg=init_cfg
        ).init_weights()
    with pytest.raises(InputError, match="with_dist_token=True needs with_cls_token=True"):
        VisionTransformer("t", with_dist_token=True, with_cls_token=False)
