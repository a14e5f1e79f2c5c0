"""What ``tools/test.py --show-dir`` and ``--compare`` draw, through the visualizer's backends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from engine_helpers import ToolResult, run_tool, write_config
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseTTAModel
from mmengine.registry import VISBACKENDS, init_default_scope
from mmengine.visualization import BaseVisBackend
from mmseg.apis import init_model
from mmseg.registry import DATASETS
from mmseg.visualization import SegLocalVisualizer

from mmtokmerge.analysis.overview import overview_figure
from mmtokmerge.engine.hooks import MergeVisualizationHook
from mmtokmerge.engine.loading import load_segmentor
from mmtokmerge.errors import InputError
from mmtokmerge.visualization.differences import DIFFERENCE

MERGING = """_base_ = ["{base}"]
model = dict(
    backbone=dict(
        _delete_=True, type="mmtokmerge.MiTPlusPlus", merging="{merging}",
        arch=dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))),
    decode_head=dict(num_classes={classes}))
"""


class Models(dict):
    """Configs by name, and the folder they are in."""

    checkpoint: str


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Configs of one model with and without merging, and its random weights."""
    base = write_config(tmp_path_factory.mktemp("pictures"))
    found = Models()
    for name, merging, classes in (("hq", "hq", 3), ("none", "none", 3), ("four", "none", 4)):
        path = base.with_name(f"{name}.py")
        path.write_text(MERGING.format(base=base, merging=merging, classes=classes))
        found[name] = str(path)
        torch.manual_seed(0)
        model = init_model(str(path), device="cpu")
        model.init_weights()
        torch.nn.init.normal_(model.decode_head.conv_seg.weight)
        found[f"{name}.pth"] = str(path.with_suffix(".pth"))
        torch.save(dict(state_dict=model.state_dict()), found[f"{name}.pth"])
    return found


@VISBACKENDS.register_module(force=True)
class CollectingBackend(BaseVisBackend):
    """A backend beside files, as TensorBoard and W&B are."""

    images: dict[str, np.ndarray] = {}

    def _init_env(self) -> None:
        """Nothing to set up."""

    @property
    def experiment(self) -> Any:
        return self

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **_: Any) -> None:
        self.images[f"{name}@{step}"] = image


def draw(cfg_path: str, checkpoint: str, tmp_path: Path, tta: bool = False, **hook: Any) -> Any:
    """Test one batch of two images with the hook in a stub of a runner; returns the runner."""
    cfg = Config.fromfile(cfg_path)
    init_default_scope("mmseg")
    name = f"visualizer-{tmp_path}"
    visualizer = SegLocalVisualizer.get_instance(
        name, vis_backends=[dict(type="CollectingBackend")], save_dir=str(tmp_path)
    )
    CollectingBackend.images = {}
    visualizer.dataset_meta = cfg.data["metainfo"]
    model = load_segmentor(cfg, checkpoint)
    messages: list[str] = []
    runner = SimpleNamespace(
        model=View(module=model) if tta else model,
        iter=100,
        cfg=cfg,
        logger=SimpleNamespace(info=messages.append),
        messages=messages,
    )
    drawing = MergeVisualizationHook(draw=True, **hook)
    assert drawing._visualizer is visualizer
    batch = batch_of(cfg)
    if tta:
        batch = {key: [value, value] for key, value in batch.items()}
    drawing.before_test(runner)
    with torch.no_grad():
        outputs = runner.model.test_step(batch)
        drawing.after_test_iter(runner, 0, batch, outputs)
    drawing.after_test(runner)
    runner.validate = lambda index: drawing.after_val_iter(runner, index, batch, outputs)
    return runner


def batch_of(cfg: Config) -> dict:
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    return pseudo_collate([dataset[0], dataset[1]])


class View(BaseTTAModel):
    """Takes the first view's prediction."""

    def merge_preds(self, data_samples_list: list) -> list:
        return [views[0] for views in data_samples_list]


def test_every_backend_gets_overlay_tokens_and_differences(models: Models, tmp_path: Path) -> None:
    compare = dict(config=models["none"], checkpoint=models["hq.pth"])
    runner = draw(models["hq"], models["hq.pth"], tmp_path, compare=compare)
    images = CollectingBackend.images
    assert sorted(images) == [
        f"test_{index}.png{what}@{index + 1}"
        for index in (0, 1)
        for what in ("", "_differences", "_tokens")
    ]
    assert all(image.dtype == np.uint8 for image in images.values())
    other = load_segmentor(models["none"], models["hq.pth"])
    with torch.no_grad():
        first, second = (m.test_step(batch_of(runner.cfg)) for m in (runner.model, other))
    shares = [
        (a.pred_sem_seg.data != b.pred_sem_seg.data).float().mean().item()
        for a, b in zip(first, second)
    ]
    assert min(shares) > 0, "there is something to draw"
    said = f"The predictions differ from those of none on {np.mean(shares):.2%} of the pixels"
    assert runner.messages == [f"{said} of 2 images."]
    pink = (images["test_0.png_differences@1"] == DIFFERENCE).all(axis=2)
    assert pink.any()


