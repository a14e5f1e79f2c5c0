"""Where pretrained weights are fetched from: fallbacks, another host or folder, a sentence."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine")

from mmengine.runner import CheckpointLoader

from mmtokmerge.errors import InputError
from mmtokmerge.models.weights import hosts
from mmtokmerge.models.weights.safe_load import load_weights_safely


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}", folder
    served.shutdown()
    served.server_close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv(hosts.ENV, raising=False)
    load_weights_safely()
    return tmp_path / "hub" / "checkpoints"


def load(url: str) -> object:
    return CheckpointLoader.load_checkpoint(url, map_location="cpu")


def test_the_second_host_is_asked(
    server: tuple[str, Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    monkeypatch.setattr(hosts, "HOSTS", ("http://127.0.0.1:9", url))  # nothing listens at port 9
    (folder / "v0").mkdir()
    torch.save({"x": torch.ones(2)}, folder / "v0" / "mit.pth")
    assert torch.equal(load("http://127.0.0.1:9/v0/mit.pth")["x"], torch.ones(2))  # type: ignore
    (folder / "v0" / "mit.pth").unlink()
    assert (own_cache / "mit.pth").is_file()
    assert torch.equal(load("http://127.0.0.1:9/v0/mit.pth")["x"], torch.ones(2))  # type: ignore


def test_a_folder_or_another_host_by_the_environment(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    torch.save({"x": torch.zeros(1)}, tmp_path / "mit.pth")
    monkeypatch.setenv(hosts.ENV, str(tmp_path))
    assert torch.equal(load("https://nowhere.invalid/a/mit.pth")["x"], torch.zeros(1))  # type: ignore
    (folder / "a").mkdir()
    torch.save({"x": torch.ones(1)}, folder / "a" / "vit.pth")
    monkeypatch.setenv(hosts.ENV, url)
    assert torch.equal(load("https://nowhere.invalid/a/vit.pth")["x"], torch.ones(1))  # type: ignore


def test_what_no_host_has_is_a_sentence(
    server: tuple[str, Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    monkeypatch.setattr(hosts, "HOSTS", ("http://127.0.0.1:9", url))
    with pytest.raises(InputError, match=r"mit\.pth could not be fetched from") as caught:
        load("http://127.0.0.1:9/v0/mit.pth")
    said = str(caught.value)
    assert str(own_cache / "mit.pth") in said and hosts.ENV in said and "404" in said
    (folder / "page.pth").write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(InputError, match="is a web page, not a checkpoint"):
        load(f"{url}/page.pth")
    assert not (own_cache / "page.pth").exists()


def test_every_config_s_host_is_known() -> None:
    root = Path(__file__).resolve().parents[1] / "configs"
    found = set()
    for path in root.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith('checkpoint = "http'):
                found.add(line.split('"')[1])
    assert found and all(url.startswith(hosts.HOSTS) for url in found)
