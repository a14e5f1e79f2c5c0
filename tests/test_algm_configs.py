"""Every ALGM config: named as promised, with the paper's settings, builds and runs."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmseg", reason="needs MMSegmentation")

from mmengine.config import Config

from mmtokmerge.layers.vit_archs import VIT_ARCHS

REPO = Path(__file__).resolve().parents[1]
CONFIGS = REPO / "configs"
# Tables 1, 2, 3 and 8, and the runs on CamVid: network and data, the layer of GBM (table 7), the
# side of the crops, the number of classes, iterations and images in a batch.
CITY, COCO, PCONTEXT = 216 * 2975 // 8, 160_000, 256 * 4998 // 16
ADE = 64 * 20210 // 8
TABLE = {
    "segmenter_vit-t_ade20k": (5, 512, 150, ADE, 8),
    "segmenter_vit-s_ade20k": (5, 512, 150, ADE, 8),
    "segmenter_vit-b_ade20k": (5, 512, 150, ADE, 8),
    "segmenter_vit-l_ade20k": (7, 640, 150, ADE, 8),
    "segmenter_vit-s_cocostuff10k": (5, 512, 171, COCO, 8),
    "segmenter_vit-b_cocostuff10k": (5, 512, 171, COCO, 8),
    "segmenter_vit-l_cocostuff10k": (7, 512, 171, COCO, 8),
    "segmenter_vit-s_cityscapes": (5, 768, 19, CITY, 8),
    "segmenter_vit-l_cityscapes": (7, 768, 19, CITY, 8),
    "segmenter_vit-s_pcontext": (5, 480, 60, PCONTEXT, 16),
    "segmenter_vit-l_pcontext": (7, 480, 60, PCONTEXT, 16),
    "setr_vit-b_ade20k": (5, 512, 150, 160_000, 16),
    "setr_vit-l_ade20k": (13, 512, 150, 160_000, 16),
    "setr_vit-b_pcontext": (5, 480, 60, 80_000, 16),
    "segvit_vit-l_ade20k": (12, 640, 150, 160_000, 16),
    "segvit_vit-l_pcontext": (12, 480, 59, 80_000, 16),
}
OURS = {
    "setr-pup_vit-l_ade20k": (13, 512, 150, 160_000, 16),
    "setr-mla_vit-l_ade20k": (13, 512, 150, 160_000, 16),
    "upernet_vit-b_ade20k": (5, 512, 150, 160_000, 16),
}
CAMVID = {"segmenter": 5, "setr": 5, "segvit": 6}
TOME = [
    *(f"segmenter_vit-{size}_ade20k" for size in "tsbl"),
    "segmenter_vit-l_cityscapes",
    "segmenter_vit-l_pcontext",
    "segmenter_vit-t_camvid",
    "segmenter_vit-t_streets",
]
STREETS = "segmenter_vit-t_streets"
RUNS = [*TABLE, *OURS, *(f"{network}_vit-t_camvid" for network in CAMVID), STREETS]
NAMES = {f"{run}_{kind}" for run in RUNS for kind in ("none", "algm")}
NAMES |= {f"{run}_tome" for run in TOME}
EVA_LAYERS = {"eva-g_mask2former_ade20k": [11, 21, 31], "eva-t_mask2former_camvid": [4, 7, 10]}
NAMES |= {f"{run}_{kind}" for run in EVA_LAYERS for kind in ("none", "algm")}
CLAP, GBM = "mmtokmerge.ConditionalLocalPooling", "mmtokmerge.GlobalBipartiteMerging"
BOTH = ((CLAP, dict(layer=1)), (GBM, dict(layer=5)))
# What each ablation's reducers are, beside threshold='auto'.
ABLATIONS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    **{
        f"table5a_window-{h}x{w}": ((CLAP, dict(layer=1, window=(h, w))), BOTH[1])
        for h, w in ((2, 1), (2, 4), (4, 4), (8, 8))
    },
    "table5b_clap-1": (BOTH[0],),
    "table5b_gbm-1": ((GBM, dict(layer=1)),),
    "table5b_gbm-5": (BOTH[1],),
    "table5b_gbm-1-5": ((GBM, dict(layer=[1, 5])),),
    **{f"table5c_gbm-{n}": (BOTH[0], (GBM, dict(layer=n))) for n in (2, 4, 6, 8)},
    **{
        f"table6_{name}": tuple((kind, {**keys, **more}) for kind, keys in BOTH)
        for name, more in (
            ("no-balancing", dict(reduce=False)),
            ("no-denoising", dict(operation="random")),
            ("neither", dict(operation="random", reduce=False)),
        )
    },
    "table10a_gbm-5-7": (BOTH[0], (GBM, dict(layer=[5, 7]))),
    "table10b_after-mlp": tuple((kind, {**keys, "position": "after"}) for kind, keys in BOTH),
    "table10c_random": tuple((kind, {**keys, "operation": "random"}) for kind, keys in BOTH),
    "table10d_finetuned": BOTH,
    **{f"table10e_clap-{n}": ((CLAP, dict(layer=n)), BOTH[1]) for n in (2, 3)},
    **{
        f"table10f_feature-{f}": tuple(
            (kind, {**keys, "feature": f.upper()}) for kind, keys in BOTH
        )
        for f in "kqv"
    },
    "table12_algm_finetuned": (BOTH[0], (GBM, dict(layer=7))),
}
# Thresholds that the authors set by hand, and Segmenter in mmseg's settings.
BY_HAND = {
    "by-hand_vit-t_ade20k": 0.90,
    "by-hand_vit-s_ade20k": 0.88,
    "by-hand_vit-b_ade20k": 0.94,
    "by-hand_vit-l_ade20k": 0.95,
    "by-hand_vit-s_cityscapes": 0.955,
    "by-hand_vit-s_pcontext": 0.88,
}
MMSEG = "mmseg_vit-s_ade20k"
FINE_TUNED = {"table10d_finetuned", "table12_algm_finetuned", "table12_tome_finetuned"}


@cache
def read(name: str) -> Config:
    return Config.fromfile(CONFIGS / "algm" / f"{name}.py")


@pytest.fixture(scope="module")
def done() -> dict[str, Any]:
    """What running every config, narrow and in one fresh interpreter, gave."""
    script = REPO / "tests" / "reference" / "run_vit_configs.py"
    command = [sys.executable, "-W", "ignore", str(script), str(CONFIGS), "algm"]
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.strip().splitlines()[-1])


def test_the_configs_are_those_promised() -> None:
    assert {path.stem for path in (CONFIGS / "algm").glob("*.py")} == NAMES
    found = {path.stem for path in (CONFIGS / "algm" / "ablations").glob("*.py")}
    assert found == {*ABLATIONS, *FINE_TUNED, *BY_HAND, MMSEG}


@pytest.mark.slow
def test_every_config_runs_in_a_fresh_python(done: dict[str, Any]) -> None:
    assert set(done) == {
        *(f"algm/{name}.py" for name in NAMES),
        *(f"algm/ablations/{name}.py" for name in {*ABLATIONS, *FINE_TUNED, *BY_HAND, MMSEG}),
    }
    for name, facts in done.items():
        assert "error" not in facts, f"{name}: {facts['error']}"
        cfg = read(name.removeprefix("algm/").removesuffix(".py"))
        assert facts["finite"] and facts["logits"][:2] == [2, cfg.model.decode_head.num_classes]
        assert facts["predicted"] == [[1, 128, 160]] * 2, name
        assert any(key.startswith("decode.loss") for key in facts["losses"]), name
        assert all(map(math.isfinite, facts["losses"].values())), name


@pytest.mark.slow
def test_reducers_reduce_and_ask_for_their_threshold(done: dict[str, Any]) -> None:
    for name, facts in done.items():
        plain = name.endswith("_none.py") or MMSEG in name
        keeps_all = plain or "no-balancing" in name or "neither" in name
        if "by-hand" in name:
            continue  # noise may be alike or not
        assert all((kept == facts["patches"]) == keeps_all for kept in facts["kept"]), name
        automatic = not plain and "tome" not in name
        assert bool(facts["refused"]) == automatic, name
        assert not automatic or "tools/calibrate_threshold.py" in facts["refused"]


@pytest.mark.parametrize("run", EVA_LAYERS)
def test_eva_merges_in_the_first_layer_of_each_interaction(run: str) -> None:
    vit = read(f"{run}_algm").model.backbone.vit
    assert [dict(reducer) for reducer in vit.reducers] == [
        dict(type=CLAP, layer=1, threshold="auto"),
        dict(type=GBM, layer=EVA_LAYERS[run], threshold="auto"),
    ]
    depth = {"g": 40, "t": 12}[vit.arch]
    assert EVA_LAYERS[run] == [1 + depth // 4 * part for part in (1, 2, 3)]


def test_evas_published_settings() -> None:
    cfg = read("eva-g_mask2former_ade20k_algm")
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    assert (backbone.vit.type, backbone.vit.img_size) == ("mmtokmerge.EVA", (896, 896))
    assert int(backbone.vit.mlp_ratio * 1408) == 6144 and backbone.vit.drop_path_rate == 0.5
    assert (backbone.num_heads, backbone.value_ratio, backbone.ffn_ratio) == (16, 0.5, 0.25)
    assert (head.num_queries, head.channels, head.num_heads) == (200, 1024, 32)
    assert (head.encoder_layers, head.decoder_layers, head.feedforward_channels) == (6, 9, 4096)
    assert cfg.optim_wrapper.optimizer.lr == 1e-5 and cfg.train_cfg.max_iters == 40_000
    assert dict(cfg.optim_wrapper.paramwise_cfg) == dict(num_layers=40, decay_rate=0.9)
    assert cfg.model.test_cfg.stride == (512, 512)


@pytest.mark.parametrize("run", [*TABLE, *OURS])
def test_published_settings(run: str) -> None:
    layer, side, classes, iterations, batch = {**TABLE, **OURS}[run]
    cfg = read(f"{run}_algm")
    model = cfg.model
    assert [dict(reducer) for reducer in model.backbone.reducers] == [
        dict(type=CLAP, layer=1, threshold="auto"),
        dict(type=GBM, layer=layer, threshold="auto"),
    ]
    size = cfg.filename.split("vit-")[1][0]
    assert model.backbone.arch == size
    assert tuple(model.data_preprocessor.size) == tuple(model.backbone.img_size) == (side, side)
    assert cfg.crop_size == (side, side)
    crop = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == "RandomCrop"]
    assert [step.crop_size for step in crop] == [(side, side)]
    if not run.startswith("upernet"):
        assert model.test_cfg.mode == "slide" and tuple(model.test_cfg.crop_size) == (side, side)
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == iterations
    auxiliary = model.get("auxiliary_head") or []
    heads = [model.decode_head, *(auxiliary if isinstance(auxiliary, list) else [auxiliary])]
    assert {head.num_classes for head in heads} == {classes}
    assert model.backbone.init_cfg.type == "Pretrained"


@pytest.mark.parametrize("run", [run for run in TABLE if run.startswith("segmenter")])
def test_segmenter_trains_as_its_authors_do(run: str) -> None:
    cfg = read(f"{run}_none")
    optimizer = cfg.optim_wrapper.optimizer
    rate = 1e-2 if "cityscapes" in run else 1e-3
    assert (optimizer.type, optimizer.lr, optimizer.momentum) == ("SGD", rate, 0.9)
    assert optimizer.weight_decay == 0
    (poly,) = cfg.param_scheduler
    assert (poly.type, poly.power, poly.begin) == ("PolyLR", 0.9, 0)
    assert poly.eta_min == (1e-4 if "coco" in run else 1e-5)
    assert cfg.model.backbone.drop_path_rate == 0.1
    head, width = cfg.model.decode_head, VIT_ARCHS[cfg.model.backbone.arch]["embed_dims"]
    assert head.in_channels == head.channels == head.embed_dims == width
    assert (head.num_layers, width // head.num_heads) == (2, 64)


@pytest.mark.parametrize("network", CAMVID)
def test_camvid_has_one_length(network: str) -> None:
    cfg = read(f"{network}_vit-t_camvid_algm")
    assert [reducer.layer for reducer in cfg.model.backbone.reducers] == [1, CAMVID[network]]
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == cfg.max_iters
    assert cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin
    assert cfg.model.test_cfg == dict(mode="whole")
    assert tuple(cfg.model.backbone.img_size) == cfg.crop_size == (288, 352)
    assert "init_cfg" not in cfg.model.backbone


def without_merging(cfg: Config) -> dict[str, Any]:
    """All that a config sets, but for its reducers."""
    settings = copy.deepcopy(cfg.to_dict())
    for key in ("clap", "gbm", "tome", "reducers"):
        settings.pop(key, None)
    for key in ("reducers", "proportional"):
        backbone = settings["model"]["backbone"]
        backbone.get("vit", backbone).pop(key, None)
    return settings


@pytest.mark.parametrize("name", sorted(name for name in NAMES if not name.endswith("_none")))
def test_merging_differs_from_the_baseline_in_the_reducers_alone(name: str) -> None:
    plain = read("_".join([*name.split("_")[:-1], "none"]))
    assert "reducers" not in plain.model.backbone
    assert without_merging(read(name)) == without_merging(plain)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_its_row(name: str) -> None:
    reducers = [dict(reducer) for reducer in read(f"ablations/{name}").model.backbone.reducers]
    assert reducers == [dict(type=kind, threshold="auto", **keys) for kind, keys in ABLATIONS[name]]


@pytest.mark.parametrize("name", BY_HAND)
def test_a_threshold_by_hand_changes_nothing_else(name: str) -> None:
    cfg = read(f"ablations/{name}")
    base = read(f"segmenter_{name.removeprefix('by-hand_')}_algm")
    reducers = cfg.model.backbone.reducers
    assert [reducer.threshold for reducer in reducers] == [BY_HAND[name]] * 2
    assert [dict(r, threshold="auto") for r in reducers] == base.model.backbone.reducers
    assert without_merging(cfg) == without_merging(base)


def test_segmenter_is_the_authors_and_mmsegs_by_name() -> None:
    for name in NAMES:
        if name.startswith("segmenter") and "camvid" not in name and "streets" not in name:
            model = read(name).model
            assert model.backbone.norm_cfg.eps == 1e-5 and model.backbone.drop_path_rate == 0.1
            head = model.decode_head
            assert (head.drop_rate, head.drop_path_rate) == (0.1, 0.0)
            if "ade20k" in name:
                assert model.test_cfg.stride == model.test_cfg.crop_size
    model = read(f"ablations/{MMSEG}").model
    assert model.backbone.norm_cfg.eps == 1e-6 and tuple(model.test_cfg.stride) == (480, 480)
    assert (model.decode_head.drop_rate, model.decode_head.drop_path_rate) == (0.0, 0.1)


@pytest.mark.parametrize(
    ("name", "size"), [("segmenter_vit-s", (520, 693)), ("setr_vit-b", (390, 520))]
)
def test_pascal_context_has_each_networks_scale(name: str, size: tuple[int, int]) -> None:
    """A photo of 375x500: Segmenter's shorter side is 520, mmseg's longer one."""
    import numpy as np
    from mmcv.transforms import Resize

    cfg = read(f"{name}_pcontext_none")
    (step,) = [s for s in cfg.test_dataloader.dataset.pipeline if s.type == "Resize"]
    resize = Resize(**{key: value for key, value in step.items() if key != "type"})
    found = resize(dict(img=np.zeros((375, 500, 3), np.uint8)))["img"].shape[:2]
    assert found == size
    train = [s for s in cfg.train_dataloader.dataset.pipeline if s.type == "RandomResize"]
    assert train[0].scale == step.scale


@pytest.mark.parametrize("name", sorted(set(ABLATIONS) - FINE_TUNED))
def test_an_ablation_trains_as_table_1(name: str) -> None:
    expected = without_merging(read("segmenter_vit-s_ade20k_algm"))
    assert without_merging(read(f"ablations/{name}")) == expected


@pytest.mark.parametrize("name", sorted(FINE_TUNED))
def test_fine_tuning_starts_from_the_baseline(name: str) -> None:
    cfg = read(f"ablations/{name}")
    size = "s" if "10d" in name else "l"
    assert f"segmenter_vit-{size}_ade20k_none" in cfg.load_from
    assert cfg.model.backbone.init_cfg is None
    iterations = 16 * 20210 // 8 if "10d" in name else ADE
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == iterations


@pytest.mark.parametrize("run", TOME)
def test_tome_merges_in_every_layer_and_leaves_enough(run: str) -> None:
    cfg = read(f"{run}_tome")
    (tome,) = cfg.model.backbone.reducers
    depth = VIT_ARCHS[cfg.model.backbone.arch]["num_layers"]
    assert (tome.layer, tome.feature) == (list(range(1, depth + 1)), "K")
    assert cfg.model.backbone.proportional is True
    h, w = cfg.crop_size
    before_the_last = (h // 16) * (w // 16) - (depth - 1) * tome.num_merged
    assert tome.num_merged <= before_the_last // 2
