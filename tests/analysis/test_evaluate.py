"""Measuring one setting: mIoU as the test tool has it, means over images, timing in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import write_config
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmtokmerge.engine.launch import import_scope
from mmtokmerge.errors import InputError
from mmtokmerge.measure import evaluate
from mmtokmerge.measure.evaluate import EvalSpec, Measurement, Setting, measure
from mmtokmerge.measure.samples import Samples


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config, nn.Module]:
    """A config of mmseg's own SegFormer, and the model with random weights."""
    from mmseg.registry import MODELS

    path = write_config(tmp_path_factory.mktemp("evaluate"))
    cfg = Config.fromfile(path)
    import_scope("mmseg")
    init_default_scope("mmseg")
    torch.manual_seed(0)
    return path, cfg, MODELS.build(cfg.model).eval()


@contextmanager
def probe(backbone: nn.Module) -> Iterator[dict[str, int]]:
    """Counts the tokens of the first patch embedding."""
    counts: dict[str, int] = {}

    def look(_: nn.Module, __: Any, output: tuple[torch.Tensor, Any]) -> None:
        counts["first"] = output[0].shape[1]

    handle = backbone.layers[0][0].register_forward_hook(look)
    yield counts
    handle.remove()


def work_of(cfg: Config, **options: Any) -> EvalSpec:
    return EvalSpec(Samples(cfg, "test"), cfg.test_evaluator, probe, **options)


def test_miou_by_hand(tiny: tuple[Path, Config, nn.Module]) -> None:
    """Intersection over union of each class over the pixels of all images, then their mean."""
    _, cfg, model = tiny
    spec = work_of(cfg)
    found = measure(Setting({}, model), Setting({"other": 1}, model), spec)
    hits, union = torch.zeros(3), torch.zeros(3)
    for batch in spec.samples:
        (sample,) = model.test_step(batch)
        label, guess = sample.gt_sem_seg.data[0], sample.pred_sem_seg.data[0]
        for index in range(3):
            mine, yours = (label == index), (guess == index) & (label != 255)
            hits[index] += (mine & yours).sum()
            union[index] += (mine | yours).sum()
    assert found.miou == pytest.approx(100 * float((hits / union).mean()), abs=0.006)
    assert 0 < found.miou < 100
    assert found.tokens == {"first": 16 * 16}


def test_flops_follow_the_shape_and_the_miou_does_not(tiny: tuple[Path, Config, nn.Module]) -> None:
    _, cfg, model = tiny
    setting = Setting({}, model)
    full = measure(setting, setting, work_of(cfg))
    half = measure(setting, setting, work_of(cfg, shape=(64, 32)))
    assert half.tokens == {"first": 16 * 8}
    assert 0.4 * full.flops < half.flops < 0.6 * full.flops
    assert half.metrics == full.metrics


def test_the_setting_is_active_only_while_it_is_measured(
    tiny: tuple[Path, Config, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake clock: the setting takes 2 ms, the reference 6, 9, 14, 21 ... ms; both run in turn."""
    _, cfg, model = tiny
    active: list[str] = []
    order: list[str] = []

    @contextmanager
    def enter(name: str) -> Iterator[None]:
        active.append(name)
        yield
        active.remove(name)

    def clock(step: Callable[[], Any]) -> float:
        handle = model.backbone.register_forward_hook(lambda *_: order.append(active[0]))
        step()
        handle.remove()
        return 2.0 if order[-1] == "setting" else 5.0 + order.count("reference") ** 2

    monkeypatch.setattr(evaluate, "wall_timer", clock)
    ticks: list[int] = []
    found = measure(
        Setting({"a": 1}, model, lambda: enter("setting")),
        Setting({"a": 0}, model, lambda: enter("reference")),
        work_of(cfg, repeats=3),
        lambda: ticks.append(1),
    )
    assert active == [] and len(ticks) == 6
    assert order == ["setting", "reference"] * 18
    assert found.milliseconds == [2.0] * 6
    assert found.reference_milliseconds == [9.0, 30.0, 69.0, 126.0, 201.0, 294.0]
    assert found.speed == (69 + 126) / 2 / 2
    assert Measurement.from_json(found.to_json()) == found


def test_the_reference_itself_has_speed_one(tiny: tuple[Path, Config, nn.Module]) -> None:
    _, cfg, model = tiny
    setting = Setting({}, model)
    assert measure(setting, setting, work_of(cfg)).speed == 1


def test_an_evaluator_without_miou(tiny: tuple[Path, Config, nn.Module]) -> None:
    _, cfg, model = tiny
    evaluator = dict(type="IoUMetric", iou_metrics=["mDice"])
    spec = EvalSpec(Samples(cfg, "test", 1), evaluator, probe)
    with pytest.raises(InputError, match="gives no mIoU, but aAcc, mDice, mAcc"):
        measure(Setting({}, model), Setting({}, model), spec)


def test_samples_are_a_fixed_draw_without_augmentation(
    tiny: tuple[Path, Config, nn.Module],
) -> None:
    _, cfg, _ = tiny
    three = Samples(cfg, "train", 3, seed=1)
    assert len(three) == 3 and three.indices == Samples(cfg, "train", 3, seed=1).indices
    assert len({tuple(Samples(cfg, "train", 3, seed=s).indices) for s in range(9)}) > 1
    first, again = (list(three) for _ in range(2))
    assert all(torch.equal(a["inputs"][0], b["inputs"][0]) for a, b in zip(first, again))
    assert first[0]["inputs"][0].shape == (3, 64, 64)  # the training pipeline crops 32 x 32
    assert "gt_sem_seg" in first[0]["data_samples"][0]
    (bare,) = Samples(cfg, "train", 1, labels=False)
    assert "gt_sem_seg" not in bare["data_samples"][0]


@pytest.mark.parametrize(("count", "words"), [(0, "at least 1"), (7, "which is 6")])
def test_impossible_numbers_of_images(
    tiny: tuple[Path, Config, nn.Module], count: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Samples(tiny[1], "test", count)


def test_an_empty_set_and_a_missing_one(tiny: tuple[Path, Config, nn.Module]) -> None:
    cfg = tiny[1].copy()
    cfg.train_dataloader.dataset.indices = []
    with pytest.raises(InputError, match=r"The train set of .* is empty"):
        Samples(cfg, "train")
    cfg.pop("train_dataloader")
    with pytest.raises(InputError, match=r"has no train_dataloader\.dataset"):
        Samples(cfg, "train")


def test_a_changed_image_is_noticed(tmp_path: Path) -> None:
    cfg = Config.fromfile(write_config(tmp_path))
    before = Samples(cfg, "test").fingerprint()
    assert Samples(cfg, "test").fingerprint() == before
    assert Samples(cfg, "test", 3).fingerprint() != before
    label = next((tmp_path / "data" / "labels").glob("*.png"))
    label.write_bytes(label.read_bytes() + b"0")
    assert Samples(cfg, "test").fingerprint() != before
