"""Merging put into other packages' SegFormers: equal to the host, equal to ours, and reversible."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from host_models import SEGFORMERS, own_models, randomise, run
from torch import Tensor, nn

import mmtokmerge
from mmtokmerge.adapters.report import TokenCount
from mmtokmerge.errors import InputError

SIZES = [(64, 64), (97, 161), (33, 70)]
BY_32 = [(64, 64), (96, 160)]  # what segmentation_models_pytorch and GLPN's decoder take


def hugging_face() -> nn.Module:
    return SEGFORMERS["transformers"]()


def inner_attention(layer: Any) -> Any:
    """What holds the linear layers of an attention of transformers: itself in version 5."""
    return getattr(layer.attention, "self", layer.attention)


def first_layer(model: Any, stage: int = 0) -> Any:
    encoder = model.segformer
    return (
        encoder.stages[stage].blocks[0]
        if hasattr(encoder, "stages")
        else encoder.encoder.block[stage][0]
    )


@pytest.mark.parametrize(
    ("host", "size"),
    [
        (host, size)
        for host in SEGFORMERS
        for size in (BY_32 if host[:3] in ("smp", "glp") else SIZES)
    ],
)
def test_none_equals_the_host(host: str, size: tuple[int, int]) -> None:
    model, x = SEGFORMERS[host](), torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = run(model, x)
        report = mmtokmerge.apply(model, "none")
        found = run(model, x)
    assert len(report.layers) == (8 if "smp" in host else 5) and report.left_alone == []
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).abs().max() / b.abs().max()) < 1e-5


@pytest.mark.parametrize("host", ["transformers", "mmseg"])
@pytest.mark.parametrize("preset", ["hq", "fast", "n2d", "plus"])
def test_presets_equal_our_own_model(host: str, preset: str, tmp_path: Path) -> None:
    models = own_models()
    from mmtokmerge.models.weights.formats import FORMATS
    from mmtokmerge.models.weights.rename import rename

    model = SEGFORMERS[host]()
    arch = dict(embed_dims=16, num_layers=(1, 2, 1, 1))
    hf = host == "transformers"
    norm = dict(norm_cfg=dict(type="LN", eps=1e-5)) if hf else {}
    own = models.MiTPlusPlus(arch, merging=preset, **norm).eval()
    state = model.state_dict()
    if hf:  # version 5 changes the names, but not in files
        model.save_pretrained(tmp_path)
        load = pytest.importorskip("safetensors.torch").load_file
        state = load(tmp_path / "model.safetensors")
    weights = rename(state, FORMATS["hf" if hf else "mmseg"]).weights
    own.load_state_dict(
        {k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}
    )
    mmtokmerge.apply(model, preset)
    x = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        found, expected = run(model, x), own(x)
    maps = found[:4] if hf else found
    for a, b in zip(maps, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("preset", ["hq", "fast", "n2d", "plus"])
def test_presets_are_one_for_all_hosts(preset: str) -> None:
    """The same weights in segmentation_models_pytorch's encoder and in transformers'."""
    transformers = pytest.importorskip("transformers")
    smp = SEGFORMERS["smp-fpn"]()
    config = transformers.SegformerConfig()
    model = randomise(transformers.SegformerModel(config))
    copy_from_smp(smp.encoder, model)
    mmtokmerge.apply(smp, preset)
    mmtokmerge.apply(model, preset)
    x = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        found = smp.encoder(x)[-4:]
        expected = model(x, output_hidden_states=True).hidden_states
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def copy_from_smp(encoder: Any, model: Any) -> None:
    """Load the encoder's weights, whose names are the published SegFormer's, through a file."""
    weights: dict[str, Tensor] = {}
    for key, value in encoder.state_dict().items():
        part, *rest = key.split(".")
        stage, name = int(part[-1]) - 1, ".".join(rest)
        if part.startswith("patch_embed"):
            name = name.replace("norm", "layer_norm")
            weights[f"encoder.patch_embeddings.{stage}.{name}"] = value
        elif part.startswith("norm"):
            weights[f"encoder.layer_norm.{stage}.{name}"] = value
        else:
            for old, new in NAMES:
                name = name.replace(old, new)
            if ".kv." in name:
                for half, word in zip(value.chunk(2), ("key", "value")):
                    weights[f"encoder.block.{stage}.{name.replace('kv', word)}"] = half
            else:
                weights[f"encoder.block.{stage}.{name}"] = value
    if hasattr(model, "stages"):  # version 5, whose files keep version 4's names
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            safetensors = pytest.importorskip("safetensors.torch")
            safetensors.save_file(
                {k: v.contiguous() for k, v in weights.items()}, f"{folder}/model.safetensors"
            )
            loaded = type(model).from_pretrained(folder).state_dict()
    else:
        loaded = weights
    model.load_state_dict(loaded)


NAMES = (
    *(("norm1", "layer_norm_1"), ("norm2", "layer_norm_2")),
    *(("attn.q.", "attention.self.query."), ("attn.kv.", "attention.self.kv.")),
    *(("attn.sr.", "attention.self.sr."), ("attn.norm.", "attention.self.layer_norm.")),
    *(("attn.proj.", "attention.output.dense."), ("mlp.fc1", "mlp.dense1")),
    ("mlp.fc2", "mlp.dense2"),
)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("host", SEGFORMERS)
def test_remove_gives_back_the_very_model(host: str, train: bool) -> None:
    model, x = SEGFORMERS[host](), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = run(model, x)
    modules = dict(model.named_modules())
    keys = list(model.state_dict())
    mmtokmerge.apply(model, "hq")
    assert list(model.state_dict()) == keys
    mmtokmerge.apply(model, "fast", proportional=True)
    with torch.no_grad():
        assert not torch.equal(run(model, x)[-1], expected[-1])
    model.train(train)
    assert mmtokmerge.remove(model) is model
    assert all(module.training == train for module in model.modules())
    after = dict(model.named_modules())
    assert list(after) == list(modules) and all(after[k] is modules[k] for k in modules)
    with torch.no_grad():
        for a, b in zip(run(model.eval(), x), expected):
            assert torch.equal(a, b)


@pytest.mark.parametrize("host", SEGFORMERS)
def test_copies_pickles_and_gradients(host: str) -> None:
    model, x = SEGFORMERS[host](), torch.randn(1, 3, 64, 96)
    mmtokmerge.apply(model, "hq")
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    with torch.no_grad():
        expected = run(model, x)
        for each in copies:
            for a, b in zip(run(each, x), expected):
                assert torch.equal(a, b)
            mmtokmerge.remove(each)
    with torch.no_grad():
        assert torch.equal(run(model, x)[-1], expected[-1])  # its copies' removal left it alone
    model.train()
    sum(out.square().mean() for out in run(model, x)).backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == []


def test_saved_and_loaded_by_hugging_face(tmp_path: Path) -> None:
    model = hugging_face()
    mmtokmerge.apply(model, "hq")
    model.save_pretrained(tmp_path)
    fresh = type(model).from_pretrained(tmp_path).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = run(mmtokmerge.remove(model), x)
        for a, b in zip(run(fresh, x), expected):
            assert torch.equal(a, b)


def test_what_merging_cannot_give_is_a_sentence() -> None:
    model = hugging_face()
    mmtokmerge.apply(model, "hq")
    with pytest.raises(InputError, match="output_attentions=True cannot be given"):
        model(torch.randn(1, 3, 64, 64), output_attentions=True)
    with pytest.raises(InputError, match="'hqq' is no preset"):
        mmtokmerge.apply(model, "hqq")
    with pytest.raises(TypeError, match=r"knows no encoder in a Linear; known are: SegFormer"):
        mmtokmerge.apply(nn.Linear(2, 2))


def test_hooks_of_others_go_on_being_called() -> None:
    model = hugging_face()
    layer = first_layer(model, 1)
    calls: list[str] = []
    layer.attention.register_forward_hook(lambda *_: calls.append("before"))
    report = mmtokmerge.apply(model, "hq")
    layer.attention.register_forward_hook(lambda *_: calls.append("after"))
    assert report.left_alone == []
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
        mmtokmerge.remove(model)
        model(torch.randn(1, 3, 64, 64))
    assert calls == ["before", "after"] * 2


def test_a_forward_of_somebody_is_left_alone_and_said() -> None:
    model = hugging_face()
    attention = first_layer(model, 1).attention
    attention.forward = lambda *_: (torch.zeros(1),)
    report = mmtokmerge.apply(model, "hq")
    path = next(name for name, module in model.named_modules() if module is attention)
    assert report.left_alone == [(path, "somebody replaced its forward")]
    assert path in str(report) and attention.forward(1) == (torch.zeros(1),)


def test_the_report_counts_tokens_at_a_size() -> None:
    report = mmtokmerge.apply(SEGFORMERS["mmseg"](), "hq").at(1024, 2048)
    tokens = report.tokens(1024, 2048)
    assert tokens["stage 1"]["queries"] == TokenCount(256 * 512, 256 * 512)
    assert tokens["stage 1"]["keys and values"] == TokenCount(2048, 2048 - int(2048 * 0.6))
    assert tokens["stage 4"]["queries"] == TokenCount(2048, 2048 - int(2048 * 0.8))
    text = str(report)
    assert "1024x2048" in text and "stage 4" in text and "2,048 -> 410 (-80%)" in text
    assert report.pays(1024, 2048) and not report.pays(64, 64)
    assert "too small for merging to pay" in str(report.at(64, 64))


class LowRank(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.up = base, nn.Linear(base.in_features, base.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(x)


def test_adapters_put_in_meanwhile_are_called_and_stay() -> None:
    model = hugging_face()
    mmtokmerge.apply(model, "hq")
    layer = first_layer(model)
    attention, mlp = inner_attention(layer), layer.mlp
    query, fc1 = ("query", "dense1") if hasattr(attention, "query") else ("q_proj", "fc1")
    setattr(attention, query, LowRank(getattr(attention, query)))
    setattr(mlp, fc1, LowRank(getattr(mlp, fc1)))
    run(model, torch.randn(1, 3, 64, 64))[0].sum().backward()
    assert getattr(attention, query).up.weight.grad is not None
    assert getattr(mlp, fc1).up.weight.grad is not None
    mmtokmerge.remove(model)
    layer = first_layer(model)
    assert isinstance(getattr(layer.mlp, fc1), LowRank)


def test_nothing_of_mm_is_imported() -> None:
    pytest.importorskip("transformers")
    code = (
        "import sys\n"
        "for name in ("
        "'mmengine', 'mmcv', 'mmseg', 'mmpose', 'mmpretrain'): sys.modules[name] = None\n"
        "import torch, transformers, mmtokmerge\n"
        "config = transformers.SegformerConfig(depths=[1, 1, 1, 1])\n"
        "model = transformers.SegformerModel(config).eval()\n"
        "print(mmtokmerge.apply(model, 'fast'))\n"
        "print(model(torch.zeros(1, 3, 64, 64)).last_hidden_state.shape)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert "torch.Size([1, 256, 2, 2])" in run.stdout, run.stderr[-600:]
