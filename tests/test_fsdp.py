"""Models sharded over two processes give the outputs and gradients of one: layers are called."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

import mmtokmerge
from mmtokmerge.models.backbones import MiTPlusPlus, VisionTransformer

KEPT = dict(type="mmtokmerge.LocalMergingByRate", layer=1, keep=0.5)


def mit() -> nn.Module:
    arch = dict(embed_dims=8, num_layers=(1, 1, 1, 1))
    return MiTPlusPlus(arch=arch, merging="hq", proportional=True, drop_path_rate=0.0)


def vit() -> nn.Module:
    arch = dict(embed_dims=16, num_layers=2, num_heads=2)
    return VisionTransformer(arch=arch, img_size=(64, 96), out_indices=(0, 1), reducers=[KEPT])


def host() -> nn.Module:
    import transformers

    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 40, 64], decoder_hidden_size=16, num_labels=4
    )
    model = transformers.SegformerModel(config).eval()
    mmtokmerge.apply(model, "hq", proportional=True)
    return model


BUILD = {"mit": mit, "vit": vit, "host": host}
LAYERS = {"mit": "MiTBlock", "vit": "ViTLayer", "host": "SegformerLayer"}


def maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    out = model(images)
    return [out.last_hidden_state] if hasattr(out, "last_hidden_state") else list(out)


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    for name in BUILD:
        found = shard_and_step(name)
        if rank == 0:
            torch.save(found, f"{folder}/{name}.pth")
    dist.destroy_process_group()


def shard_and_step(name: str) -> tuple[list[Tensor], dict[str, Tensor], int]:
    torch.manual_seed(0)
    model = BUILD[name]()
    mesh = init_device_mesh("cpu", (2,))
    for module in list(model.modules()):
        if any(base.__name__ == LAYERS[name] for base in type(module).__mro__):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    found = maps(model, torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    sum(each.square().mean() for each in found).backward()
    gradients = {n: p.grad.full_tensor() for n, p in model.named_parameters() if p.grad is not None}
    shards = sum(isinstance(module, FSDPModule) for module in model.modules())
    return [each.detach() for each in found], gradients, shards


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each model gave in two processes; their start takes most of the time."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("sharded")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    mp.spawn(work, (port, str(folder)), nprocs=2, join=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILD)
def test_shards_of_two_processes_are_the_whole_model(name: str, sharded: Path) -> None:
    found, gradients, shards = torch.load(sharded / f"{name}.pth", weights_only=True)
    torch.manual_seed(0)
    model = BUILD[name]()
    expected = maps(model, torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    sum(each.square().mean() for each in expected).backward()
    assert shards >= 3, "the layers and the model"
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-5, rtol=1e-4)
    whole = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert set(gradients) == set(whole)
    for key, value in whole.items():
        torch.testing.assert_close(gradients[key], value, atol=1e-5, rtol=1e-3, msg=key)
