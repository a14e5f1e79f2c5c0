"""Wrong settings and files: each ends in one sentence that names the key, and none is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import ROOT
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmtokmerge.engine.config import load_config
from mmtokmerge.engine.config_check import check_names
from mmtokmerge.engine.launch import import_scope
from mmtokmerge.errors import InputError
from mmtokmerge.models.backbones import BEiT, MiTPlusPlus, VisionTransformer
from mmtokmerge.models.weights.fit import load_weights
from mmtokmerge.models.weights.safe_load import load_weights_safely
from mmtokmerge.registry import MODELS

NAN, INF = float("nan"), float("inf")
ARCH = dict(embed_dims=16, num_layers=3, num_heads=2)
CLAP, GBM = "mmtokmerge.ConditionalLocalPooling", "mmtokmerge.GlobalBipartiteMerging"


def stages(**stage: Any) -> dict[str, Any]:
    return dict(merging=[stage, {}, {}, {}])


def reducer(kind: str = CLAP, **settings: Any) -> dict[str, Any]:
    return dict(reducers=[dict(dict(type=kind, layer=1, threshold=0.5), **settings)])


def tome(**settings: Any) -> dict[str, Any]:
    return dict(reducers=[dict(dict(type="mmtokmerge.ToMe", layer=1, num_merged=2), **settings)])


def sharing(**settings: Any) -> dict[str, Any]:
    return dict(sharing=dict(dict(policy=dict(type="mmtokmerge.RandomPolicy")), **settings))


# The settings of MiT++, and a word that its sentence must hold.
MIT: list[tuple[dict[str, Any], str]] = [
    (dict(arch="b6"), "b6"),
    (dict(arch=3), "arch"),
    (dict(arch=dict(embed_dims=0, num_layers=(1, 1, 1, 1))), "embed_dims"),
    (dict(arch=dict(a=1)), "arch"),
    (dict(merging="hqq"), "hqq"),
    (dict(merging=None), "merging"),
    (dict(merging=1), "merging"),
    (dict(merging={}), "merging"),
    (dict(merging=[{}, {}, {}]), "four stage dicts"),
    (dict(merging=["hq", {}, {}, {}]), "stage 1"),
    (stages(r_k=0.5), "r_k"),
    (stages(r_q=1.0), "r_q"),
    (stages(r_q=0.8), "r_q"),
    (stages(r_q=-0.1), "r_q"),
    (stages(r_q=NAN), "r_q"),
    (stages(r_q="0.5"), "r_q"),
    (stages(r_q=True), "r_q"),
    (stages(r_kv=0.9, kv_stride=2), "r_kv"),
    (stages(r_q=0.5, q_stride=0), "q_stride"),
    (stages(r_q=0.5, q_stride=2.0), "q_stride"),
    (stages(r_q=0.5, q_stride=(2, 2, 2)), "q_stride"),
    (stages(r_q=0.5, q_mode="bms"), "bms"),
    (stages(q_mode="n2d", r_q=0.5), "r_q"),
    (stages(q_stride=2), "q_stride"),
    (stages(proportional=True), "proportional"),
    (stages(r_kv=0.5, proportional=1), "proportional"),
    (stages(r_kv=0.5, reuse=0), "reuse"),
    (stages(r_kv=0.5, reuse=1.5), "reuse"),
    (stages(r_kv=0.5, destination="middle"), "middle"),
    (stages(r_kv=0.5, match="near"), "near"),
    (stages(q_mode="n2d", unmerge="cubic"), "cubic"),
    (stages(destination="centre"), "destination"),
    (dict(proportional=True), "proportional"),
    (dict(proportional="yes", merging="hq"), "proportional"),
    (dict(downsample=3), "downsample"),
    (dict(downsample=2.0), "downsample"),
    (dict(downsample=True), "downsample"),
    (dict(downsample_mode="nearest"), "downsample_mode"),
    (dict(downsample=2, downsample_mode="bicubic"), "bicubic"),
    (dict(out_indices=(4,)), "out_indices"),
    (dict(out_indices=()), "out_indices"),
    (dict(out_indices=3), "out_indices"),
    (dict(drop_rate=1.0), "drop_rate"),
    (dict(drop_rate=NAN), "drop_rate"),
    (dict(attn_drop_rate=-0.1), "attn_drop_rate"),
    (dict(drop_path_rate=2), "drop_path_rate"),
    (dict(drop_path_rate="0.1"), "drop_path_rate"),
    (dict(with_cp="False"), "with_cp"),
    (dict(fused_attention=1), "fused_attention"),
    (dict(in_channels=0), "in_channels"),
    (dict(in_channels=3.0), "in_channels"),
    (dict(pretrained=5), "pretrained"),
    (dict(pretrained="a.pth", init_cfg=dict(type="Pretrained", checkpoint="b.pth")), "init_cfg"),
]
VIT: list[tuple[dict[str, Any], str]] = [
    (dict(arch="xl"), "xl"),
    (dict(arch=dict(embed_dims=15, num_layers=3, num_heads=2)), "arch"),
    (dict(arch=dict(embed_dims=16, num_layers=0, num_heads=2)), "arch"),
    (dict(arch=dict(embed_dims=16)), "arch"),
    (dict(img_size=0), "img_size"),
    (dict(img_size=8), "img_size"),
    (dict(img_size=(64, 64, 3)), "img_size"),
    (dict(img_size="64"), "img_size"),
    (dict(patch_size=0), "patch_size"),
    (dict(patch_size=16.0), "patch_size"),
    (dict(mlp_ratio=0), "mlp_ratio"),
    (dict(mlp_ratio=-4), "mlp_ratio"),
    (dict(mlp_ratio=NAN), "mlp_ratio"),
    (dict(out_indices=3), "out_indices"),
    (dict(out_indices=[2, 1]), "out_indices"),
    (dict(out_indices=[]), "out_indices"),
    (dict(out_type="maps"), "maps"),
    (dict(drop_rate=1.0), "drop_rate"),
    (dict(drop_rate=NAN), "drop_rate"),
    (dict(attn_drop_rate=1.5), "attn_drop_rate"),
    (dict(drop_path_rate=NAN), "drop_path_rate"),
    (dict(drop_path_rate=-1.0), "drop_path_rate"),
    (dict(with_cp="False"), "with_cp"),
    (dict(with_cls_token=0), "with_cls_token"),
    (dict(with_cls_token=False, with_dist_token=True), "with_dist_token"),
    (dict(final_norm="yes"), "final_norm"),
    (dict(interpolate_mode="area"), "area"),
    (dict(proportional=True), "proportional"),
    (dict(unpadded_attention=True), "unpadded_attention"),
    (dict(unpadded_attention=True, proportional=True, **reducer()), "unpadded_attention"),
    (dict(calibration="x.pth"), "calibration"),
    (dict(reducers="algm"), "reducers"),
    (dict(reducers=dict(type=CLAP)), "reducers"),
    (dict(reducers=[dict(type="mmtokmerge.RandomPolicy")]), "reducers"),
    (reducer(threshold=1.5), "threshold"),
    (reducer(threshold=-1.5), "threshold"),
    (reducer(threshold=NAN), "threshold"),
    (reducer(threshold=INF), "threshold"),
    (reducer(threshold="0.9"), "threshold"),
    (reducer(threshold="automatic"), "threshold"),
    (reducer(threshold=True), "threshold"),
    (reducer(threshold=None), "threshold"),
    (reducer(layer=0), "layer"),
    (reducer(layer=4), "layer"),
    (reducer(layer=[1, 1]), "layer"),
    (reducer(layer=[]), "layer"),
    (reducer(layer="1"), "layer"),
    (reducer(layer=1.0), "layer"),
    (reducer(position="middle"), "middle"),
    (reducer(feature="Z"), "Z"),
    (reducer(operation="median"), "median"),
    (reducer(reduce=1), "reduce"),
    (reducer(count="all"), "all"),
    (reducer(window=0), "window"),
    (reducer(window=1), "window"),
    (reducer(window=(2, 0)), "window"),
    (reducer(window=2.0), "window"),
    (reducer(window=15), "larger than the grid (14, 14)"),
    (reducer(window=(2, 15)), "larger than the grid (14, 14)"),
    (reducer(GBM, threshold=2), "threshold"),
    (reducer(GBM, count=1), "count"),
    (tome(num_merged=0), "num_merged"),
    (tome(num_merged=-1), "num_merged"),
    (tome(num_merged=2.0), "num_merged"),
    (tome(num_merged=True), "num_merged"),
    (tome(layer=9), "layer"),
    (dict(sharing="cts"), "sharing"),
    (dict(sharing=dict(num_shared=3)), "sharing"),
    (sharing(), "num_shared"),
    (sharing(num_shared=3, threshold=0.5), "num_shared"),
    (sharing(num_shared=-1), "num_shared"),
    (sharing(num_shared=1.5), "num_shared"),
    (sharing(num_shared="3"), "num_shared"),
    (sharing(num_shared=True), "num_shared"),
    (sharing(num_shared=NAN), "num_shared"),
    (sharing(threshold=1.0), "threshold"),
    (sharing(threshold=-0.1), "threshold"),
    (sharing(threshold="half"), "threshold"),
    (sharing(num_share=3), "num_share"),
    (dict(sharing=dict(policy=dict(type=CLAP, layer=1), num_shared=1)), "policy"),
]
# Options on top of a config, and words of the sentence.
OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"model.backbone.mergin": "hq"}, "did you mean 'merging'"),
    ({"model.backbone.type": "mmtokmerge.MiTPlusPlu"}, "MiTPlusPlus"),
    ({"model.backbone.type": "MixVisionTransforme"}, "MixVisionTransformer"),
    ({"model.decode_head.type": "mmtokmerge.SegformerHea"}, "SegformerHead"),
    ({"model.decode_head.num_clases": 3}, "num_classes"),
    ({"model.decode_head.loss_decode.type": "CrossEntropyLos"}, "CrossEntropyLoss"),
    ({"model.decode_head.loss_decode.loss_wight": 1.0}, "loss_weight"),
    ({"model.data_preprocessor.type": "SegDataPreprocessor"}, "SegDataPreProcessor"),
    ({"model.data_preprocessor.sise": (32, 32)}, "size"),
    ({"train_cfg.max_iter": 5}, "max_iters"),
    ({"train_cfg.val_intervall": 5}, "val_interval"),
    ({"train_cfg.type": "IterTrainLoop"}, "Loop"),
    ({"optim_wrapper.type": "OptimWraper"}, "OptimWrapper"),
    ({"optim_wrapper.clip_grads": {"max_norm": 1}}, "clip_grad"),
    ({"optim_wrapper.optimizer.type": "AdmW"}, "AdamW"),
    ({"optim_wrapper.optimizer.learning_rate": 1e-3}, "learning_rate"),
    ({"param_scheduler.0.type": "LinearL"}, "LinearLR"),
    ({"param_scheduler.1.pover": 1.0}, "power"),
    ({"default_hooks.checkpoint.type": "mmtokmerge.SafeCheckpointHok"}, "SafeCheckpointHook"),
    ({"default_hooks.checkpoint.save_best": "mIou"}, "mIoU"),
    ({"default_hooks.checkpoint.save_best": "accuracy"}, "accuracy"),
    ({"default_hooks.logger.intervall": 5}, "interval"),
    ({"default_hooks.visualization.type": "MergeVisualization"}, "no registered hook"),
    ({"val_evaluator.type": "IouMetric"}, "IoUMetric"),
    ({"val_evaluator.iou_metric": ["mIoU"]}, "iou_metrics"),
    ({"train_dataloader.dataset.type": "mmtokmerge.CamvidDataset"}, "CamVidDataset"),
    ({"train_dataloader.dataset.data_rot": "x"}, "data_root"),
    ({"train_dataloader.dataset.pipeline.0.type": "mmtokmerge.LoadImages"}, "LoadImage"),
    ({"test_dataloader.dataset.pipeline.0.type": "LoadImageFromFiles"}, "LoadImageFromFile"),
    ({"visualizer.type": "SegVisualizer"}, "no registered visualizer"),
    ({"modle.backbone.merging": "hq"}, "model"),
    ({"model.backbon.merging": "hq"}, "backbone"),
    ({"train_dataloader.batchsize.a": 4}, "batchsize"),
    ({"param_scheduler.7.end": 4}, "7"),
]


@pytest.mark.parametrize(("settings", "word"), MIT, ids=lambda x: str(x)[:50])
def test_mit(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=r"\w") as caught:
        MiTPlusPlus(**settings)
    assert word in str(caught.value) and "\n" not in str(caught.value)


VIT_ALONE = {
    "with_cls_token",
    "with_dist_token",
    "interpolate_mode",
    "unpadded_attention",
    "drop_rate",
}
"""What BEiT does not take."""
PLAIN = [(VisionTransformer, *row) for row in VIT]
PLAIN += [(BEiT, *row) for row in VIT if not VIT_ALONE & set(row[0])]


@pytest.mark.parametrize(("kind", "settings", "word"), PLAIN, ids=lambda x: str(x)[:50])
def test_vit(kind: type, settings: dict[str, Any], word: str) -> None:
    with DefaultScope.overwrite_default_scope("mmseg"), pytest.raises(Exception) as caught:
        MODELS.build(dict(dict(type=f"mmtokmerge.{kind.__name__}", arch=ARCH), **settings))
    assert isinstance(caught.value, (InputError, ValueError)), repr(caught.value)
    assert "InputError" in repr(caught.value) or isinstance(caught.value, InputError)
    assert word in str(caught.value)


@pytest.mark.parametrize(("options", "word"), OPTIONS, ids=lambda x: str(x)[:60])
def test_options(options: dict[str, Any], word: str) -> None:
    import_scope("mmseg")
    with pytest.raises(InputError, match=r"\w") as caught:
        check_names(load_config(str(ROOT / "configs/segformerpp/b0_camvid_hq.py"), options))
    assert word in str(caught.value) and "\n" not in str(caught.value)


def write(path: Path, content: Any) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


def weights(**changes: Any) -> dict[str, Any]:
    return {**MiTPlusPlus(dict(embed_dims=8, num_layers=(1, 1, 1, 1))).state_dict(), **changes}


FILES: dict[str, tuple[Any, str]] = {
    "missing.pth": (None, "There is no checkpoint"),
    "empty.pth": (b"", "empty file"),
    "page.pth": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "git-lfs"),
    "text.pth": (b"hello", "cut off or"),
    "cut.pth": (b"PK\x03\x04" + b"\0" * 40, "cut off or"),
    "nothing.pth": ({}, "empty"),
    "list.pth": ([1, 2], "list"),
    "tensor.pth": (torch.zeros(3), "Tensor"),
    "number.pth": (4, "int"),
    "none.pth": ({"state_dict": None}, "not a tensor"),
    "words.pth": ({"a": "b"}, "not a tensor"),
    "keys.pth": ({1: torch.zeros(1)}, "state dict"),
    "other.pth": ({"x": torch.zeros(1)}, "does not fit"),
    "page.safetensors": (b"<html></html>", "web page"),
    "cut.safetensors": (b"\x08\0\0\0\0\0\0\0{}", "cut off"),
}


@pytest.mark.parametrize("name", FILES)
def test_checkpoints(name: str, tmp_path: Path) -> None:
    load_weights_safely()
    content, word = FILES[name]
    path = tmp_path / name
    if content is not None:
        write(path, content)
    model = MiTPlusPlus(dict(embed_dims=8, num_layers=(1, 1, 1, 1)))
    with pytest.raises(InputError, match=r"\w") as caught:
        load_weights(model, str(path))
    assert word in str(caught.value) and name in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    broken = weights()
    broken["layers.0.0.norm.bias"] = torch.full((8,), NAN)
    model = MiTPlusPlus(dict(embed_dims=8, num_layers=(1, 1, 1, 1)))
    with pytest.raises(InputError, match=r"not finite, in layers\.0\.0\.norm\.bias"):
        load_weights(model, str(write(tmp_path / "nan.pth", broken)))


def test_the_table_is_long_enough() -> None:
    assert len(MIT) + len(VIT) + len(OPTIONS) + len(FILES) >= 150


def test_a_config_without_a_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.py"
    for text in ("import nope", 'a = {}["x"]', "model = ", "raise RuntimeError('no')"):
        path.write_text(text)
        try:
            cfg = load_config(str(path))
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert isinstance(cfg, Config) and "model" not in cfg


@pytest.mark.parametrize(
    ("name", "best", "near"),
    [
        ("b0_coco_none", "PCKK@0.05", "PCK@0.05"),
        ("b0_coco_none", "coco/APP", "coco/AP"),
        ("b0_stick_none", "PCK@0.2", "PCK@0.1"),
    ],
)
def test_save_best_of_pose_names_a_metric(name: str, best: str, near: str) -> None:
    pytest.importorskip("mmpose")
    import_scope("mmpose")
    cfg = load_config(name)
    check_names(cfg)
    for right in ("PCK@0.1", "mean_error", "auto"):
        cfg.default_hooks.checkpoint.save_best = right
        check_names(cfg)
    cfg.default_hooks.checkpoint.save_best = best
    with pytest.raises(InputError, match="is not reported by val_evaluator") as caught:
        check_names(cfg)
    assert near in str(caught.value)
