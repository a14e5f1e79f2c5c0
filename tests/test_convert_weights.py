"""Published weights, converted, give the published model's results."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch
from engine_helpers import ROOT, run_tool
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmseg.models.backbones import MixVisionTransformer
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.merging.segformer.arch import MIT_ARCHS
from mmtokmerge.models import MiTPlusPlus
from mmtokmerge.models.weights import FORMATS, convert_segformer, rename
from mmtokmerge.models.weights.fit import fit_weights
from mmtokmerge.models.weights.safe_load import load_weights_only

SIZES = [(64, 64), (97, 161)]


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight and statistic a value of its own, so that no swap goes unseen."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif name.endswith("num_batches_tracked"):
                value.fill_(3)
            elif value.ndim > 1:
                value.normal_(std=value[0].numel() ** -0.5)
            else:
                value.normal_(mean=float(name.endswith("norm.weight")), std=0.3)
    return model.eval()


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def build(model: dict) -> nn.Module:
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(model)


def segmentor(name: str, options: dict | None = None) -> nn.Module:
    """The model of a config, BatchNorm on one device, no weights downloaded."""
    cfg = Config.fromfile(ROOT / f"configs/segformerpp/{name}.py")
    cfg.model.backbone.pop("init_cfg", None)
    cfg.model.decode_head.norm_cfg = dict(type="BN")
    cfg.merge_from_dict(options or {})
    return build(cfg.model).eval()


def stock_segmentor(name: str) -> nn.Module:
    """mmseg's own SegFormer in the sizes of a config."""
    cfg = Config.fromfile(ROOT / f"configs/segformerpp/{name}.py").model
    arch = MIT_ARCHS[cfg.backbone.arch]
    cfg.backbone = dict(
        type="MixVisionTransformer",
        embed_dims=arch.embed_dims,
        num_layers=list(arch.num_layers),
        num_heads=list(arch.num_heads),
    )
    cfg.decode_head.update(type="SegformerHead", norm_cfg=dict(type="BN"))
    return build(cfg)


def hugging_face(kind: str, **settings: object) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return randomise(getattr(transformers, kind)(transformers.SegformerConfig(**settings)))


