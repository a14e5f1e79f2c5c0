"""One class for every host: MiT++ by name from mmseg's, mmpose's and mmpretrain's registries."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
BACKBONE = "dict(type='mmtokmerge.MiTPlusPlus', arch='b0', merging='hq', {})"


def run_python(code: str) -> None:
    """Run ``code`` in a fresh Python at the repository root; its errors fail the test."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@needs("mmseg")
def test_mmseg_segmentor() -> None:
    """No import of ours: the prefix finds the package."""
    run_python(
        "import torch\n"
        "from mmengine.registry import init_default_scope\n"
        "from mmseg.registry import MODELS\n"
        "init_default_scope('mmseg')\n"
        "from mmengine.config import ConfigDict\n"
        "model = MODELS.build(ConfigDict(type='mmseg.EncoderDecoder',\n"
        f"    backbone={BACKBONE.format('')},\n"
        "    decode_head=dict(type='mmtokmerge.SegformerHead', in_channels=[32, 64, 160, 256],\n"
        "        in_index=[0, 1, 2, 3], channels=16, num_classes=5, align_corners=False,\n"
        "        norm_cfg=dict(type='BN')),\n"
        "    train_cfg=dict(), test_cfg=dict(mode='whole'))).eval()\n"
        "assert model(torch.randn(1, 3, 64, 96)).shape == (1, 5, 16, 24)\n"
        "model.predict(torch.randn(1, 3, 64, 96))\n"
    )


@needs("mmpretrain")
def test_mmpretrain_classifier() -> None:
    run_python(
        "import torch\n"
        "from mmengine.registry import init_default_scope\n"
        "import mmpretrain.models\n"
        "from mmpretrain.registry import MODELS\n"
        "init_default_scope('mmpretrain')\n"
        "model = MODELS.build(dict(type='ImageClassifier',\n"
        f"    backbone={BACKBONE.format('out_indices=(3,)')},\n"
        "    neck=dict(type='GlobalAveragePooling'),\n"
        "    head=dict(type='LinearClsHead', num_classes=7, in_channels=256))).eval()\n"
        "assert model(torch.randn(2, 3, 64, 64), mode='tensor').shape == (2, 7)\n"
    )


@needs("mmpose")
def test_mmpose_estimator() -> None:
    run_python(
        "import torch\n"
        "from mmtokmerge._mmpose_import import import_mmpose\n"
        "import_mmpose()\n"
        "from mmengine.registry import init_default_scope\n"
        "from mmpose.registry import MODELS\n"
        "init_default_scope('mmpose')\n"
        "model = MODELS.build(dict(type='TopdownPoseEstimator',\n"
        f"    backbone={BACKBONE.format('')},\n"
        "    head=dict(type='HeatmapHead', in_channels=256, out_channels=17,\n"
        "        loss=dict(type='KeypointMSELoss', use_target_weight=True),\n"
        "        decoder=dict(type='MSRAHeatmap', input_size=(64, 64), heatmap_size=(16, 16),\n"
        "            sigma=2)))).eval()\n"
        "features = model.extract_feat(torch.randn(1, 3, 64, 64))\n"
        "assert model.head(features).shape == (1, 17, 16, 16)\n"
    )
