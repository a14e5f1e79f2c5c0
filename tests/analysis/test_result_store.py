"""Results survive an interruption, and are dropped when what they depend on changes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mmtokmerge.analysis.experiment import ResultStore, checkpoint_facts, read_results
from mmtokmerge.errors import InputError


def test_records_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "search.json"
    first = ResultStore(path, {"config": "a", "shape": (1, 2)})
    assert first.get({"threshold": 0.5}) is None
    first.put({"threshold": 0.5}, {"miou": 1.0})
    first.summarise(table=[1])
    second = ResultStore(path, {"shape": (1, 2), "config": "a"})
    assert second.get({"threshold": 0.5}) == {"miou": 1.0}
    assert second.changed == []


def test_another_identity_starts_anew_and_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    ResultStore(path, {"config": "a", "images": 3}).put({"threshold": 0.5}, {"miou": 1.0})
    second = ResultStore(path, {"config": "b", "images": 3, "device": "cpu"})
    assert second.changed == ["config", "device"]
    assert second.get({"threshold": 0.5}) is None
    old = read_results(tmp_path / "search.old.json")
    assert list(old["records"].values()) == [{"miou": 1.0}]


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "search.json"
    store = ResultStore(path, {})
    store.put({"threshold": 0.5}, {"miou": 1.0})

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        store.put({"threshold": 0.6}, {"miou": 2.0})
    assert list(read_results(path)["records"].values()) == [{"miou": 1.0}]
    assert [each.name for each in tmp_path.iterdir()] == ["search.json"]


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"records": {}})])
def test_a_file_of_something_else_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "search.json"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)):
        ResultStore(path, {})
    assert path.read_text() == text


def test_checkpoints_are_known_by_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"123")
    facts = checkpoint_facts(str(path))
    path.write_bytes(b"1234")
    assert facts[0] == 3 and checkpoint_facts(str(path))[0] == 4
    assert checkpoint_facts("https://a/b.pth") == ["https://a/b.pth"]
