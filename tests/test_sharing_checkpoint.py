"""A policy's checkpoint is required by path: without the right one, one sentence and no run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from algm_tools_helpers import CLAP_AND_GBM, write_tiny
from engine_helpers import run_tool, weights_of

pytest.importorskip("timm", reason="needs timm")

from mmtokmerge.registry import MODELS

NETWORK = dict(
    type="mmtokmerge.PolicyNetwork",
    backbone=dict(
        type="mmseg.TIMMBackbone",
        model_name="efficientnet_lite0",
        features_only=True,
        pretrained=False,
        out_indices=(2,),
    ),
    in_channels=40,
    cell=16,
    data_preprocessor=dict(
        type="mmseg.SegDataPreProcessor",
        mean=[100.0, 110.0, 120.0],
        std=[50.0, 60.0, 70.0],
        bgr_to_rgb=True,
    ),
)
SHARING = """
model.update(type="mmtokmerge.SharingEncoderDecoder")
model["backbone"].update(sharing=dict(num_shared=0.5, policy=dict(
    type="mmtokmerge.NetworkPolicy", network={network}, checkpoint={checkpoint!r})))
"""
STEPS = ("--cfg-options", "train_cfg.max_iters=2", "default_hooks.checkpoint.interval=2")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy's weights, those of another network, a damaged file, and one that is missing."""
    folder = tmp_path_factory.mktemp("policy")
    found = {name: folder / f"{name}.pth" for name in ("right", "other", "damaged", "missing")}
    torch.manual_seed(0)
    weights = MODELS.build(NETWORK).state_dict()
    torch.save({"state_dict": weights}, found["right"])
    torch.save({"state_dict": {k: v for k, v in weights.items() if "conv_stem" not in k}},
               found["other"])  # fmt: skip
    found["damaged"].write_bytes(found["right"].read_bytes()[:5000])
    return found


def write(folder: Path, checkpoint: Path | None, reducers: str = "") -> Path:
    config = write_tiny(folder, reducers)
    path = None if checkpoint is None else str(checkpoint)
    config.write_text(config.read_text() + SHARING.format(network=NETWORK, checkpoint=path))
    return config


@pytest.mark.parametrize("kind", ["missing", "damaged", "other", None])
def test_without_its_checkpoint_nothing_runs(
    files: dict[str, Path], kind: str | None, tmp_path: Path
) -> None:
    """The config builds; training, testing and the benchmark say which file is wrong."""
    bad = files[kind] if kind else None
    config = write(tmp_path, bad)
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": {}}, weights)
    commands = [
        ("train.py", config, "--work-dir", tmp_path / "work"),
        ("test.py", config, weights, "--work-dir", tmp_path / "work"),
        ("benchmark.py", config, "--shape", 64, 64),
    ]
    for command in commands:
        result = run_tool(*command)
        assert result.status == 1, result.output
        assert result.error.startswith("error: ") and "sharing.policy.checkpoint" in result.error
        assert (str(bad) if bad else "is None") in result.error
        assert "Iter(train)" not in result.output and "Traceback" not in result.output


def test_it_trains_tests_and_is_timed(files: dict[str, Path], tmp_path: Path) -> None:
    config = write(tmp_path, files["right"], CLAP_AND_GBM.format(threshold=0.5))
    work = tmp_path / "work"
    result = run_tool("train.py", config, "--work-dir", work, *STEPS)
    assert result.status == 0, result.output
    saved = weights_of(work / "iter_2.pth")
    assert not any("policy" in key or "sharing" in key for key in saved)
    result = run_tool("test.py", config, work / "iter_2.pth", "--work-dir", work)
    assert result.status == 0 and "mIoU: " in result.output, result.output
    out = tmp_path / "out.json"
    common = ("--shape", 64, 64, "--runs", 2, "--warmup", 1, "--threads", 1, "--json", out)
    result = run_tool("benchmark.py", config, *common, "--kept", 0.5, 0.4)
    assert result.status == 0, result.output
    assert "policy, counted" in result.output
    stock, _, ours = json.loads(out.read_text())["results"]
    assert stock["policy"] is None and 0 < ours["policy"]["share"] < 1
    assert 0 < ours["policy"]["flops"] < ours["flops"]
    parameters = sum(p.numel() for p in MODELS.build(NETWORK).parameters())
    assert ours["policy"]["memory"] >= 4 * parameters / 2**20
    assert ours["kept"]["patches"] == 64 and ours["kept"]["CTS"] == 64 - 3 * 8
    assert ours["kept"]["CLAP 1"] <= ours["kept"]["CTS"]
