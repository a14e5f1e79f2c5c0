"""A killed and resumed run ends as one that was never broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import ToolResult, run_tool, weights_of, write_config, write_killed_config

from mmtokmerge.models.weights.safe_load import load_weights_only


def train(config: Path, work_dir: Path, *arguments: object) -> ToolResult:
    return run_tool("train.py", config, "--work-dir", work_dir, *arguments)


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = weights_of(first), weights_of(second)
    assert one.keys() == other.keys()
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert different == []


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, trained once without a break into ``unbroken``."""
    config = write_config(tmp_path_factory.mktemp("resume"))
    result = train(config, config.parent / "unbroken")
    assert result.status == 0, result.output
    return config


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_run_resumes_to_the_same_weights(unbroken: Path, workers: int) -> None:
    """Dropout, drop path and augmentation on; the number of workers must not matter either."""
    option = ("--cfg-options", f"train_dataloader.num_workers={workers}")
    work_dir = unbroken.parent / f"killed_{workers}"
    killed = train(write_killed_config(unbroken, "iter", 6), work_dir, *option)
    assert killed.status == -9, killed.output
    assert (work_dir / "iter_4.pth").is_file() and not (work_dir / "iter_8.pth").exists()

    resumed = train(unbroken, work_dir, "--resume", *option)
    assert resumed.status == 0, resumed.output
    assert "resumed epoch: 0, iter: 4" in resumed.output
    assert_same_weights(unbroken.parent / "unbroken" / "iter_10.pth", work_dir / "iter_10.pth")


def test_seed_decides_the_weights(unbroken: Path) -> None:
    """The equality above is not for want of randomness."""
    work_dir = unbroken.parent / "other_seed"
    result = train(unbroken, work_dir, "--cfg-options", "randomness.seed=1")
    assert result.status == 0, result.output
    one = weights_of(unbroken.parent / "unbroken" / "iter_10.pth")
    other = weights_of(work_dir / "iter_10.pth")
    assert any(not torch.equal(one[key], other[key]) for key in one if key.endswith("weight"))


def test_kill_while_writing_keeps_the_earlier_checkpoint(unbroken: Path) -> None:
    """With one checkpoint kept, a kill in the next one's write leaves the first to resume from."""
    work_dir = unbroken.parent / "killed_writing"
    killed = train(write_killed_config(unbroken, "write", 8), work_dir)
    assert killed.status == -9, killed.output
    assert not (work_dir / "iter_8.pth").exists()

    resumed = train(unbroken, work_dir, "--resume")
    assert resumed.status == 0, resumed.output
    assert_same_weights(unbroken.parent / "unbroken" / "iter_10.pth", work_dir / "iter_10.pth")


def test_resume_without_a_checkpoint_starts_from_the_beginning(
    unbroken: Path, tmp_path: Path
) -> None:
    result = train(unbroken, tmp_path, "--resume", "--cfg-options", "train_cfg.max_iters=1")
    assert result.status == 0, result.output
    assert f"there is no checkpoint in {tmp_path}, so training starts" in result.output
    assert (tmp_path / "iter_1.pth").is_file()


def test_resume_from_weights_alone_is_refused(unbroken: Path, tmp_path: Path) -> None:
    torch.save(
        {"state_dict": weights_of(unbroken.parent / "unbroken" / "iter_10.pth")},
        tmp_path / "iter_3.pth",
    )
    result = train(unbroken, tmp_path, "--resume")
    assert result.status == 1
    assert result.error.startswith(
        f"error: Cannot resume from {tmp_path}/iter_3.pth: it holds weights alone"
    )


def spoilt(unbroken: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A work-dir whose newest checkpoint is the eighth iteration's, changed."""
    folder = unbroken.parent / f"spoilt_{name}"
    folder.mkdir()
    checkpoint = load_weights_only(str(unbroken.parent / "unbroken" / "iter_8.pth"))
    change(checkpoint)
    torch.save(checkpoint, folder / "iter_8.pth")
    return folder


def rename(checkpoint: dict[str, Any]) -> None:
    weights = checkpoint["state_dict"]
    checkpoint["state_dict"] = {f"other.{key}": value for key, value in weights.items()}


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("optimizer", lambda c: c.pop("optimizer"), "no state of the optimizer"),
        ("schedule", lambda c: c.pop("param_schedulers"), "no learning-rate schedule"),
        ("meta", lambda c: c["meta"].pop("iter"), "does not say the iteration and epoch"),
        ("hub", lambda c: c["message_hub"].clear(), "message_hub"),
        ("groups", lambda c: c["optimizer"]["param_groups"].pop(), "groups of parameters"),
        ("weights", rename, "does not fit the config's model"),
    ],
)
@pytest.mark.parametrize("by", ["--resume", "the config"])
def test_what_cannot_be_resumed_is_refused(
    by: str, name: str, change: Any, says: str, unbroken: Path
) -> None:
    folder = spoilt(unbroken, f"{name}_{by[:3]}", change)
    (folder / "last_checkpoint").write_bytes(b"\xff\xfe\0")  # nothing that can be read
    words = ["--resume"] if by == "--resume" else ["--cfg-options", "resume=True"]
    result = train(unbroken, folder, *words)
    assert result.status == 1, result.output
    assert says in result.error
    assert not (folder / "iter_10.pth").exists()


def test_a_config_resumes_as_the_option_does(unbroken: Path) -> None:
    folder = spoilt(unbroken, "sound", lambda checkpoint: None)
    result = train(unbroken, folder, "--cfg-options", "resume=True")
    assert result.status == 0, result.output
    assert_same_weights(unbroken.parent / "unbroken" / "iter_10.pth", folder / "iter_10.pth")
