"""Exported files: equal to their model at every size they claim, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnxruntime")

import mmtokmerge
from mmtokmerge.deploy import Sizes, export, load_exported
from mmtokmerge.deploy.export import FORMATS
from mmtokmerge.errors import InputError
from mmtokmerge.merging import bipartite_matching
from mmtokmerge.merging.grid import same_share, share_of
from mmtokmerge.merging.segformer.presets import PRESETS

FEW = Sizes(largest=512)


def own(merging: Any = "none", **settings: Any) -> nn.Module:
    models = pytest.importorskip("mmtokmerge.models")
    torch.manual_seed(0)
    arch = dict(embed_dims=8, num_layers=(1, 1, 1, 1))
    return models.MiTPlusPlus(arch, merging=merging, **settings).eval()


def segmentor(**backbone: Any) -> nn.Module:
    pytest.importorskip("mmtokmerge.models")
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from mmtokmerge.models.whole_network import WholeNetwork

    init_default_scope("mmseg")
    arch = dict(embed_dims=8, num_layers=(1, 1, 1, 1))
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type="EncoderDecoder",
            data_preprocessor=dict(
                type="SegDataPreProcessor", mean=[120.0, 110, 100], std=[60.0, 50, 40]
            ),
            backbone=dict(type="mmtokmerge.MiTPlusPlus", arch=arch, **backbone),
            decode_head=dict(
                type="mmtokmerge.SegformerHead",
                in_channels=[8, 16, 40, 64],
                in_index=[0, 1, 2, 3],
                channels=16,
                num_classes=5,
                norm_cfg=dict(type="BN"),
            ),
        )
    )
    return WholeNetwork(model).eval()


def test_one_file_takes_every_size_and_batch(tmp_path: Path) -> None:
    network = segmentor(merging="hq")
    report = export(network, torch.randn(1, 3, 300, 301), tmp_path / "m.onnx", sizes=FEW)
    assert report.worst < 1e-4 and len(report.agreements) == 3
    exported = load_exported(report.path)
    for shape in [(1, 3, 256, 512), (5, 3, 321, 257), (2, 3, 511, 400)]:
        x = torch.randn(shape)
        (found,) = exported(x)
        with torch.no_grad():
            torch.testing.assert_close(found, network(x), atol=1e-4, rtol=1e-4)
    assert exported.metadata["range"] == [256, 512, 64]
    for wrong in [(1, 3, 255, 300), (1, 3, 300, 513), (65, 3, 256, 256)]:
        with pytest.raises(InputError, match="takes batches of 1 to 64 images of 256 to 512"):
            exported(torch.zeros(wrong))


def test_pooled_queries_merged_keys_and_every_option_in_one(tmp_path: Path) -> None:
    keys = dict(r_kv=0.8, kv_stride=4, proportional=True, destination="centre")
    pooled = dict(q_mode="n2d", q_stride=2)
    queries = dict(r_q=0.9, q_stride=4)
    network = own([{**keys, **pooled}, pooled, dict(kv_mode="n1d", kv_stride=3), queries])
    report = export(network, torch.randn(1, 3, 320, 384), tmp_path / "m.pt2", sizes=FEW)
    assert report.worst < 1e-4


class Merge(nn.Module):
    """Thousands of tokens into hundreds of groups, as stage 3 has them at 1024x1024."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = x.flatten(2).transpose(1, 2)
        assignment = bipartite_matching(tokens, (64, 64), rate=0.8, stride=(4, 4))
        weights = 1 + tokens[..., 0].abs()
        return assignment.merge(tokens), assignment.merge(tokens, weights)


