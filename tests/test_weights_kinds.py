"""Files and tensors that are no plain weights: each is called what it is, none is taken."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmtokmerge.errors import InputError
from mmtokmerge.models.backbones import MiTPlusPlus, VisionTransformer
from mmtokmerge.models.weights.fit import fit_weights
from mmtokmerge.models.weights.safe_load import load_weights_only, load_weights_safely
from mmtokmerge.models.weights.state_dicts import state_dict_of

ARCH = dict(embed_dims=8, num_layers=(1, 1, 1, 1))
WEIGHTS = {"a": torch.arange(6.0).view(2, 3)}


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def archive(**names: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in names.items():
            file.writestr(name, content)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        info = tarfile.TarInfo("w.pth")
        info.size = 4
        file.addfile(info, io.BytesIO(b"data"))
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


FILES = {
    "page": (b"\xef\xbb\xbf<!-- moved --><html>gone</html>", "is a web page"),
    "head": (b"<head><title>403</title></head>", "is a web page"),
    "s3": (b"<Error><Code>AccessDenied</Code></Error>", "a server's answer in XML"),
    "json": (json.dumps({"message": "Not Found"}).encode(), "is JSON, not a checkpoint"),
    "index": (json.dumps({"weight_map": {"a": "b"}}).encode(), "an index of shards"),
    "gzip": (gzip.compress(saved(WEIGHTS)), "gzip-compressed: unpack it first"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "is HDF5"),
    "gguf": (b"GGUF" + bytes(64), "is GGUF"),
    "onnx": (b"\x08\x08\x12\x07pytorch" + bytes(64), "is an ONNX model"),
    "zip": (archive(**{"w.txt": b"x"}), "is a zip archive: unpack it first"),
    "tar": (tarred(), "is a tar archive"),
    "npz": (arrays(), "is a NumPy archive"),
    "script": (scripted(), "is a TorchScript model"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
    "empty": (b" \n", "is an empty file"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    content, sentence = FILES[name]
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            load_weights_only(str(path))


@pytest.mark.parametrize("name", ["w.pth", "w.SAFETENSORS", "w.bin"])
def test_safetensors_load_whatever_their_name(name: str, tmp_path: Path) -> None:
    from safetensors.torch import save

    (tmp_path / name).write_bytes(save(WEIGHTS))
    assert torch.equal(load_weights_only(str(tmp_path / name))["a"], WEIGHTS["a"])


@pytest.mark.parametrize(
    "content",
    [
        {"net": WEIGHTS},
        {"params": WEIGHTS, "iter": 5},
        {"checkpoint": {"model": WEIGHTS}},
        {"model": {"state_dict": WEIGHTS}},
        {"state_dict": {}, "ema_state_dict": WEIGHTS},
        {"student": {"b": WEIGHTS["a"]}, "teacher": WEIGHTS},
    ],
)
def test_weights_are_found_under_known_keys(content: dict[str, Any]) -> None:
    assert state_dict_of(content, "w.pth").keys() == {"a"}


def quantized() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (quantized(), "a is quantized"),
        (torch.ones(2, 3, device="meta"), "a has a shape and no values"),
        (torch.eye(3).to_sparse(), "a is stored as torch.sparse_coo"),
        (torch.ones(2, 3, dtype=torch.complex64), "a is of complex numbers"),
        (torch.ones(2, 3).to(torch.float8_e4m3fn), "a is of type torch.float8"),
    ],
)
def test_tensors_that_are_no_plain_numbers(value: Tensor, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        state_dict_of({"state_dict": {"a": value}}, "w.pth")


@pytest.mark.parametrize("kind", [torch.int8, torch.bool])
def test_whole_numbers_are_not_taken_for_floats(kind: torch.dtype) -> None:
    model = MiTPlusPlus(ARCH)
    state = model.state_dict()
    key = "layers.0.0.projection.weight"
    state[key] = state[key].mul(100).to(kind)
    with pytest.raises(InputError, match=rf"whole numbers .*{key}"):
        fit_weights(model, state, "w.pth")


@pytest.mark.parametrize(
    "prefix", ["module.model.", "model.model.", "module._orig_mod.", "_orig_mod.module.model."]
)
def test_prefixes_around_one_another(prefix: str) -> None:
    model = MiTPlusPlus(ARCH)
    state = {f"{prefix}backbone.{key}": value for key, value in model.state_dict().items()}
    assert fit_weights(model, state, "w.pth").weights.keys() == model.state_dict().keys()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = MiTPlusPlus(ARCH)
        self.decode_head = nn.Linear(8, 2)


@pytest.mark.parametrize("extra", ["neck.conv.weight", "adapter.lora_A", "backbone_t.x"])
def test_modules_that_the_model_lacks(extra: str) -> None:
    model = Network()
    state = {**model.state_dict(), extra: torch.ones(3)}
    with pytest.raises(InputError, match=rf"weights of {extra.split('.')[0]}.*another network"):
        fit_weights(model, state, "w.pth")
    (note,) = fit_weights(model, state, "w.pth", training=True).notes
    assert "are left out" in note
    harmless = {**model.state_dict(), "auxiliary_head.conv.weight": torch.ones(3)}
    assert fit_weights(model, harmless, "w.pth").notes == []


def test_a_square_that_may_be_none_is_said() -> None:
    arch = dict(embed_dims=16, num_layers=1, num_heads=2)
    state = VisionTransformer(arch, img_size=(288, 512)).state_dict()  # 18x32 = 576
    network = nn.Module()
    network.backbone = VisionTransformer(arch, img_size=384)  # 24x24
    network.decode_head = nn.Linear(2, 2)
    whole = {f"backbone.{key}": value for key, value in state.items()}  # without torch's metadata
    whole |= {
        f"decode_head.{key}": value for key, value in network.decode_head.state_dict().items()
    }
    (note,) = fit_weights(network, whole, "w.pth").notes
    assert "24x24 patches" in note and "18x32 have as many" in note


@pytest.mark.parametrize("name", ["torchvision://resnet50", "open-mmlab://nope", "mmcls://nope"])
def test_names_that_cannot_be_fetched_are_a_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from urllib.error import URLError

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", fails)
    load_weights_safely()
    with pytest.raises(InputError, match=rf"{name.split('/')[-1]}.*(fetched|names no published)"):
        CheckpointLoader.load_checkpoint(name)
