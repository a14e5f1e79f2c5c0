"""The train and test tools: what they do, and the one sentence when they cannot."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import run_tool, weights_of, write_config
from mmengine.config import Config
from PIL import Image

from mmtokmerge.commands.main import sentence_of
from mmtokmerge.engine.launch import load_config
from mmtokmerge.errors import InputError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config and its checkpoint after two iterations in bfloat16."""
    config = write_config(tmp_path_factory.mktemp("tools"))
    work_dir = config.parent / "amp"
    options = ("--cfg-options", "train_cfg.max_iters=2", "optim_wrapper.optimizer.lr=0.01")
    result = run_tool("train.py", config, "--work-dir", work_dir, "--amp", *options)
    assert result.status == 0, result.output
    assert "lr: 1.0000e-02" in result.output
    return config, work_dir / "iter_2.pth"


def test_amp_and_options_reach_the_run(trained: tuple[Path, Path]) -> None:
    config, checkpoint = trained
    ran = Config.fromfile(checkpoint.parent / config.name)
    assert ran.optim_wrapper.type == "mmtokmerge.Bf16OptimWrapper"
    assert ran.train_cfg.max_iters == 2
    assert all(value.dtype != torch.bfloat16 for value in weights_of(checkpoint).values())


def test_test_saves_predictions_and_pictures(trained: tuple[Path, Path], tmp_path: Path) -> None:
    out, show = tmp_path / "labels", tmp_path / "show"
    result = run_tool(
        "test.py", *trained, "--work-dir", tmp_path / "work", "--out", out, "--show-dir", show
    )
    assert result.status == 0, result.output
    assert "mIoU: " in result.output
    labels = [np.asarray(Image.open(path)) for path in sorted(out.glob("*.png"))]
    assert [label.shape for label in labels] == [(64, 64)] * 6
    assert all(label.max() < 3 for label in labels)
    assert list(show.rglob("*.png"))


def test_test_time_augmentation_and_dump(trained: tuple[Path, Path], tmp_path: Path) -> None:
    result = run_tool(
        "test.py", *trained, "--work-dir", tmp_path, "--tta", "--out", tmp_path / "all.pkl"
    )
    assert result.status == 0, result.output
    with open(tmp_path / "all.pkl", "rb") as file:
        assert len(pickle.load(file)) == 6


