"""Two processes train as one does with the same global batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from engine_helpers import ROOT, run_tool, weights_of, write_config


def losses(work_dir: Path) -> np.ndarray:
    """The loss of each training iteration, the mean over the processes."""
    return np.mean([np.loadtxt(path) for path in sorted(work_dir.glob("losses_*"))], axis=0)


def test_two_processes_train_to_the_losses_of_one(tmp_path: Path) -> None:
    config = write_config(tmp_path, drop=0.0, augmented=False)
    frozen = config.with_name("frozen.py")
    frozen.write_text(
        f"""_base_ = ["{config}"]
custom_hooks = [
    dict(type="mmtokmerge.IterSeedHook"), dict(type="FreezeBNHook")]
custom_imports = dict(imports=["engine_helpers"], allow_failed_imports=False)
model = dict(decode_head=dict(norm_cfg=dict(type="SyncBN")))
train_dataloader = dict(num_workers=1)
"""
    )
    one = run_tool("train.py", frozen, "--work-dir", tmp_path / "one")
    assert one.status == 0, one.output

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PORT": str(port),
        "PYTHONPATH": str(ROOT / "tests"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [
        "bash",
        ROOT / "tools" / "dist_train.sh",
        frozen,
        "2",
        "--work-dir",
        tmp_path / "two",
    ]
    command += ["--cfg-options", "train_dataloader.batch_size=2"]
    two = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert two.returncode == 0, two.stdout + two.stderr

    expected, obtained = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(list((tmp_path / "two").glob("losses_*"))) == 2
    assert expected.shape == (10,)
    np.testing.assert_allclose(obtained, expected, rtol=1e-4)
    assert expected[0] - expected[-1] > 1e-3
    first, second = (weights_of(tmp_path / run / "iter_10.pth") for run in ("one", "two"))
    for key, weight in first.items():
        torch.testing.assert_close(second[key], weight, rtol=1e-3, atol=1e-4, msg=key)
