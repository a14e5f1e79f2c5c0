"""Every CTS config: named as promised, with the paper's settings, and its network runs."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tracing import ended, follow

pytest.importorskip("mmseg", reason="needs MMSegmentation")
pytest.importorskip("timm", reason="needs timm")

from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmseg.utils import register_all_modules
from reference.run_vit_configs import make_batch, narrow_model

from mmtokmerge.merging import superpatch_sharing
from mmtokmerge.merging.superpatch_sharing import count_shared
from mmtokmerge.registry import MODELS

REPO = Path(__file__).resolve().parents[1]
FOLDER = REPO / "configs" / "cts"
# Each segmentation network that the paper shares tokens in: the table, the crop, how many tokens
# remain of all (tables 1 and 6; 30 % fewer elsewhere), iterations and images in a batch.
ADE, CITY, PCONTEXT = 64 * 20210 // 8, 216 * 2975 // 8, 256 * 4998 // 8
NETWORKS = {
    **{f"segmenter_vit-{s}_ade20k": ((512, 512), 715, ADE, 8) for s in ("t", "s", "b")},
    "segmenter_vit-l_ade20k": ((640, 640), 1120, ADE, 8),
    "segmenter_vit-b-linear_ade20k": ((512, 512), 715, ADE, 8),
    "segmenter_deit-b_ade20k": ((512, 512), 715, ADE, 8),
    "segmenter_beit-b_ade20k": ((512, 512), 715, ADE, 8),
    "upernet_vit-b_ade20k": ((512, 512), 715, 160_000, 16),
    "upernet_beit-l_ade20k": ((640, 640), 1120, 320_000, 8),
    **{f"segmenter_vit-{s}_cityscapes": ((768, 768), 1296, CITY, 8) for s in ("s", "l")},
    **{f"segmenter_vit-{s}_pcontext": ((480, 480), 630, PCONTEXT, 8) for s in ("s", "l")},
}
RANDOM = [f"segmenter_vit-s_{data}" for data in ("ade20k", "cityscapes", "pcontext")]
CAMVID = "segmenter_vit-t_camvid"
SHARING = [
    *(f"{name}_cts" for name in NETWORKS),
    *(f"{name}_random" for name in RANDOM),
    *(f"{CAMVID}_{kind}" for kind in ("cts", "random", "oracle", "cts-algm")),
]
# Data set of a policy network: crop, S of a crop's superpatches, and what border cells are.
POLICIES = {
    "ade20k": ((512, 512), 103, "edge"),
    "ade20k-640": ((640, 640), 160, "edge"),
    "cityscapes": ((768, 768), 336, "split"),
    "pcontext": ((480, 480), 90, "split"),
    "camvid": ((288, 352), 39, "split"),
}
SIZES = ("small", "large")
STREETS = "segmenter_vit-t_streets"
TABLE_1 = {31: 931, 41: 901, 79: 787, 103: 715, 131: 631, 156: 556, 192: 448, 224: 352, 256: 256}
NETWORK, ORACLE = "mmtokmerge.NetworkPolicy", "mmtokmerge.OraclePolicy"
LABELS, PREVIOUS = "mmtokmerge.SegmentationPolicy", "mmtokmerge.PreviousFramePolicy"
ABLATIONS = {
    "table2_oracle": ORACLE,
    "table2_policynet-large": NETWORK,
    "table2_policynet-small": NETWORK,
    "table2_fcn-mobilenetv2": LABELS,
    "table2_deeplabv3plus": LABELS,
    "table7b_threshold": NETWORK,
    "table7c_oracle": ORACLE,
    **{
        f"table7c_{data}previous-{source}": PREVIOUS
        for data in ("", "camvid_")
        for source in ("policynet", "prediction")
    },
}


@cache
def read(name: str) -> Config:
    return Config.fromfile(FOLDER / f"{name}.py")


@pytest.fixture(scope="module", autouse=True)
def mmseg_types() -> Any:
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def test_the_configs_are_those_promised() -> None:
    names = {*SHARING, f"{CAMVID}_none", *(f"{name}_none" for name in NETWORKS)}
    names |= {f"policynet_{data}" for data in POLICIES}
    names |= {f"policynet_{size}_ade20k" for size in SIZES}
    names |= {"fcn_mobilenetv2_ade20k", "deeplabv3plus_r101_ade20k"}
    names |= {"policynet_streets", f"{STREETS}_cts", f"{STREETS}_cts-algm"}
    assert {path.stem for path in FOLDER.glob("*.py")} == names
    sweep = {f"table1_{kind}-{s}" for kind in ("cts", "random") for s in TABLE_1}
    assert {path.stem for path in (FOLDER / "ablations").glob("*.py")} == sweep | set(ABLATIONS)


def tokens(cfg: Config, crop: tuple[int, int]) -> int:
    """How many tokens a config leaves of a crop."""
    hw = (crop[0] // 16, crop[1] // 16)
    scores = torch.rand(1, -(-hw[0] // 2), -(-hw[1] // 2))
    count = count_shared(cfg.model.backbone.sharing.num_shared, hw)
    return superpatch_sharing(scores, hw, num_shared=count).num_groups


@pytest.mark.parametrize("name", NETWORKS)
def test_published_settings(name: str) -> None:
    crop, left, iterations, batch = NETWORKS[name]
    cfg = read(f"{name}_cts")
    assert cfg.model.type == "mmtokmerge.SharingEncoderDecoder"
    assert tokens(cfg, crop) == left
    assert cfg.crop_size == crop == tuple(cfg.model.backbone.img_size)
    assert tuple(cfg.model.data_preprocessor.size) == crop
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == iterations
    assert cfg.train_dataloader.batch_size == batch
    policy = cfg.model.backbone.sharing.policy
    assert (policy.type, policy.checkpoint) == (NETWORK, None)
    assert policy.network.backbone.model_name == "efficientnet_lite0"
    if name.startswith("segmenter"):
        optimizer = cfg.optim_wrapper.optimizer
        rate = 1e-2 if "cityscapes" in name else 1e-3
        assert (optimizer.type, optimizer.lr) == ("SGD", rate)


@pytest.mark.parametrize("kind", ["cts", "random"])
@pytest.mark.parametrize("shared", TABLE_1)
def test_table_1(shared: int, kind: str) -> None:
    cfg = read(f"ablations/table1_{kind}-{shared}")
    assert tokens(cfg, (512, 512)) == TABLE_1[shared]
    policy = "mmtokmerge.RandomPolicy" if kind == "random" else NETWORK
    assert cfg.model.backbone.sharing.policy.type == policy
    assert without_sharing(cfg) == without_sharing(read("segmenter_vit-s_ade20k_none"))


def test_camvid_shares_the_same_fraction() -> None:
    for kind in ("cts", "random", "oracle", "cts-algm"):
        cfg = read(f"{CAMVID}_{kind}")
        assert tokens(cfg, (288, 352)) == 18 * 22 - 3 * 39
        assert tokens(cfg, (368, 480)) == 23 * 30 - 3 * 66
    reducers = read(f"{CAMVID}_cts-algm").model.backbone.reducers
    assert reducers == Config.fromfile(
        REPO / "configs" / "algm" / f"{CAMVID}_algm.py"
    ).model.backbone.get("reducers")


def without_sharing(cfg: Config) -> dict[str, Any]:
    """All that a config sets, but for what shares or merges tokens."""
    settings = copy.deepcopy(cfg.to_dict())
    for key in ("policy", "policy_network", "network", "clap", "gbm", "previous", "sequence"):
        settings.pop(key, None)
    for key in ("sharing", "reducers"):
        settings["model"]["backbone"].pop(key, None)
    if settings["model"]["type"] == "mmtokmerge.SharingEncoderDecoder":
        settings["model"]["type"] = "EncoderDecoder"
    return settings


@pytest.mark.parametrize("name", SHARING)
def test_presets_differ_from_the_baseline_in_sharing_alone(name: str) -> None:
    plain = read("_".join([*name.split("_")[:-1], "none"]))
    assert "sharing" not in plain.model.backbone and plain.model.type == "EncoderDecoder"
    assert without_sharing(read(name)) == without_sharing(plain)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_its_row(name: str) -> None:
    cfg = read(f"ablations/{name}")
    sharing = cfg.model.backbone.sharing
    assert sharing.policy.type == ABLATIONS[name]
    base = "vit-s_cityscapes" if "table7c" in name else "vit-s_ade20k"
    base = CAMVID if "camvid" in name else f"segmenter_{base}"
    assert without_sharing(cfg) == without_sharing(read(f"{base}_none"))
    if "threshold" in name:
        assert (sharing.num_shared, sharing.threshold) == (None, 0.5)
    else:
        assert sharing.num_shared == read(f"{base}_cts").model.backbone.sharing.num_shared


@pytest.mark.parametrize(
    ("policy", "trained"),
    [
        *((f"policynet-{size}", f"policynet_{size}_ade20k") for size in SIZES),
        ("fcn-mobilenetv2", "fcn_mobilenetv2_ade20k"),
        ("deeplabv3plus", "deeplabv3plus_r101_ade20k"),
    ],
)
def test_a_policy_is_the_network_that_its_config_trains(policy: str, trained: str) -> None:
    used = read(f"ablations/table2_{policy}").model.backbone.sharing.policy.network.to_dict()
    made = read(trained).model.to_dict()
    made["data_preprocessor"].pop("size")
    made["backbone"].pop("init_cfg", None)
    assert used == made


@pytest.mark.parametrize("name", POLICIES)
def test_policy_networks_train_as_published(name: str) -> None:
    crop, shared, border = POLICIES[name]
    cfg = read(f"policynet_{name}")
    assert tuple(cfg.model.data_preprocessor.size) == cfg.crop_size == crop
    assert int(cfg.val_evaluator.num_shared * (crop[0] // 32) * (crop[1] // 32)) == shared
    assert cfg.default_hooks.checkpoint.save_best == "precision"
    assert cfg.train_dataloader.batch_size == 8
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        (made,) = [s for s in loader.dataset.pipeline if s.type.endswith("GenerateSharingTargets")]
        assert made.get("border", "split") == border
    if name != "camvid":
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr) == ("AdamW", 5e-5)
        assert (optimizer.weight_decay, cfg.train_cfg.max_iters) == (1e-3, 50_000)
    network = (name if name == "camvid" else name.partition("-")[0], cfg.model.to_dict())
    network[1]["data_preprocessor"].pop("size")
    assert network[1] == dict(cfg.policy.network.to_dict(), pretrained=name != "camvid")
    if name.startswith("ade20k"):  # resized whatever the shape, flipped, nothing else
        steps = [step.type for step in cfg.train_dataloader.dataset.pipeline[2:]]
        own = "mmtokmerge.GenerateSharingTargets"
        assert steps == ["Resize", "RandomFlip", own, "PackSegInputs"]


def through(pipeline: list[Any], side: tuple[int, int]) -> dict[str, Any]:
    """What a pipeline, but for its loading, makes of an image of ``side`` with two classes."""
    label = np.zeros(side, np.uint8)
    label[: side[0] // 2] = 1
    image = np.random.default_rng(0).integers(0, 256, (*side, 3), dtype=np.uint8)
    results = dict(img=image, gt_seg_map=label, seg_fields=["gt_seg_map"], img_path="x.jpg")
    steps = [step for step in pipeline if "Load" not in step["type"]]
    return Compose(steps)({**results, "img_shape": side, "ori_shape": side})


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("side", [(90, 300), (700, 460)])
def test_a_target_stands_for_each_superpatch(name: str, side: tuple[int, int]) -> None:
    np.random.seed(0)
    cfg = read(f"policynet_{name}")
    crop = cfg.crop_size
    train = through(cfg.train_dataloader.dataset.pipeline, side)
    assert train["inputs"].shape == (3, *crop)
    assert train["data_samples"].gt_sem_seg.shape == (crop[0] // 32, crop[1] // 32)
    test = through(cfg.val_dataloader.dataset.pipeline, side)
    seen = test["inputs"].shape[1:]
    assert test["data_samples"].gt_sem_seg.shape == tuple(-(-s // 32) for s in seen)


def test_a_policy_network_trains_a_step() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    cfg = read("policynet_camvid")
    model = MODELS.build(cfg.model)
    assert model.pretrained is False
    model.init_weights()
    optimizer = OptimWrapper(
        torch.optim.AdamW(model.parameters(), lr=cfg.optim_wrapper.optimizer.lr)
    )
    samples = [through(cfg.train_dataloader.dataset.pipeline, (90, 300)) for _ in range(2)]
    batch = {key: [sample[key] for sample in samples] for key in ("inputs", "data_samples")}
    losses = [model.train_step(batch, optimizer)["loss"].item() for _ in range(4)]
    assert all(np.isfinite(losses)) and losses[-1] < losses[0]


def test_smaller_and_larger_networks_score_every_superpatch() -> None:
    parameters = []
    for name in ("small_ade20k", "ade20k", "large_ade20k"):
        model = MODELS.build(read(f"policynet_{name}").model).eval()
        with torch.no_grad():
            assert model.scores(torch.zeros(1, 3, 64, 80)).shape == (1, 2, 3)
        parameters.append(sum(p.numel() for p in model.parameters()))
    # EfficientNet-Lite0 up to stride 16, Lite0 and Lite4 up to stride 32, with their classifiers.
    assert parameters == [700_768 + 226, 2_958_848 + 642, 11_149_568 + 898]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the policy network, untrained."""
    path = tmp_path_factory.mktemp("policy") / "lite0.pth"
    torch.save(MODELS.build(read(f"{CAMVID}_cts").policy.network).state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    "name",
    [
        "segmenter_vit-s_ade20k_cts",
        "segmenter_vit-b-linear_ade20k_cts",
        "segmenter_deit-b_ade20k_cts",
        "segmenter_beit-b_ade20k_cts",
        "upernet_vit-b_ade20k_cts",
        "upernet_beit-l_ade20k_cts",
        f"{CAMVID}_random",
        f"{CAMVID}_oracle",
        f"{CAMVID}_cts-algm",
    ],
)
def test_a_network_shares_learns_and_predicts(name: str, weights: str) -> None:
    torch.manual_seed(0)
    model = MODELS.build(narrow_model(settings := ready(read(name), weights)))
    model.init_weights()
    images, samples = make_batch(settings.decode_head.num_classes)  # 8x10 patches
    follow(model.backbone)
    losses = model.train()(images, samples, mode="loss")
    loss = sum(value for key, value in losses.items() if "loss" in key)
    loss.backward()
    assert bool(loss.isfinite())
    predicted = model.eval()(images, samples, mode="predict")
    assert [sample.pred_sem_seg.data.shape for sample in predicted] == [(1, 128, 160)] * 2
    shared = count_shared(settings.backbone.sharing.num_shared, (8, 10))
    assert (ended(model.backbone).sharing.sizes == 4).sum(1).tolist() == [shared] * 2


def ready(cfg: Config, weights: str) -> Any:
    """A model's config that needs no further file and no calibration."""
    model = copy.deepcopy(cfg.model)
    policy = model.backbone.sharing.policy
    if policy.type == NETWORK:
        policy.checkpoint = weights
    for reducer in model.backbone.get("reducers", ()):
        reducer.threshold = 0.5
    return model


@pytest.mark.parametrize("name", ["cts", "cts-algm"])
def test_streets_share_two_fifths_of_a_window(name: str) -> None:
    cfg = read(f"{STREETS}_{name}")
    assert cfg.model.type == "mmtokmerge.SharingEncoderDecoder"
    assert cfg.model.test_cfg.crop_size == (256, 512)
    assert tokens(cfg, (256, 512)) == 512 - 3 * 51
    assert cfg.model.backbone.img_size == (256, 512)
    policy = read("policynet_streets")
    assert policy.model.pretrained is False and policy.model.type == "mmtokmerge.PolicyNetwork"
