"""MMPose, a drawn data set and synthetic batches that the pose tests share."""

from __future__ import annotations

import copy
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData

from mmtokmerge.pose import import_mmpose
from mmtokmerge.registry import DATASETS

ROOT = Path(__file__).resolve().parents[1]
needs_mmpose = pytest.mark.skipif(find_spec("mmpose") is None, reason="MMPose is not installed")

PERSON = dict(
    id=7, image_id=3, category_id=1, iscrowd=0, area=900.0, num_keypoints=4, bbox=[10, 10, 30, 30]
)
"""An instance of :func:`write_mice`; its keypoints are added there."""


def example(index: int, **replaced: str) -> str:
    """A Python example of docs/pose.md, with other file names put in; each must stand there."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pose.md").read_text(), re.DOTALL)
    code = blocks[index]
    for name, path in replaced.items():
        old = {"config": r"configs/\w+/\w+\.py", "image": r"\w+\.(?:jpg|png)"}.get(name, name)
        quoted = f'"{old}(?:\\.pth)?"'
        assert re.search(quoted, code), name
        code = re.sub(quoted, repr(path), code)
    return code


def write_mice(folder: Path, content: dict[str, Any] | None = None) -> Path:
    """Write one grey image and ``mice.json``, by default a correct one; returns the json's path."""
    from PIL import Image

    Image.new("RGB", (64, 48), (128, 128, 128)).save(folder / "mouse.png")
    path = folder / "mice.json"
    path.write_text(json.dumps(correct_mice() if content is None else content))
    return path


def correct_mice() -> dict[str, Any]:
    """A COCO keypoint file of one mouse with 4 keypoints."""
    keypoints = [12, 14, 2, 20, 22, 2, 30, 31, 2, 35, 38, 2]
    return copy.deepcopy(
        dict(
            images=[dict(id=3, file_name="mouse.png", width=64, height=48)],
            annotations=[dict(PERSON, keypoints=keypoints)],
            categories=[dict(id=1, name="mouse")],
        )
    )


def build_mice(folder: Path, **settings: Any) -> Any:
    """The data set of :func:`write_mice`."""
    cfg = dict(
        type="mmtokmerge.MouseKeypoints",
        data_root=str(folder),
        ann_file="mice.json",
        data_prefix=dict(img="."),
        pipeline=[],
        **settings,
    )
    import_mmpose()
    with DefaultScope.overwrite_default_scope("mmpose"):
        return DATASETS.build(cfg)


def synthetic_batch(keypoints: int, size: tuple[int, int], batch: int = 2) -> tuple[Any, list]:
    """Noise images ``(B, 3, H, W)`` and samples with heatmaps at a quarter of their size."""
    from mmpose.structures import PoseDataSample

    generator = torch.Generator().manual_seed(0)
    height, width = size
    samples = []
    for _ in range(batch):
        heatmaps = torch.rand(keypoints, height // 4, width // 4, generator=generator)
        sample = PoseDataSample(gt_fields=PixelData(heatmaps=heatmaps))
        sample.gt_instance_labels = InstanceData(keypoint_weights=torch.ones(1, keypoints))
        box = np.array([[0, 0, width, height]], dtype=np.float32)
        sample.gt_instances = InstanceData(bboxes=box, bbox_scores=np.ones(1, dtype=np.float32))
        sample.set_metainfo(
            dict(
                input_size=np.array([width, height]),
                input_center=np.array([width / 2, height / 2]),
                input_scale=np.array([width, height], dtype=np.float32),
                flip_indices=list(range(keypoints)),
                img_path="noise.png",
            )
        )
        samples.append(sample)
    return torch.randn(batch, 3, height, width, generator=generator), samples
