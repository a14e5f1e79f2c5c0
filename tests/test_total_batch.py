"""A launch says its total batch, and what the config's learning rate is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmengine")

from mmengine.config import Config

from mmtokmerge.engine import launch

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize(
    ("batch", "processes", "scale", "expected"),
    [
        (4, 1, False, "Total batch: 4, 1 x 4."),
        (1, 4, False, "Total batch: 4, 4 x 1."),
        (
            *(4, 4, False),
            "Total batch: 16, 4 x 4. The config's learning rate is for 4 and stays as it is: "
            "train_dataloader.batch_size=1 makes it 4, auto_scale_lr.enable=True scales it.",
        ),
        (
            *(1, 8, False),
            "Total batch: 8, 8 x 1. The config's learning rate is for 4 and stays as it is: "
            "auto_scale_lr.enable=True scales it.",
        ),
        (
            *(2, 8, True),
            "Total batch: 16, 8 x 2. auto_scale_lr scales the learning rate, which is for 4.",
        ),
    ],
)
def test_what_is_said(
    batch: int, processes: int, scale: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(launch, "get_world_size", lambda: processes)
    monkeypatch.setattr(launch, "print_log", lambda text, *_: said.append(text))
    settings: dict[str, Any] = dict(
        train_dataloader=dict(batch_size=batch),
        auto_scale_lr=dict(enable=scale, base_batch_size=4),
    )
    launch.say_total_batch(Config(settings))
    assert said == [expected]


# Of the papers: Segformer++ 4 and 8; Segmenter 8, on Pascal-Context 16 in ALGM and 8 in CTS.
@pytest.mark.parametrize(
    ("config", "total"),
    [
        ("segformerpp/b5_cityscapes_hq.py", 4),
        ("segformerpp/b5_ade20k_hq.py", 8),
        ("segformerpp/b0_coco_hq.py", 16),
        ("algm/segmenter_vit-s_cityscapes_algm.py", 8),
        ("algm/segmenter_vit-s_ade20k_algm.py", 8),
        ("algm/segmenter_vit-s_pcontext_algm.py", 16),
        ("cts/segmenter_vit-s_pcontext_cts.py", 8),
        ("cts/policynet_ade20k.py", 8),
    ],
)
def test_the_configs_hold_the_papers_totals(config: str, total: int) -> None:
    cfg = Config.fromfile(CONFIGS / config)
    assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size == total
    assert cfg.auto_scale_lr.enable is False
