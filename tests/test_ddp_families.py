"""Two processes train every family: no parameter is left without a gradient."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmseg", reason="needs MMSegmentation")
pytest.importorskip("mmpose", reason="needs MMPose")

TRIAL = Path(__file__).with_name("ddp_trial.py")


def test_every_family_trains_in_two_processes() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, TRIAL, str(rank), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        found = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    errors = [output[1][-3000:] for output in found]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    assert json.loads(found[0][0].strip().splitlines()[-1]) == {}
