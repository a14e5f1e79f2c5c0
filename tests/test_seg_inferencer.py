"""mmseg's own interfaces for inference take our configs as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pose_helpers import ROOT, example, needs_mmpose

CODE = """
import importlib.util, sys
import numpy as np, torch
from mmengine.registry import MODELS, DefaultScope
from mmseg.apis import inference_model, init_model
from mmtokmerge.engine.launch import import_scope, load_config

config, folder, example = sys.argv[1:]
cfg = load_config(config)
import_scope("mmseg")
with DefaultScope.overwrite_default_scope("mmseg"):
    torch.manual_seed(0)
    state = MODELS.build(cfg.model).state_dict()
torch.save(dict(state_dict=state, meta={}), f"{folder}/weights.pth")
exec(example)
model = init_model(config, f"{folder}/weights.pth", device="cpu")
again = inference_model(model, f"{folder}/street.png").pred_sem_seg.data[0].numpy()
assert labels.shape == (64, 96), labels.shape
assert (labels == again).all()
assert len(np.unique(labels)) > 1
assert "mmpose" not in sys.modules  # segmentation does not pay for pose
if importlib.util.find_spec("mmpose"):  # whose types are found later in the same process
    assert MODELS.get("mmtokmerge.SegformerPoseHead").__name__ == "SegformerPoseHead"
print("equal")
"""


def test_the_inferencer_and_the_function_agree(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "street.png")
    config = ROOT / "configs" / "segformerpp" / "b0_demo_hq.py"
    image, weights = (str(tmp_path / name) for name in ("street.png", "weights.pth"))
    code = example(1, config=str(config), checkpoint=weights, image=image, pictures=str(tmp_path))
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(config), str(tmp_path), code]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip().splitlines()[-1] == "equal"
    assert list((tmp_path / "vis").glob("*.png"))


def test_names_of_configs_are_taken(tmp_path: Path) -> None:
    from mmtokmerge.errors import InputError
    from mmtokmerge.inferencers import MMSegInferencer, resolve

    path = str(ROOT / "configs/segformerpp/b0_demo_hq.py")
    shipped = str(ROOT / "mmtokmerge/assets/b0_streets.pth")
    assert resolve("b0_demo_hq", None) == (path, shipped)
    assert resolve("segformerpp/b0_demo_hq", "own.pth") == (path, "own.pth")
    assert resolve(path, None) == (path, None)  # mmseg's own way
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    by_name = MMSegInferencer("b0_demo_hq", device="cpu")(noise)["predictions"]
    from mmseg.apis import MMSegInferencer as Host

    assert np.array_equal(by_name, Host(path, shipped, device="cpu")(noise)["predictions"])
    with pytest.raises(InputError, match="b0_camvid_hq has no weights in this package"):
        MMSegInferencer("b0_camvid_hq", device="cpu")
    with pytest.raises(InputError, match="did you mean 'b0_camvid_hq'"):
        MMSegInferencer("b0_camvid_hqq", device="cpu")


@needs_mmpose
def test_names_of_pose_configs_are_taken(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, torch; from mmengine.registry import MODELS, DefaultScope\n"
        "from mmtokmerge.inferencers import MMPoseInferencer\n"
        "from mmtokmerge.engine.launch import import_scope, load_config\n"
        "import_scope('mmpose')\n"
        "with DefaultScope.overwrite_default_scope('mmpose'):\n"
        "    state = MODELS.build(load_config('b0_mouse_hq').model).state_dict()\n"
        "torch.save(dict(state_dict=state, meta={}), sys.argv[1])\n"
        "one = MMPoseInferencer('b0_mouse_hq', sys.argv[1], det_model='whole_image')\n"
        "found = next(one(np.zeros((64, 96, 3), np.uint8)))['predictions'][0][0]['keypoints']\n"
        "print(len(found))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "w.pth")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout.strip().splitlines()[-1]) == 4