def to_nvlabs(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our segmentor's weights under NVlabs's names, written without the table under test."""
    layer = r"backbone\.layers\.(\d)\.1\.(\d+)"
    names = [
        (r"backbone\.layers\.(\d)\.0\.projection", "backbone.patch_embed{}.proj"),
        (r"backbone\.layers\.(\d)\.0\.norm", "backbone.patch_embed{}.norm"),
        (
            r"backbone\.layers\.(\d)\.1\.(\d+)\.attn\.attn\.out_proj",
            "backbone.block{}.{}.attn.proj",
        ),
        (layer + r"\.ffn\.layers\.0", "backbone.block{}.{}.mlp.fc1"),
        (
            r"backbone\.layers\.(\d)\.1\.(\d+)\.ffn\.layers\.1",
            "backbone.block{}.{}.mlp.dwconv.dwconv",
        ),
        (layer + r"\.ffn\.layers\.4", "backbone.block{}.{}.mlp.fc2"),
        (layer, "backbone.block{}.{}"),
        (r"backbone\.layers\.(\d)\.2", "backbone.norm{}"),
        (r"decode_head\.convs\.(\d)\.conv", "decode_head.linear_c{}.proj"),
        (r"decode_head\.fusion_conv", "decode_head.linear_fuse"),
        (r"decode_head\.conv_seg", "decode_head.linear_pred"),
    ]
    result = {}
    for key, value in weights.items():
        start, new = next((m, new) for old, new in names if (m := re.match(old, key)))
        groups = list(start.groups())
        if groups:
            groups[0] = int(groups[0]) + 1
        name = new.format(*groups) + key[start.end() :]
        if "in_proj_" in name:
            rows = len(value) // 3
            result[name.replace("attn.attn.in_proj_", "attn.q.")] = value[:rows]
            result[name.replace("attn.attn.in_proj_", "attn.kv.")] = value[rows:]
        elif name.endswith("linear_fuse.conv.weight"):
            result[name] = torch.cat(value.chunk(4, dim=1)[::-1], dim=1)
        else:
            linear = re.search(r"fc\d\.weight|linear_c\d\.proj\.weight", name)
            result[name] = value[:, :, 0, 0] if linear else value
    return result


@pytest.fixture(scope="module")
def ours() -> dict[str, Tensor]:
    """Random weights of B0 with the published head."""
    options = {"model.decode_head.projection": "linear"}
    return dict(randomise(segmentor("b0_ade20k_none", options)).state_dict())


@pytest.mark.parametrize("size", SIZES)
def test_hugging_face_encoder_gives_the_same_features(size: tuple[int, int]) -> None:
    theirs = hugging_face("SegformerModel")
    converted = convert_segformer(theirs.state_dict())
    assert (converted.arch, converted.head, converted.dropped) == ("b0", None, {})
    assert converted.parameters == sum(value.numel() for value in theirs.parameters())
    model = MiTPlusPlus("b0", norm_cfg=dict(type="LN", eps=converted.norm_eps)).eval()
    model.load_state_dict(converted.state_dict, strict=True)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs(image, output_hidden_states=True).hidden_states
        for features, reference in zip(model(image), expected):
            assert_close(features, reference, 1e-5)


@pytest.mark.parametrize("safe", [True, False])
def test_the_tool_makes_a_segmentor_with_hugging_face_s_logits(tmp_path: Path, safe: bool) -> None:
    theirs = hugging_face("SegformerForSemanticSegmentation", num_labels=7, decoder_hidden_size=48)
    if safe:
        theirs.save_pretrained(tmp_path / "src")
    else:
        (tmp_path / "src").mkdir()
        torch.save(theirs.state_dict(), tmp_path / "src" / "pytorch_model.bin")
    result = run_tool("convert_weights.py", tmp_path / "src", tmp_path / "new" / "dst.pth")
    assert result.status == 0, result.output
    options = dict(re.findall(r"(model\.[\w.]+)=(\S+)", result.output))
    assert options.keys() == {
        *(f"model.decode_head.{key}" for key in ("projection", "channels", "num_classes")),
        *(f"model.backbone.norm_cfg.{key}" for key in ("type", "eps")),
    }
    values = {k: v if v in ("linear", "LN") else float(v) for k, v in options.items()}
    values = {k: int(v) if isinstance(v, float) and v >= 1 else v for k, v in values.items()}
    model = segmentor("b0_ade20k_none", values)
    fit_weights(model, load_weights_only(str(tmp_path / "new" / "dst.pth")), "dst.pth")
    load_checkpoint(model, str(tmp_path / "new" / "dst.pth"), strict=True)
    for size in SIZES:
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert_close(model(image, mode="tensor"), theirs(image).logits, 1e-4)


def test_an_image_classifier_is_left_out_and_said_so() -> None:
    theirs = hugging_face("SegformerForImageClassification").half()
    converted = convert_segformer(theirs.state_dict())
    assert converted.dropped == {"ImageNet classifier": ["classifier.weight", "classifier.bias"]}
    assert {value.dtype for value in converted.state_dict.values()} == {torch.float32}


def test_nvlabs_segmentor_goes_round(ours: dict[str, Tensor]) -> None:
    theirs = to_nvlabs(ours)
    theirs["decode_head.conv_seg.weight"] = torch.zeros(150, 128, 1, 1)
    converted = convert_segformer(theirs)
    assert converted.source == FORMATS["nvlabs"].title
    assert converted.head == dict(
        in_channels=[32, 64, 160, 256], channels=256, num_classes=150, projection="linear"
    )
    assert list(converted.dropped.values()) == [["decode_head.conv_seg.weight"]]
    assert converted.state_dict.keys() == ours.keys()
    for key, value in ours.items():
        assert torch.equal(converted.state_dict[key], value), key


def test_nvlabs_pretrained_encoder_loads_through_init_cfg(
    tmp_path: Path, ours: dict[str, Tensor]
) -> None:
    theirs = {
        key.removeprefix("backbone."): value
        for key, value in to_nvlabs(ours).items()
        if key.startswith("backbone.")
    }
    torch.save({**theirs, "head.weight": torch.ones(1000, 256)}, tmp_path / "mit_b0.pth")
    result = run_tool("convert_weights.py", tmp_path / "mit_b0.pth", tmp_path / "dst.pth")
    assert result.status == 0, result.output
    assert "ImageNet classifier: 1 keys" in result.output
    assert "arch 'b0'" in result.output
    model = MiTPlusPlus(
        "b0", init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "dst.pth"))
    )
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, ours[f"backbone.{key}"]), key


@pytest.mark.parametrize("arch", MIT_ARCHS)
def test_the_tables_cover_every_size(arch: str) -> None:
    with torch.device("meta"):
        wanted = MiTPlusPlus(arch).state_dict(prefix="backbone.")
    found = rename(to_nvlabs(wanted), FORMATS["nvlabs"]).weights
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in wanted.items()}


def test_mmseg_checkpoint_loads_as_it_is(tmp_path: Path) -> None:
    stock = randomise(stock_segmentor("b0_cityscapes_none"))
    published = {"meta": {"CLASSES": ("road", "car")}, "state_dict": stock.state_dict()}
    torch.save(published, tmp_path / "src.pth")
    model = segmentor("b0_cityscapes_none")
    fit_weights(model, published, "src.pth")
    load_checkpoint(model, str(tmp_path / "src.pth"), strict=True)
    image = torch.randn(1, 3, 97, 161)
    with torch.no_grad():
        assert_close(model(image, mode="tensor"), stock(image, mode="tensor"), 1e-4)

    result = run_tool(
        "convert_weights.py", tmp_path / "src.pth", tmp_path / "dst.pth", "--to", "backbone"
    )
    assert result.status == 0, result.output
    assert re.search(r"decode head: \d+ keys", result.output)
    written = load_weights_only(str(tmp_path / "dst.pth"))
    assert written["meta"]["CLASSES"] == ("road", "car")
    for key, value in stock.backbone.state_dict().items():
        assert torch.equal(written["state_dict"].pop(key), value), key
    assert written["state_dict"] == {}


@pytest.mark.parametrize("name", [f"b{size}_cityscapes_hq" for size in range(1, 6)])
def test_mmseg_s_keys_and_shapes_are_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # mmseg reads drop path rates off a tensor, which the meta device has no values for
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        stock, model = stock_segmentor(name), segmentor(name)
    assert isinstance(stock.backbone, MixVisionTransformer)
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in stock.state_dict().items()
    }


def test_an_old_checkpoint_may_lack_the_batch_counter(ours: dict[str, Tensor]) -> None:
    old = {key: value for key, value in ours.items() if "num_batches" not in key}
    counter = "decode_head.fusion_conv.bn.num_batches_tracked"
    assert convert_segformer(old).state_dict[counter] == 0


@pytest.mark.parametrize(
    ("change", "settings", "sentence"),
    [
        (
            lambda w: w.update({f"backbone.extra{i}": torch.ones(1) for i in range(7)}),
            {},
            r"7 of \d+ keys are not known from NVlabs's SegFormer: backbone.extra0, .*"
            r"backbone.extra4 and 2 more$",
        ),
        (
            lambda w: w.pop("backbone.norm3.bias"),
            {},
            r"do not make a whole SegFormer: backbone.layers.2.2.bias is missing$",
        ),
        (
            lambda w: w.pop("backbone.block2.1.attn.q.weight"),
            {},
            r"backbone.layers.1.1.1.attn.attn.in_proj_weight is \(128, 64\) where .* \(192, 64\)$",
        ),
        (
            lambda w: w.update({"backbone.block1.0.attn.q.weight": torch.ones(32, 31)}),
            {},
            r"the parts of '\S+in_proj_weight' do not fit together: \(32, 31\), \(64, 32\)",
        ),
        (
            lambda w: w.update({"patch_embed1.proj.bias": torch.ones(32)}),
            {},
            r"'patch_embed1.proj.bias' and another key both stand for",
        ),
        (
            lambda w: w.update({"backbone.block1.2.norm1.bias": torch.ones(32)}),
            {},
            r"an encoder of width 32 with \(3, 2, 2, 2\) layers is none of SegFormer's",
        ),
        (
            lambda w: w.update({"decode_head.linear_fuse.conv.weight": torch.ones(256, 7, 1, 1)}),
            {},
            r"a fusion weight of shape \(256, 7, 1, 1\) does not take four scales",
        ),
        (
            lambda w: w.pop("decode_head.linear_pred.weight"),
            {},
            r"the decode head is not SegFormer's",
        ),
        (
            lambda w: [w.pop(key) for key in list(w) if key.startswith("decode_head")],
            {"to": "segmentor"},
            r"there is no decode head",
        ),
        (lambda w: None, {"source": "hf"}, r"keys are not known from Hugging Face's SegFormer"),
        (
            lambda w: w.pop("backbone.patch_embed1.proj.weight"),
            {},
            r"the keys \(backbone\S+, .* more\) are of no known source, known are: NVlabs's",
        ),
        (
            lambda w: w.pop("backbone.patch_embed1.proj.weight"),
            {"source": "nvlabs"},
            r"there is no encoder",
        ),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(
    ours: dict[str, Tensor], change, settings: dict, sentence: str
) -> None:
    weights = to_nvlabs(ours)
    change(weights)
    with pytest.raises(InputError, match=sentence):
        convert_segformer(weights, **settings)


@pytest.mark.parametrize("settings", [{"source": "timm"}, {"to": "head"}])
def test_unknown_settings_are_refused(ours: dict[str, Tensor], settings: dict) -> None:
    with pytest.raises(ValueError, match="is unknown, allowed are"):
        convert_segformer(ours, **settings)


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_the_tool_refuses_bad_files_and_keeps_dst(tmp_path: Path, ours: dict[str, Tensor]) -> None:
    dst, trace = tmp_path / "dst.pth", tmp_path / "attacked"
    dst.write_bytes(b"earlier weights")
    torch.save({**to_nvlabs(ours), "extra": Attack(trace)}, tmp_path / "attack.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save({**to_nvlabs(ours), "module.other": torch.ones(1)}, tmp_path / "other.pth")
    torch.save({"a": torch.ones(1), "module.a": torch.ones(1)}, tmp_path / "twice.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 7)
    (tmp_path / "folder").mkdir()
    sentences = {
        "attack.pth": "is refused, since loading it would run code",
        "empty.pth": "empty.pth holds no state dict: 'epoch' is of type int, not a tensor.",
        "other.pth": "other.pth: 1 of .* keys are not known from NVlabs's SegFormer: other.",
        "twice.pth": "twice.pth holds some weights twice",
        "cut.safetensors": "is cut off or is not a safetensors file.",
        "folder": "folder holds neither model.safetensors nor pytorch_model.bin.",
        "none.safetensors": "There is no checkpoint at .*none.safetensors",
        "none.pth": "There is no checkpoint at .*none.pth",
        "dst.pth": "DST is SRC, .*dst.pth: name another file",
    }
    for name, sentence in sentences.items():
        result = run_tool("convert_weights.py", tmp_path / name, dst)
        assert result.status == 1, result.output
        assert re.search(sentence, result.error), result.output
    assert dst.read_bytes() == b"earlier weights"
    assert not trace.exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []

    torch.save(to_nvlabs(ours), tmp_path / "good.pth")
    result = run_tool("convert_weights.py", tmp_path / "good.pth", tmp_path / "folder")
    assert result.error.startswith("error: DST is a folder")


def test_help_teaches_by_example() -> None:
    result = run_tool("convert_weights.py", "--help")
    assert result.status == 0
    for example in ("mit_b2.pth", "segformer-b0-finetuned", "--to backbone", "init_cfg.checkpoint"):
        assert example in result.output
