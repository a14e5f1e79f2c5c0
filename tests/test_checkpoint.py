"""Checkpoints are written whole, and read without running code."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import nn

from mmtokmerge.engine.atomic_backend import AtomicLocalBackend
from mmtokmerge.engine.launch import find_latest_checkpoint
from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.fit import fit_weights
from mmtokmerge.models.weights.safe_load import load_weights_only, load_weights_safely


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {self.path}",))


class GetattrAttack:
    """Reaches for an attribute that no checkpoint needs."""

    def __reduce__(self) -> tuple:
        return (getattr, (HistoryBuffer, "__init__"))


@pytest.fixture()
def safe_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install safe loading for one test."""
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    load_weights_safely()


@pytest.mark.parametrize(
    "save", [torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj))]
)
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, save, safe_loading: None) -> None:
    path, trace = tmp_path / "bad.pth", tmp_path / "attacked"
    save({"state_dict": {}, "extra": Attack(trace)}, path)
    loads = (
        lambda: load_weights_only(str(path)),
        lambda: CheckpointLoader.load_checkpoint(str(path)),
    )
    for load in loads:
        with pytest.raises(InputError, match="refused, since loading it would run code"):
            load()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    assert not trace.exists()


def test_pretrained_weights_load_without_code(tmp_path: Path, safe_loading: None) -> None:
    """``init_cfg=dict(type='Pretrained')`` goes the same way."""

    class Net(BaseModule):
        def __init__(self, checkpoint: Path) -> None:
            super().__init__(init_cfg={"type": "Pretrained", "checkpoint": str(checkpoint)})
            self.linear = nn.Linear(2, 2)

    good, bad, trace = tmp_path / "good.pth", tmp_path / "bad.pth", tmp_path / "attacked"
    weights = {"linear.weight": torch.eye(2), "linear.bias": torch.ones(2)}
    torch.save(weights, good)
    torch.save({**weights, "extra": Attack(trace)}, bad)
    net = Net(good)
    net.init_weights()
    assert torch.equal(net.linear.weight, torch.eye(2))
    with pytest.raises(InputError, match=r"bad\.pth is refused"):
        Net(bad).init_weights()
    assert not trace.exists()


def test_getattr_is_for_history_methods_alone(tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    torch.save({"extra": GetattrAttack()}, path)
    with pytest.raises(InputError, match=r"bad\.pth is refused.*getattr"):
        load_weights_only(str(path))


def test_training_state_loads(tmp_path: Path) -> None:
    path = tmp_path / "iter_1.pth"
    state = {
        "loss": HistoryBuffer([1.0, 3.0], [1, 1]),
        "best": np.float64(41.5),
        "float32": np.float32(2),
        "count": np.int64(3),
        "palette": np.arange(6, dtype=np.uint8).reshape(2, 3),
    }
    torch.save(state, path)
    loaded = load_weights_only(str(path))
    assert loaded["loss"].mean() == 2.0
    assert (loaded["best"], loaded["float32"], loaded["count"]) == (41.5, 2, 3)
    assert np.array_equal(loaded["palette"], state["palette"])


@pytest.mark.parametrize("kept", [0, 10, 2000, -30])
def test_cut_off_checkpoint_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "iter_1.pth"
    torch.save({"weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"iter_1\.pth is (cut off|an empty file)"):
        load_weights_only(str(path))


def test_missing_checkpoint_is_named() -> None:
    with pytest.raises(InputError, match=r"no checkpoint at /nowhere/iter_1\.pth"):
        load_weights_only("/nowhere/iter_1.pth")


def test_atomic_write_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in (b"first", b"second"):
        AtomicLocalBackend().put(content, path)
        assert path.read_bytes() == content
    AtomicLocalBackend().put_text("café", path)
    assert path.read_text(encoding="utf-8") == "café"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        AtomicLocalBackend().put(b"new", path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    child = multiprocessing.get_context("fork").Process(target=_write_and_die, args=(path,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def _write_and_die(path: Path) -> None:
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    AtomicLocalBackend().put(b"new", path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_latest_checkpoint(tmp_path: Path) -> None:
    assert find_latest_checkpoint(str(tmp_path)) is None
    for name in ("iter_900.pth", "iter_1000.pth", "best_mIoU_iter_2000.pth"):
        (tmp_path / name).touch()
    note = tmp_path / "last_checkpoint"
    for text, name in [
        ("/moved/away/iter_900.pth", "iter_900.pth"),
        (f"{tmp_path}/iter_900.pth\n", "iter_900.pth"),
        ("", "iter_1000.pth"),
        ("/moved/away/iter_1.pth", "iter_1000.pth"),
    ]:
        note.write_text(text)
        assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / name)


def test_weights_that_do_not_fit_are_listed() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    weights = model.state_dict()
    fit_weights(model, {"state_dict": {f"module.{key}": weights[key] for key in weights}}, "x")
    fit_weights(model, {**weights, "head.weight": torch.zeros(1)}, "x")
    old = {key: value for key, value in weights.items() if "num_batches" not in key}
    fit_weights(model, old, "x")

    broken = {**weights, "0.weight": torch.zeros(3, 4), "0.extra": torch.zeros(1)}
    del broken["1.bias"]
    with pytest.raises(InputError) as caught:
        fit_weights(model, broken, "weights.pth")
    assert str(caught.value) == (
        "The checkpoint weights.pth does not fit the config's model: 1.bias is missing; 0.weight "
        "is (3, 4) where the model has (3, 2); 0.extra is not in the model."
    )
    with pytest.raises(
        InputError, match=r"running_mean is missing and 1 more\. It looks like weights of other"
    ):
        fit_weights(model, {"other": torch.zeros(1)}, "weights.pth")


def test_a_threshold_that_no_checkpoint_brought_names_the_tool() -> None:
    model = nn.Module()
    model.reducers = nn.ModuleList([nn.Module()])
    model.reducers[0].register_buffer("tau", torch.tensor(0.9))
    with pytest.raises(InputError, match=r"base\.pth holds no threshold for reducers\.0\.tau"):
        fit_weights(model, {"weight": torch.zeros(1)}, "base.pth")


def test_a_threshold_that_the_config_replaces_by_a_number_is_no_error() -> None:
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    weights = {**model.state_dict(), "backbone.reducers.0.tau": torch.tensor(0.9)}
    fit_weights(model, weights, "algm.pth")
    with pytest.raises(InputError, match=r"reducers\.0\.bias is not in the model"):
        fit_weights(model, {**weights, "backbone.reducers.0.bias": torch.zeros(1)}, "algm.pth")
