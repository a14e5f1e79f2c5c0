"""Pose estimators exported: keypoints in the graph, the tools on exported files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import run_tool
from torch import nn

from mmtokmerge.deploy import export, load_exported
from mmtokmerge.errors import InputError

pytest.importorskip("mmpose")

CONFIG = "b0_stick_hq"


def codec_of(name: str = "MSRAHeatmap", **settings: Any) -> Any:
    from mmtokmerge.pose import import_mmpose

    import_mmpose()
    from mmpose.registry import KEYPOINT_CODECS

    made = dict(type=name, input_size=(96, 128), heatmap_size=(24, 32), sigma=2, **settings)
    return KEYPOINT_CODECS.build(made)


@pytest.mark.parametrize("kernel", [11, 17])
@pytest.mark.parametrize("unbiased", [False, True])
def test_decoding_equals_mmposes(unbiased: bool, kernel: int) -> None:
    """Blobs inside, at the border, outside and none at all, with and without noise."""
    from mmtokmerge.models.heatmap_decoding import HeatmapDecoding

    codec = codec_of(unbiased=unbiased, blur_kernel_size=kernel)
    decoding, generator = HeatmapDecoding(codec), np.random.default_rng(0)
    for trial in range(30):
        places = generator.uniform(-4, 130, (1, 6, 2)).astype(np.float32)
        maps = codec.encode(places)["heatmaps"] * generator.uniform(0.2, 1, (6, 1, 1))
        maps = (maps + generator.normal(0, 0.01, maps.shape) * (trial % 2)).astype(np.float32)
        maps[2] *= trial % 5 > 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mmpose divides by the maximum of an empty map
            keypoints, scores = codec.decode(maps)
        found, found_scores = decoding(torch.from_numpy(maps)[None])
        np.testing.assert_allclose(found.numpy(), keypoints, atol=0.01)
        np.testing.assert_allclose(found_scores.numpy(), scores, rtol=1e-6)


def test_other_codecs_are_refused() -> None:
    from mmtokmerge.models.heatmap_decoding import HeatmapDecoding

    with pytest.raises(InputError, match="the head's decoder is UDPHeatmap: export the heatmaps"):
        HeatmapDecoding(codec_of("UDPHeatmap"))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_one_file_of_keypoints_for_several_sizes(suffix: str, tmp_path: Path) -> None:
    from mmtokmerge.models.heatmap_decoding import HeatmapDecoding

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 4, 4)
            self.decoding = HeatmapDecoding(codec_of(unbiased=True))

        def forward(self, images: torch.Tensor) -> Any:
            return self.decoding(self.conv(images).relu())

    torch.manual_seed(0)
    network, out = Network().eval(), tmp_path / f"keypoints{suffix}"
    export(network, torch.randn(2, 3, 256, 288), out)
    images = torch.randn(3, 3, 300, 260)
    for found, expected in zip(load_exported(out)(images), network(images), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pose network with random weights whose heatmaps are not flat."""
    from mmengine.registry import MODELS, init_default_scope

    from mmtokmerge.engine.config import load_config
    from mmtokmerge.engine.launch import import_scope

    cfg = load_config(CONFIG)
    import_scope("mmpose")
    init_default_scope("mmpose")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    nn.init.normal_(model.head.final_layer.weight, std=0.1)
    path = tmp_path_factory.mktemp("pose") / "pose.pth"
    torch.save({"meta": {}, "state_dict": model.state_dict()}, path)
    return path


def test_the_tools_take_an_exported_file(weights: Path, tmp_path: Path) -> None:
    """`test` and `predict` give what they give with the weights, flipped images averaged too."""
    import cv2

    out = tmp_path / "pose.onnx"
    made = run_tool(
        *("export.py", CONFIG, str(weights), "--format", "onnx", "--out", str(out), "--static"),
        *("--batch-size", 1),
    )
    assert made.status == 0, made.output
    noise = np.random.default_rng(0).integers(0, 255, (256, 192, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), noise)
    rows = []
    for model in (weights, out):
        folder = tmp_path / model.suffix[1:]
        done = run_tool(
            *("predict.py", CONFIG, str(model), str(tmp_path / "a.png"), "--out", str(folder))
        )
        assert done.status == 0, done.output
        rows.append(json.loads((folder / "a_keypoints.json").read_text())[0])
    near = np.isclose(rows[0]["keypoints"], rows[1]["keypoints"], atol=0.05)
    assert near.mean() > 0.9  # of random weights a neighbour may be as large by all but rounding
    np.testing.assert_allclose(rows[0]["scores"], rows[1]["scores"], rtol=0.01, atol=0.01)
    wrong = run_tool("predict.py", CONFIG, str(out), str(tmp_path / "a.png"), "--tokens")
    assert "--tokens and --compare look into a model" in wrong.error


def test_keypoints_are_for_pose() -> None:
    weights = Path(__file__).parents[2] / "mmtokmerge" / "assets" / "b0_streets.pth"
    wrong = run_tool("export.py", "b0_demo_none", str(weights), "--keypoints")
    assert wrong.error == "error: --keypoints is for pose; a segmentor returns logits or labels"