def test_threads_of_a_runtime_lose_no_addition(tmp_path: Path) -> None:
    x = torch.randn(1, 160, 64, 64)
    report = export(Merge(), x, tmp_path / "m.onnx", sizes=Sizes(static=True))
    exported = load_exported(report.path, threads=4)
    expected = Merge()(x)
    for _ in range(8):
        for a, b in zip(exported(x), expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_file_for_one_size(tmp_path: Path) -> None:
    network = own([dict(q_mode="n2d", q_stride=2, unmerge="bilinear")] * 4)
    x = torch.randn(2, 3, 64, 96)
    report = export(network, x, tmp_path / "m.onnx", sizes=Sizes(static=True))
    assert report.worst < 1e-4
    with pytest.raises(InputError, match=r"takes \[2, 3, 64, 96\] alone"):
        load_exported(report.path)(torch.randn(1, 3, 64, 96))


@pytest.mark.parametrize("made", ["onnx", "openvino"])
def test_a_vit_that_merges_by_rate(made: str, tmp_path: Path) -> None:
    models = pytest.importorskip("mmtokmerge.models")
    torch.manual_seed(0)
    network = models.VisionTransformer(
        dict(embed_dims=32, num_layers=3, num_heads=2),
        img_size=64,
        patch_size=8,
        reducers=[
            dict(type="mmtokmerge.LocalMergingByRate", layer=1, keep=0.5),
            dict(type="mmtokmerge.GlobalMergingByRate", layer=2, keep=1 / 3),
            dict(type="mmtokmerge.ToMe", layer=3, num_merged=3),
        ],
        proportional=True,
    ).eval()
    x = torch.randn(2, 3, 64, 96)
    report = export(network, x, tmp_path / f"m{FORMATS[made]}", sizes=Sizes(static=True))
    assert report.worst < 1e-4


def whole(name: str) -> nn.Module:
    pytest.importorskip("mmtokmerge.models")
    from mmengine.registry import MODELS, init_default_scope

    from mmtokmerge.engine.config import load_config
    from mmtokmerge.engine.launch import import_scope
    from mmtokmerge.models.whole_network import WholeNetwork

    cfg = load_config(name)
    import_scope(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return WholeNetwork(model).eval()


@pytest.mark.parametrize("name", ["b0_mouse_hq", "segmenter_vit-t_camvid_none"])
def test_whole_networks_for_one_size(name: str, tmp_path: Path) -> None:
    if "mouse" in name:
        pytest.importorskip("mmpose")
    x = torch.randn(1, 3, 64, 96)
    report = export(whole(name), x, tmp_path / "m.pt2", sizes=Sizes(static=True))
    assert report.worst < 1e-4


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("segmenter_vit-t_camvid_cts", "sharing.policy.checkpoint is None"),
        ("segmenter_vit-t_camvid_random", "by RandomPolicy cannot be exported"),
        ("segmenter_vit-t_camvid_oracle", "by OraclePolicy cannot be exported"),
        ("segmenter_vit-t_camvid_algm", "depends on what an image shows|by a threshold"),
    ],
)
def test_whole_networks_that_cannot_be_exported(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        export(whole(name), torch.randn(1, 3, 64, 96), tmp_path / "m.pt2", sizes=Sizes(static=True))


def test_models_of_other_packages(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(depths=[1, 1, 1, 1], num_labels=5)
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    mmtokmerge.apply(model, "hq")
    report = export(
        model, torch.randn(1, 3, 128, 160), tmp_path / "m.onnx", sizes=Sizes(static=True)
    )
    assert report.worst < 1e-4
    timm = pytest.importorskip("timm")
    vit = timm.create_model("vit_tiny_patch16_224", depth=3, img_size=128, num_classes=7).eval()
    mmtokmerge.apply(vit, "algm", keep=(0.5, 0.4), layers=(1, 2))
    report = export(vit, torch.randn(1, 3, 128, 128), tmp_path / "v.onnx", sizes=Sizes(static=True))
    assert report.worst < 1e-4


def test_a_threshold_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    models = pytest.importorskip("mmtokmerge.models")
    network = models.VisionTransformer(
        dict(embed_dims=32, num_layers=2, num_heads=2),
        img_size=64,
        reducers=[dict(type="mmtokmerge.GlobalBipartiteMerging", layer=1, threshold=0.5)],
    )
    with pytest.raises(InputError, match="by a threshold"):
        export(network, torch.randn(1, 3, 64, 64), tmp_path / "m.onnx", sizes=Sizes(static=True))
    assert list(tmp_path.iterdir()) == []


class Wrong(nn.Module):
    """Another function when it is recorded: a planted fault."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.compiler.is_compiling() else x * 3


class ConstantBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1).sum(1)


@pytest.mark.parametrize("made", FORMATS)
def test_a_file_that_differs_is_not_left_behind(made: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was not written: the exported file differs"):
        export(Wrong(), torch.randn(1, 3, 256, 256), tmp_path / f"m{FORMATS[made]}", sizes=FEW)
    assert list(tmp_path.iterdir()) == []


class WithNaN(nn.Module):
    """Two outputs; the second has a number where the recorded one has none."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.nan if torch.compiler.is_compiling() else 1.0
        return x * 2, x * scale


def test_numbers_that_are_none_are_a_difference(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="differs from the model by inf"):
        export(WithNaN(), torch.randn(1, 3, 256, 256), tmp_path / "m.pt2", sizes=FEW)
    assert list(tmp_path.iterdir()) == []


def test_the_ends_of_a_range_and_what_is_no_number(tmp_path: Path) -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return dict(scale=2, mask=x > 0, mean=x.mean((2, 3)))

    x = torch.randn(1, 3, 256, 257)
    for sizes in (Sizes(smallest=256, largest=257), Sizes(batches=1, largest=300)):
        report = export(Several(), x, tmp_path / "m.onnx", sizes=sizes)
        assert report.worst < 1e-5
    modes = nn.Sequential(nn.Dropout(), nn.Identity()).train()
    modes[1].eval()
    export(modes, x, tmp_path / "n.pt2", sizes=Sizes(static=True))
    assert [each.training for each in modes] == [True, False]


def test_a_constant_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ConstantBatch cannot be exported"):
        export(ConstantBatch(), torch.randn(2, 3, 256, 256), tmp_path / "m.onnx", sizes=FEW)
    assert list(tmp_path.iterdir()) == []


def test_rates_in_whole_numbers() -> None:
    for stage in (stage for preset in PRESETS.values() for stage in preset):
        for key in ("r_q", "r_kv"):
            if key in stage:
                assert same_share(stage[key], 10**6)
    assert share_of(100, 0.29) == 28  # as int(100 * 0.29) says
    assert not same_share(0.29, 100)


def test_a_rate_that_rounds_otherwise_is_refused(tmp_path: Path) -> None:
    network = own([dict(r_kv=0.29)] + [{}] * 3)
    with pytest.raises(InputError, match=r"a rate of 0\.29 rounds differently"):
        export(network, torch.randn(1, 3, 256, 256), tmp_path / "m.onnx", sizes=FEW)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("m.bin", {}, "a file to export to ends with .onnx, .xml, .pt2"),
        ("m.onnx", dict(format="openvino"), "a file of format openvino ends with .xml"),
        ("m.onnx", dict(precision="fp16"), "precision='fp16' is for OpenVINO"),
        ("m.onnx", dict(precision="int4"), "precision='int4' is unknown"),
        ("m.onnx", dict(sizes=Sizes(smallest=300)), "is not of the sizes to export"),
        ("m.onnx", dict(metadata=dict(shape=1)), "shape is written by the export itself"),
        ("m.onnx", dict(metadata=dict(x={1})), "metadata must be JSON values"),
    ],
)
def test_wrong_settings(name: str, options: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        export(nn.Identity(), torch.randn(1, 3, 256, 256), tmp_path / name, **options)


def test_wrong_sizes_and_files(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match="is a folder: name a file"):
        export(nn.Identity(), torch.randn(1, 3, 256, 256), tmp_path / "folder.onnx")
    with pytest.raises(InputError, match=r"must be in fp32 to be exported, it has torch\.float16"):
        export(nn.Linear(2, 2).half(), torch.randn(1, 3, 256, 256), tmp_path / "h.onnx")
    with pytest.raises(InputError, match=r"must be images \(B, C, H, W\) in fp32"):
        export(nn.Identity(), torch.randn(3, 256, 256), tmp_path / "h.onnx")
    with pytest.raises(InputError, match="begins at 256 pixels or more"):
        Sizes(smallest=128)
    with pytest.raises(InputError, match="There is no exported file"):
        load_exported(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_text("<html>")
    with pytest.raises(InputError, match=r"m\.onnx cannot be loaded"):
        load_exported(tmp_path / "m.onnx")
    (tmp_path / "m.pth").write_text("")
    with pytest.raises(InputError, match=r"ends with \.onnx, \.xml or \.pt2"):
        load_exported(tmp_path / "m.pth")
    (tmp_path / "n.onnx").write_text("")
    with pytest.raises(InputError, match="compute='bf16' is for OpenVINO"):
        load_exported(tmp_path / "n.onnx", compute="bf16")


def test_half_weights_and_bf16_of_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    network = segmentor(merging="n2d")  # no match that rounding could change
    x = torch.randn(1, 3, 256, 320)
    halves = export(network, x, tmp_path / "m.xml", sizes=FEW, precision="fp16")
    assert 1e-6 < halves.worst < 3e-2
    parameters = sum(p.numel() for p in network.parameters())
    assert halves.path.with_suffix(".bin").stat().st_size < 3 * parameters
    found, expected = (load_exported(halves.path, compute=c)(x)[0] for c in ("bf16", "fp32"))
    assert 0 < float((found - expected).abs().mean() / expected.abs().mean()) < 0.5


def test_one_channel_for_two_classes_and_images_of_another_order() -> None:
    network: Any = segmentor()
    network.threshold = 0.3
    logits = torch.tensor([-2.0, -0.5, 3.0]).view(1, 1, 1, 3)  # 0.12, 0.38, 0.95
    assert network.labels_of(logits).tolist() == [[[0, 1, 1]]]
    network.threshold = None
    assert network.labels_of(logits).tolist() == [[[0, 0, 1]]]
    assert network.labels_of(torch.cat([logits, -logits], 1)).tolist() == [[[1, 1, 0]]]
    models = pytest.importorskip("mmtokmerge.models.whole_network")
    mmseg = pytest.importorskip("mmseg.models")
    settings = dict(mean=[1.0, 2, 3], std=[4.0, 5, 6])
    for kept in (False, True):
        preprocessor = mmseg.SegDataPreProcessor(bgr_to_rgb=kept, **settings)
        assert models.converts_channels(preprocessor) is kept


def test_the_tools_export_and_test_a_file(tmp_path: Path) -> None:
    from engine_helpers import run_tool

    root = Path(__file__).resolve().parents[2]
    weights = root / "mmtokmerge" / "assets" / "b0_streets.pth"
    config = "configs/segformerpp/b0_demo_fast.py"
    out = tmp_path / "fast.onnx"
    result = run_tool("export.py", config, str(weights), "--out", str(out), "--range", 256, 1024)
    assert result.status == 0, result.output
    assert "labels agree on 100.000%" in result.output
    told = load_exported(out).metadata
    assert (told["task"], told["merging"], told["config"]) == (
        *("segmentation", "fast", "b0_demo_fast"),
    )
    assert len(told["classes"]) == told["num_classes"] == 19 and len(told["palette"]) == 19
    scenes = dict(
        type="mmtokmerge.EndlessStreets",
        num_scenes=2,
        sizes=[[512, 1024]],
        pipeline=[dict(type="PackSegInputs")],
    )
    mine = tmp_path / "mine.py"
    mine.write_text(
        f"_base_ = [{str(root / config)!r}]\n"
        f"test_dataloader = dict(num_workers=0, dataset=dict(_delete_=True, **{scenes!r}))\n"
    )
    found = []
    for model in (out, weights):
        work = tmp_path / model.stem
        result = run_tool("test.py", str(mine), str(model), "--work-dir", str(work))
        assert result.status == 0, result.output
        (log,) = work.glob("*/*.json")
        found.append(json.loads(log.read_text().splitlines()[-1]))
    assert found[0]["mIoU"] == pytest.approx(found[1]["mIoU"], abs=0.011)
    wrong = run_tool("export.py", config, str(weights), "--check", 0)
    assert wrong.error == "error: --check 0 must be at least 1."


INT8 = {".xml": "nncf", ".onnx": "onnxruntime"}


def smooth(count: int, height: int = 256, width: int = 288) -> list[Tensor]:
    """Images that look like something: smooth noise."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, 12, 12, generator=generator)
    fine = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return list(fine.split(1))


@pytest.mark.parametrize(("merging", "suffix"), [("none", ".onnx"), ("hq", ".xml")])
def test_int8_is_near_the_model_and_keeps_its_choices_in_floats(
    merging: str, suffix: str, tmp_path: Path
) -> None:
    import onnx

    pytest.importorskip(INT8[suffix])
    network = segmentor(merging=merging)
    images = smooth(2)
    report = export(
        network,
        images[0],
        tmp_path / f"m{suffix}",
        sizes=FEW if suffix == ".onnx" else Sizes(static=True),
        precision="int8",
        calibration=images,
    )
    assert report.worst < 1e-4  # of the file in floats
    assert report.error is not None and 1e-4 < report.error < 0.3
    assert "in int8, on the calibration images: error" in str(report)
    exported = load_exported(report.path)
    assert exported.metadata["precision"] == "int8"
    others = smooth(1, 300, 400) if suffix == ".onnx" else []
    for x in [*smooth(1), *others]:
        (found,) = exported(x)
        with torch.no_grad():
            expected = network(x)
        error = (found - expected).square().mean().sqrt() / expected.std()
        assert error < 0.3
    if suffix == ".onnx":
        graph = onnx.load(str(report.path)).graph
        makers = {name: node for node in graph.node for name in node.output}
        quantized = [
            node
            for node in graph.node
            if node.op_type in ("MatMul", "Conv")
            and makers.get(node.input[0]) is not None
            and makers[node.input[0]].op_type == "DequantizeLinear"
        ]
        assert len(quantized) > 10
        deep = [n for n in graph.node if any(a.name == "group" and a.i > 1 for a in n.attribute)]
        assert deep and not any(node in quantized for node in deep)
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {f"m{suffix}", "m.bin", "m.onnx.data"}, left


def test_the_products_that_choose_are_found(tmp_path: Path) -> None:
    """One similarity for each matching, however the graph names it, and every depthwise layer."""
    import onnx

    from mmtokmerge.deploy.quantize import in_floating_point

    static = Sizes(static=True)
    for merging, matchings, depthwise in (("n2d", 0, 4), ("plus", 4, 4)):
        path = export(own(merging), torch.randn(1, 3, 96, 128), tmp_path / "m.onnx", sizes=static)
        graph = onnx.load(str(path.path)).graph
        names = in_floating_point(graph)
        kinds = [node.op_type for node in graph.node if node.name in names]
        assert kinds.count("Conv") == depthwise
        assert len(kinds) - depthwise == matchings, (merging, names)


def test_int8_that_differs_too_much_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    module = importlib.import_module("mmtokmerge.deploy.export")
    monkeypatch.setattr(module, "worst_error", lambda *args: 0.8)
    with pytest.raises(InputError, match="in int8 it differs from the model by 80% of its output"):
        export(
            own(),
            smooth(1)[0],
            tmp_path / "m.onnx",
            sizes=Sizes(static=True),
            precision="int8",
            calibration=smooth(2),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "name", "sentence"),
    [
        (dict(precision="int8"), "m.onnx", "go together"),
        (dict(calibration=[torch.zeros(1, 3, 256, 256)]), "m.onnx", "go together"),
        (dict(precision="int8", calibration=[]), "m.onnx", "holds no images"),
        (
            dict(
                precision="int8",
                calibration=[torch.zeros(1, 3, 256, 300)],
                sizes=Sizes(static=True),
            ),
            "m.onnx",
            "but the file is to take",
        ),
        (
            dict(precision="int8", calibration=[torch.zeros(1, 3, 64, 300)]),
            "m.onnx",
            "is not of the sizes to export",
        ),
        (
            dict(precision="int8", calibration=[torch.zeros(1, 3, 256, 256)]),
            "m.pt2",
            "is for OpenVINO",
        ),
    ],
)
def test_int8_without_what_it_needs_is_a_sentence(
    settings: dict[str, Any], name: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        export(own(), torch.zeros(1, 3, 256, 256), tmp_path / name, **settings)


@pytest.mark.parametrize("static", [True, False])
def test_a_graph_without_a_scatter_that_adds(static: bool, tmp_path: Path) -> None:
    """Groups are summed by a product: the same numbers, standard operators alone."""
    onnx = pytest.importorskip("onnx")
    models = pytest.importorskip("mmtokmerge.models")
    arch = dict(embed_dims=16, num_layers=(1, 1, 1, 1))
    network = models.MiTPlusPlus(arch, merging="hq", proportional=True).eval()
    images = torch.randn(1, 3, 256, 288)
    found = {}
    for scatter in (True, False):
        path = tmp_path / f"{scatter}.onnx"
        report = export(network, images, path, sizes=Sizes(static=static), scatter=scatter)
        assert report.worst < 1e-4
        nodes = onnx.load(str(path)).graph.node
        found[scatter] = {
            attribute.s
            for node in nodes
            if node.op_type.startswith("Scatter")
            for attribute in node.attribute
            if attribute.name == "reduction"
        }
    assert b"add" in found[True] and found[False] <= {b"none"}


def test_what_needs_a_scatter_says_so(tmp_path: Path) -> None:
    models = pytest.importorskip("mmtokmerge.models")
    network = models.VisionTransformer(
        dict(embed_dims=32, num_layers=2, num_heads=2),
        img_size=64,
        reducers=[dict(type="mmtokmerge.ToMe", layer=1, num_merged=2)],
    ).eval()
    with pytest.raises(InputError, match="has no other form here"):
        export(
            network,
            torch.randn(1, 3, 64, 64),
            tmp_path / "m.onnx",
            sizes=Sizes(static=True),
            scatter=False,
        )
    assert not (tmp_path / "m.onnx").exists()
