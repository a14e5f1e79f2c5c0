"""Pictures of shared tokens: what the recorder sees is what the backbone shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from algm_tools_helpers import write_tiny, write_weights
from engine_helpers import run_tool
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmtokmerge.engine.launch import import_scope, load_config
from mmtokmerge.registry import MODELS
from mmtokmerge.visualization import encode_one, merges

ORACLE = """
model.update(type="mmtokmerge.SharingEncoderDecoder")
model["backbone"].update(
    sharing=dict(num_shared=2, policy=dict(type="mmtokmerge.OraclePolicy")))
"""


def write(folder: Path, test_cfg: str = 'dict(mode="whole")') -> Path:
    config = write_tiny(folder, "", test_cfg)
    config.write_text(config.read_text() + ORACLE)
    return config


@pytest.mark.parametrize(
    "test_cfg", ['dict(mode="whole")', 'dict(mode="slide", crop_size=(32, 32), stride=(16, 16))']
)
def test_the_superpatches_of_one_class_are_recorded(tmp_path: Path, test_cfg: str) -> None:
    import_scope("mmseg")
    init_default_scope("mmseg")
    model = MODELS.build(load_config(str(write(tmp_path, test_cfg))).model).eval()
    label = torch.arange(64 * 48).view(1, 64, 48) % 3  # nothing but mixed superpatches ...
    label[:, :16, 16:32] = 1
    label[:, 16:32, :16] = 2  # ... and two of a single class
    sample = SegDataSample(gt_sem_seg=PixelData(data=label))
    sample.set_metainfo(dict(img_shape=(64, 48), ori_shape=(64, 48)))
    image = torch.randint(0, 255, (3, 64, 48), dtype=torch.uint8)
    pixels, records, note = encode_one(model, dict(inputs=[image], data_samples=[sample]))
    assert merges(model) and [each.place for each in records] == ["Shared before layer 1"]
    assert records[0].how == "OraclePolicy, S = 2"
    h, w = records[0].hw
    assert (h, w) == ((4, 4) if "slide" in test_cfg else (8, 6)) and bool(note) == (
        "slide" in test_cfg
    )
    groups = records[0].groups().view(h, w)
    together = (groups.flatten()[:, None] == groups.flatten()[None]).sum(1).view(h, w)
    expected = torch.ones(h, w, dtype=torch.long)
    expected[:2, 2:4] = expected[2:4, :2] = 4
    assert torch.equal(together, expected)
    assert tuple(pixels.shape[1:]) == (8 * h, 8 * w)


def test_show_dir_draws_them(tmp_path: Path) -> None:
    config = write(tmp_path)
    weights = write_weights(config)
    show = tmp_path / "show"
    result = run_tool("test.py", config, weights, "--work-dir", tmp_path / "w", "--show-dir", show)
    assert result.status == 0, result.output
    assert len(list(show.rglob("*_tokens*.png"))) == 4