def test_model_compared_with_itself_does_not_differ(models: Models, tmp_path: Path) -> None:
    compare = dict(config=models["none"], checkpoint=models["none.pth"])
    runner = draw(models["none"], models["none.pth"], tmp_path, compare=compare)
    assert "differ from those of none (compared) on 0.00% of" in runner.messages[0]
    assert not any("tokens" in name for name in CollectingBackend.images)
    differences = CollectingBackend.images["test_0.png_differences@1"]
    assert not (differences == DIFFERENCE).all(axis=2).any()


def test_augmented_test_is_compared_with_an_augmented_one(models: Models, tmp_path: Path) -> None:
    compare = dict(config=models["none"], checkpoint=models["hq.pth"])
    runner = draw(models["hq"], models["hq.pth"], tmp_path, tta=True, compare=compare)
    assert "of 2 images." in runner.messages[0]
    assert len(CollectingBackend.images) == 6


def test_validation_draws_the_first_image_of_some_batches(models: Models, tmp_path: Path) -> None:
    runner = draw(models["hq"], models["hq.pth"], tmp_path, interval=4)
    assert sorted(CollectingBackend.images) == sorted(
        f"test_{i}.png{what}@{i + 1}" for i in (0, 1) for what in ("", "_tokens")
    )
    CollectingBackend.images = {}
    for index in range(4):
        runner.validate(index)
    assert sorted(CollectingBackend.images) == ["val_0.png@100", "val_0.png_tokens@100"]


def test_wrong_settings(models: Models, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="block='middle' is unknown: take 'first' or 'last'"):
        draw(models["hq"], models["hq.pth"], tmp_path / "a", block="middle")
    with pytest.raises(
        InputError, match=r"compare must be dict\(config=..., checkpoint=...\), got"
    ):
        draw(models["hq"], models["hq.pth"], tmp_path / "b", compare=dict(config="x"))
    four = dict(config=models["four"], checkpoint=models["four.pth"])
    with pytest.raises(InputError, match=r"four.py: it predicts 4 classes, the tested model 3\."):
        draw(models["hq"], models["hq.pth"], tmp_path / "c", compare=four)
    misfit = dict(config=models["none"], checkpoint=models["four.pth"])
    with pytest.raises(InputError, match=r"four\.pth does not fit the config's model"):
        draw(models["hq"], models["hq.pth"], tmp_path / "d", compare=misfit)


def test_show_dir_and_compare_of_the_test_tool(models: Models, tmp_path: Path) -> None:
    def test(*arguments: str) -> ToolResult:
        model = (models["hq"], models["hq.pth"], "--work-dir", str(tmp_path / "work"))
        return run_tool("test.py", *model, *arguments)

    result = test("--tta", "--compare", models["none"], models["hq.pth"])
    assert result.status == 1
    assert result.error.startswith("error: --tta does not go with --compare")
    show = ("--show-dir", str(tmp_path / "show"))
    result = test(*show, "--compare", models["none"], "none.pth")
    assert (result.status, result.error) == (1, "error: There is no checkpoint at none.pth.")
    two = ("--cfg-options", "test_dataloader.dataset.indices=2")
    result = test(*show, "--compare", models["none"], models["hq.pth"], *two)
    assert result.status == 0, result.output
    assert "The predictions differ from those of none on" in result.output
    names = sorted(path.name for path in (tmp_path / "show").rglob("*.png"))
    assert names == sorted(
        f"test_{i}.png{what}_{i + 1}.png"
        for i in range(2)
        for what in ("", "_differences", "_tokens")
    )


def test_overview_tool_draws_one_image(models: Models, tmp_path: Path) -> None:
    image = str(Path(models["hq"]).parent / "data" / "images" / "0.png")
    model = (models["hq"], models["hq.pth"])
    out = tmp_path / "new" / "overview.png"
    result = run_tool("visualize_tokens.py", *model, image, "--out", str(out))
    assert result.status == 0, result.output
    assert cv2.imread(str(out)).shape[1] > 4 * 480
    cases = [
        ((*model, "none.png"), "none.png"),
        ((models["none"], models["none.pth"], image), "merges no tokens"),
        ((*model, image, "--device", "cuda"), "--device cuda: PyTorch finds no CUDA device here"),
    ]
    for arguments, sentence in cases:
        if "cuda" in arguments and torch.cuda.is_available():
            continue
        result = run_tool("visualize_tokens.py", *arguments, "--out", str(out))
        assert result.status == 1, result.output
        assert result.error.startswith("error: ")
        assert sentence in result.error


def test_overview_draws_the_asked_stages(models: Models) -> None:
    image = str(Path(models["hq"]).parent / "data" / "images" / "0.png")
    cfg = Config.fromfile(models["hq"])
    cfg.model.backbone.merging = [{}, {}, dict(q_mode="n2d"), {}]
    figure = overview_figure(cfg, models["hq.pth"], image, stages=(3,))
    assert figure.dtype == np.uint8
    with pytest.raises(InputError, match="merges nothing in stages 1, 2"):
        overview_figure(cfg, models["hq.pth"], image, stages=(1, 2))
