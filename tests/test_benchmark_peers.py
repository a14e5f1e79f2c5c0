"""Peers in the benchmark: same weights, same output, same number of tokens."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict

from mmtokmerge.benchmark.candidate_flops import forward_flops, stage_costs
from mmtokmerge.benchmark.candidates import build_candidates
from mmtokmerge.benchmark.options import Settings
from mmtokmerge.benchmark.peers.models import peer_models, read_peers
from mmtokmerge.benchmark.steps import make_step, random_images
from mmtokmerge.engine.launch import load_config
from mmtokmerge.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [
    str(ROOT / f"configs/segformerpp/b0_demo_{name}.py") for name in ("none", "hq", "fast", "n2d")
]
SHAPE = (136, 168)  # grids that strides do not divide, the last one 5 x 6
SETTINGS = Settings(shapes=(SHAPE,), part="encoder")
needs_tomesd = pytest.mark.skipif(not find_spec("tomesd"), reason="tomesd is not installed")


def build(peers, **changes):
    settings = Settings(shapes=(SHAPE,), part="encoder", **changes)
    candidates = build_candidates(
        [(path, load_config(path)) for path in CONFIGS], [], settings, peers
    )
    return {each.name: each for each in candidates}


@pytest.fixture(scope="module")
def by_name():
    return build(["huggingface"])


@pytest.fixture(scope="module")
def tomesd():
    return build(["tomesd"])


def features(candidate, settings=SETTINGS):
    return make_step(candidate, settings, random_images(candidate, settings, SHAPE, 2))()


def test_hugging_face_computes_what_ours_does(by_name):
    peer = by_name["huggingface"]
    assert peer.is_baseline
    ours, theirs = features(by_name["b0_demo_none"]), features(peer)
    assert len(theirs) == 4
    for own, other in zip(ours, theirs):
        torch.testing.assert_close(other, own, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(theirs[3], features(by_name["b0_demo_hq"])[3], atol=1e-3)


def test_hugging_face_s_work_is_counted(by_name):
    peer, ours = by_name["huggingface"], by_name["b0_demo_none"]
    flops = [forward_flops(each, "encoder", SHAPE)[0] for each in (peer, ours)]
    tokens, values = 34 * 42, 4 * 5  # stage 1, whose output projection ours applies to the values
    assert flops[0] - flops[1] == 2 * 2 * (tokens - values) * 32**2


def test_hugging_face_trains(by_name):
    model = by_name["huggingface"].model.backbone
    maps = model.train()(torch.randn(1, 3, 64, 64))
    sum(each.square().mean() for each in maps).backward()
    assert all(weight.grad is not None for weight in model.parameters())
    model.zero_grad()
    model.eval()


@needs_tomesd
@pytest.mark.parametrize("preset", ["hq", "fast"])
def test_tomesd_keeps_as_many_tokens_as_ours(tomesd, preset):
    peer, ours = tomesd[f"tomesd {preset}"], tomesd[f"b0_demo_{preset}"]
    seen = []

    def look(module, args, kwargs):
        seen.append((kwargs["query"].shape[0], kwargs["key"].shape[0]))

    blocks = [block for _, stage, _ in peer.model.backbone.layers for block in stage]
    hooks = [block.attn.attn.register_forward_pre_hook(look, with_kwargs=True) for block in blocks]
    features(peer)
    for hook in hooks:
        hook.remove()
    stages = stage_costs(ours.encoder, SHAPE)
    assert seen == [(each.queries, each.keys) for each in stages for _ in range(2)]


@needs_tomesd
@pytest.mark.parametrize("preset", ["hq", "fast"])
def test_tomesd_merges_the_same_tokens(tomesd, preset):
    ours, theirs = features(tomesd[f"b0_demo_{preset}"]), features(tomesd[f"tomesd {preset}"])
    for own, other in zip(ours, theirs):
        close = torch.isclose(other, own, rtol=1e-3, atol=1e-3).float().mean()
        assert close > 0.98  # a tie may go either way
    assert not torch.allclose(theirs[0], features(tomesd["b0_demo_none"])[0], atol=1e-3)


@needs_tomesd
def test_tomesd_gives_the_same_with_either_attention(tomesd):
    stock = build(["tomesd-stock"])["tomesd-stock fast"]
    assert torch.allclose(features(stock)[3], features(tomesd["tomesd fast"])[3], atol=1e-4)
    attention = stock.model.backbone.layers[0][1][0].attn.attn
    assert not attention._forward_pre_hooks
    assert tomesd["tomesd fast"].model.backbone.layers[0][1][0].attn.attn._forward_pre_hooks


@needs_tomesd
def test_tomesd_only_takes_part_for_what_it_can_merge(tomesd, by_name):
    assert [name for name in tomesd if name.startswith("tomesd")] == ["tomesd hq", "tomesd fast"]
    counted = forward_flops(tomesd["tomesd fast"], "encoder", SHAPE)[0]
    assert 0 < counted < forward_flops(by_name["huggingface"], "encoder", SHAPE)[0]


@needs_tomesd
def test_tomesd_says_where_it_has_no_destination(tomesd):
    with pytest.raises(InputError, match=r"a token in each 4 x 4 cell, .* only 2 x 3 tokens"):
        small = random_images(tomesd["tomesd hq"], SETTINGS, (64, 96), 1)
        make_step(tomesd["tomesd hq"], SETTINGS, small)()


@needs_tomesd
def test_without_a_config_that_merges_by_rate_tomesd_has_nothing_to_do():
    backbone = dict(type="mmtokmerge.MiTPlusPlus", merging="n2d")
    model = ConfigDict(backbone=backbone, decode_head=dict(type="mmseg.SegformerHead"))
    with pytest.raises(InputError, match=r"tomesd merges by rate .* but no config merges so"):
        peer_models(["tomesd"], [("one", model)])
    option = dict(type="mmtokmerge.MiTPlusPlus", merging=[{}, {}, {}, dict(r_q=0.5, q_stride=2)])
    named = peer_models(["tomesd"], [("one", dict(model, backbone=option))])
    assert [name for name, _ in named] == ["tomesd one"]
    option["merging"][3]["match"] = "local"
    with pytest.raises(InputError, match="no config merges so"):
        peer_models(["tomesd"], [("one", dict(model, backbone=option))])


def test_a_peer_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "tomesd", None)
    monkeypatch.setattr(
        "mmtokmerge.benchmark.peers.models.find_spec",
        lambda name: None if name == "tomesd" else find_spec(name),
    )
    with pytest.raises(InputError, match=r"^--peers tomesd needs the package tomesd.*pip install"):
        read_peers(["tomesd"])
    assert read_peers(["huggingface"]) == ["huggingface"]


def test_peers_need_segformer_s_encoder():
    model = ConfigDict(backbone=dict(type="ResNet"))
    with pytest.raises(InputError, match=r"--peers huggingface run SegFormer's .* ResNet\.$"):
        peer_models(["huggingface"], [("one", model)])


def test_hugging_face_refuses_what_it_does_not_have():
    backbone = dict(type="mmtokmerge.MiTPlusPlus", with_cp=True)
    model = ConfigDict(backbone=backbone, decode_head=dict(type="mmseg.SegformerHead"))
    ((_, stock),) = peer_models(["huggingface"], [("one", model)])
    settings = {key: value for key, value in stock.backbone.items() if key != "type"}
    with pytest.raises(InputError, match="with_cp=True"):
        stock.backbone.type(**settings)
