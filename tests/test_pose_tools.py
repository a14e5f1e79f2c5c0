"""Pose from data to inference: train, test under another preset, pictures, mmpose's inferencers."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pose_helpers import ROOT, example, needs_mmpose

pytestmark = [needs_mmpose, pytest.mark.slow]
DATA = Path(os.environ.get("MMTOKMERGE_DATA", ROOT.parent / "shared" / "data"))
COCO = DATA / "coco_tiny"
MICE = DATA / "mouse_keypoints"


def in_fresh_python(function: str, *arguments: object, **environment: str) -> str:
    """What a function of this module prints in a Python of its own."""
    call = ", ".join(repr(str(argument)) for argument in arguments)
    code = f"import test_pose_tools as t; t.{function}({call})"
    paths = f"{ROOT}{os.pathsep}{Path(__file__).parent}"
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
    return run.stdout


def run_tool(tool: str, *arguments: object) -> None:
    """Run a tool in this process; the data loaders take no processes of their own."""
    options = [f"{name}_dataloader.num_workers=0" for name in ("train", "val", "test")]
    sys.argv = [tool, *map(str, arguments), *options]
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    assert ended.value.code == 0


def config(name: str) -> Path:
    return ROOT / "configs" / "segformerpp" / f"{name}.py"


def train_and_test(folder: str) -> None:
    """One epoch on stick figures, tested with merged tokens and pictures; then inference."""
    few = [f"{name}_dataloader.dataset.indices=4" for name in ("train", "val", "test")]
    short = ["train_cfg.max_epochs=1", "train_cfg.val_interval=1", "train_dataloader.batch_size=2"]
    keep = ["default_hooks.checkpoint.interval=1", "default_hooks.checkpoint.save_best=None"]
    options = ["--work-dir", f"{folder}/run", "--cfg-options", *few]
    run_tool("train.py", config("b0_stick_none"), *options, *short, *keep)
    weights = f"{folder}/run/epoch_1.pth"
    pictures = ["--show-dir", f"{folder}/pictures", "--out", f"{folder}/predictions.pkl"]
    run_tool("test.py", config("b0_stick_hq"), weights, *pictures, *options)
    infer(str(config("b0_stick_hq")), weights, folder)


def infer(cfg: str, weights: str, folder: str) -> None:
    """Run the example of docs/pose.md."""
    image = f"{os.environ['MMTOKMERGE_STICKS']}/images/val/00000.png"
    names: dict[str, Any] = {}
    places = dict(config=cfg, checkpoint=weights, image=image, pictures=f"{folder}/inferred")
    exec(example(0, **places), names)
    (person,) = names["inference_topdown"](names["model"], image)
    whole = np.array(names["keypoints"])
    np.testing.assert_allclose(whole, person.pred_instances.keypoints[0], rtol=1e-4)
    boxed = names["samples"][0].pred_instances.keypoints
    print(
        json.dumps(
            [list(whole.shape), list(boxed.shape), names["model"].dataset_meta["dataset_name"]]
        )
    )


def test_train_test_draw_and_infer(tmp_path: Path) -> None:
    from mmtokmerge.datasets.keypoints.stick_figures import FigureSet, make_stick_figures

    make_stick_figures(tmp_path / "data", FigureSet(train=4, val=4, height=96, width=96))
    output = in_fresh_python("train_and_test", tmp_path, MMTOKMERGE_STICKS=str(tmp_path / "data"))
    tested = next(line for line in reversed(output.splitlines()) if "Epoch(test)" in line)
    for name in ("PCK@0.1:", "PCK@0.05:", "PCK@0.02:", "mean_error:"):
        assert name in tested
    assert json.loads(output.splitlines()[-1]) == [[20, 2], [1, 20, 2], "sticks"]
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    stems = {f"{index:05d}_{index + 1}" for index in range(4)}
    assert names == {f"{stem}{end}.png" for stem in stems for end in ("", "_tokens")}
    assert (tmp_path / "predictions.pkl").stat().st_size > 0
    assert (tmp_path / "inferred" / "00000.png").is_file()


def run_coco(folder: str) -> None:
    """Test untrained weights on COCO's images by true boxes, then by a detector's."""
    import torch
    from mmengine.registry import MODELS, DefaultScope

    from mmtokmerge.engine.launch import import_scope, load_config

    cfg = load_config(str(config("b0_coco_none")))
    import_scope("mmpose")
    with DefaultScope.overwrite_default_scope("mmpose"):
        torch.save(MODELS.build(cfg.model).state_dict(), f"{folder}/weights.pth")
    place = "test_dataloader.dataset"
    files = [f"{place}.ann_file=test_coco.json", f"{place}.data_prefix.img="]
    options = ["--work-dir", folder, "--cfg-options", "model.test_cfg.flip_test=False", *files]
    arguments = [config("b0_coco_hq"), f"{folder}/weights.pth", *options]
    run_tool("test.py", *arguments)
    boxes = f"{place}.bbox_file={COCO}/test_coco_det_AP_H_56.json"
    run_tool("test.py", *arguments, boxes, f"{place}.indices=4")


@pytest.mark.skipif(not COCO.is_dir(), reason=f"{COCO} is not there (see MMTOKMERGE_DATA)")
def test_coco_has_average_precision_and_pck_but_no_pck_of_detections(tmp_path: Path) -> None:
    output = in_fresh_python("run_coco", tmp_path, MMTOKMERGE_COCO=str(COCO))
    true, detected = (line for line in output.splitlines() if "Epoch(test)" in line)
    assert "coco/AP:" in true and "coco/AR:" in true
    assert "PCK@0.1:" in true and "PCK@0.05:" in true and "mean_error:" in true
    assert "coco/AP:" in detected and "PCK" not in detected
    assert "4 of 4 samples come from detector boxes" in output


@pytest.mark.skipif(not MICE.is_dir(), reason=f"{MICE} is not there (see MMTOKMERGE_DATA)")
def test_the_mice_are_read_whole() -> None:
    from mmengine.config import Config
    from mmengine.registry import DATASETS, DefaultScope

    from mmtokmerge.pose import import_mmpose

    import_mmpose()
    cfg = Config.fromfile(config("b0_mouse_none"))
    for loader, number in ((cfg.train_dataloader, 93), (cfg.val_dataloader, 23)):
        with DefaultScope.overwrite_default_scope("mmpose"):
            mice = DATASETS.build(dict(loader.dataset, data_root=str(MICE)))
        assert len(mice) == number
        sample = mice[0]
        assert sample["inputs"].shape == (3, 256, 256)
    assert sample["data_samples"].gt_instances.keypoints.shape == (1, 4, 2)