def test_mistakes_are_one_sentence(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config, checkpoint = trained
    cut = tmp_path / "cut.pth"
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    work = ("--work-dir", tmp_path / "work")
    wide = ("--cfg-options", "model.decode_head.channels=16")
    cases = [
        (("train.py", "none.py"), "There is no config file at none.py."),
        (("test.py", config, "none.pth"), "There is no checkpoint at none.pth."),
        (("test.py", config, cut), f"The checkpoint {cut} is cut off or damaged."),
        (
            ("train.py", config, "--cfg-options", f"load_from={cut}"),
            f"The checkpoint {cut} is cut off or damaged.",
        ),
        (
            ("test.py", config, checkpoint, *wide),
            f"The checkpoint {checkpoint} does not fit the config's model: decode_head",
        ),
        (
            ("train.py", config, "--cfg-options", "default_scope=mmnone"),
            "The config's default_scope 'mmnone' cannot be imported (No module named 'mmnone')",
        ),
        (
            ("train.py", config, "--launcher", "pytorch"),
            "--launcher pytorch needs the processes that torchrun starts",
        ),
        (
            ("train.py", config, "--cfg-options", "optim_wraper.optimizer.lr=1"),
            "--cfg-options optim_wraper.optimizer.lr: the config has no 'optim_wraper'; did you",
        ),
    ]
    for (tool, *arguments), sentence in cases:
        result = run_tool(tool, *arguments, *work)
        assert result.status == 1, result.output
        assert result.error.startswith(f"error: {sentence}")
        assert "Traceback" not in result.output


def test_resuming_a_cut_off_checkpoint_names_it(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config, checkpoint = trained
    cut = tmp_path / "iter_2.pth"
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    result = run_tool("train.py", config, "--work-dir", tmp_path, "--resume")
    assert (result.status, result.error) == (
        1,
        f"error: The checkpoint {cut} is cut off or damaged.",
    )


def test_bad_image_in_a_worker_is_one_sentence(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """The sentence crosses from the data loader's process to the tool's last line."""
    config = write_config(tmp_path)
    bad = tmp_path / "data" / "images" / "3.png"
    bad.write_bytes(bad.read_bytes()[:3000])
    result = run_tool(
        "test.py", config, trained[1], "--work-dir", tmp_path / "work", "--cfg-options",
        "test_dataloader.num_workers=2", "test_dataloader.persistent_workers=True",
        "test_dataloader.dataset.pipeline.0.type=mmtokmerge.LoadImage",
    )  # fmt: skip
    assert result.status == 1, result.output
    assert result.error.startswith("error: ") and str(bad) in result.error
    assert "Traceback" not in result.output


def test_no_workers_need_no_persistence(trained: tuple[Path, Path], tmp_path: Path) -> None:
    result = run_tool(
        "test.py", *trained, "--work-dir", tmp_path,
        "--cfg-options", "test_dataloader.persistent_workers=True",
    )  # fmt: skip
    assert result.status == 0, result.output


def test_fine_tuning_refuses_a_head_of_another_width(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    config, checkpoint = trained
    options = (f"load_from={checkpoint}", "model.decode_head.channels=16", "train_cfg.max_iters=1")
    result = run_tool("train.py", config, "--work-dir", tmp_path, "--cfg-options", *options)
    assert result.status == 1, result.output
    assert "does not fit the config's model: decode_head.conv_seg.weight is (3, 8," in result.error


def test_sentence_survives_its_wrappers() -> None:
    told = "The image a.png is cut off."
    worker = (
        "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        f"last):\n  File ...\nmmtokmerge.errors.InputError: {told}\n"
    )
    for message in (told, worker, f"class `CamVidDataset` in mmtokmerge/camvid.py: {told}"):
        assert sentence_of(InputError(message)) == told


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("train_cfg.max_iter.x", "has no 'train_cfg.max_iter'; did you mean 'max_iters'"),
        ("wrk_dir", "has no 'wrk_dir'"),
        ("param_scheduler.3.end", "'3' is no index from 0 to 0"),
    ],
)
def test_option_that_leads_nowhere(tmp_path: Path, key: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        load_config(str(write_config(tmp_path)), {key: 1})


def test_options_that_lead_somewhere(tmp_path: Path) -> None:
    options = {"work_dir": "w", "param_scheduler.0.end": 7, "train_dataloader.dataset.indices": 3}
    cfg = load_config(str(write_config(tmp_path)), options)
    assert cfg.work_dir == "w"
    assert cfg.param_scheduler[0].end == 7
    assert cfg.train_dataloader.dataset.indices == 3


def test_unreadable_config_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    for text in ("model = dict(", "_base_ = ['none.py']", "a = undefined_name"):
        broken.write_text(text)
        with pytest.raises(InputError, match=r"broken\.py cannot be read: "):
            load_config(str(broken))


def test_flexible_runner_trains_and_its_model_is_checked_first(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    flexible = config.with_name("flexible.py")
    flexible.write_text(f'_base_ = ["{config}"]\nrunner_type = "FlexibleRunner"\n')
    wrong = run_tool(
        "train.py",
        flexible,
        *("--work-dir", tmp_path / "wrong", "--cfg-options", "model.decode_head.num_classes=5"),
    )
    assert wrong.status == 1
    assert wrong.output.strip().splitlines()[-1].startswith("error: ")
    assert "5" in wrong.output.strip().splitlines()[-1], wrong.output
    assert not list((tmp_path / "wrong").rglob("*.pth"))
    right = run_tool("train.py", flexible, "--work-dir", tmp_path / "right")
    assert right.status == 0, right.output
    assert weights_of(tmp_path / "right" / "iter_10.pth")
