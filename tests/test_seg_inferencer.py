"""mmseg's own interfaces for inference take our configs as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pose_helpers import ROOT, example

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
