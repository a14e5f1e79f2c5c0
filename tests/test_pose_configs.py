"""Every pose config: named as promised, with the paper's settings, builds and runs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from pose_helpers import ROOT, needs_mmpose

CONFIGS = ROOT / "configs" / "segformerpp"
PRESETS = ("none", "hq", "fast", "n2d", "plus")
NAMES = {
    *(
        f"b{size}_{data}_{preset}"
        for size in range(6)
        for data in ("coco", "jbd")
        for preset in PRESETS
    ),
    *(f"b0_{data}_{preset}" for data in ("mouse", "stick") for preset in PRESETS),
}


def read(name: str) -> Config:
    return Config.fromfile(CONFIGS / f"{name}.py")


@needs_mmpose
@pytest.mark.slow
def test_every_config_builds_and_runs_in_a_fresh_python() -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(Path(__file__).with_name("pose_config_trial.py")),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    done = json.loads(run.stdout.strip().splitlines()[-1])
    assert set(done) == NAMES
    ran = {name: result for name, result in done.items() if result["fp32"] is not None}
    assert {name[:2] for name in ran} == {"b0", "b1"}
    for name, result in ran.items():
        values = result["fp32"] + result["bf16"]
        assert all(map(math.isfinite, values)), name
        assert result["bf16"][0] == pytest.approx(result["fp32"][0], rel=0.1), name
    for name in ran:  # a preset that merges changes what is predicted
        plain = name.rsplit("_", 1)[0] + "_none"
        assert (done[name]["fp32"] == done[plain]["fp32"]) == (name == plain), name
    sizes = {name.split("_")[1]: (r["input"], r["heatmap"], r["sigma"]) for name, r in done.items()}
    assert sizes["coco"] == ([288, 384], [72, 96], 3)
    assert sizes["jbd"] == ([480, 640], [120, 160], 3)


@pytest.mark.parametrize("name", ["b0_coco_none", "b5_jbd_fast"])
def test_the_schedule_is_the_papers_and_falls_at_170_and_200(name: str) -> None:
    cfg = read(name)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 5e-4, 0.01)
    assert tuple(optimizer.betas) == (0.9, 0.999)
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (0.001, 500, False)
    assert (steps.milestones, steps.gamma, steps.by_epoch) == ([170, 200], 0.1, True)
    assert steps.end == cfg.train_cfg.max_epochs == 210
    assert cfg.train_dataloader.batch_size == 16
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert dict(cfg.model.test_cfg) == dict(flip_test=True, flip_mode="heatmap", shift_heatmap=True)
    kinds = [step.type for step in cfg.train_pipeline]
    for kind in ("RandomFlip", "RandomHalfBody", "RandomBBoxTransform"):
        assert kind in kinds


def test_no_other_pose_config_stands_there() -> None:
    from pose_config_trial import NAME

    assert {path.stem for path in CONFIGS.glob("*.py") if NAME.fullmatch(path.stem)} == NAMES
    for name in ("b3_coco_hq", "b3_jbd_hq"):
        assert "mit_b3" in read(name).model.backbone.init_cfg.checkpoint
