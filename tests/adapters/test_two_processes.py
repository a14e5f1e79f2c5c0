"""A host's model with merging applied trains in two processes as in one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import mmtokmerge

transformers = pytest.importorskip("transformers")


def build() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 40, 64],
        decoder_hidden_size=16,
        num_labels=4,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
    )
    model = transformers.SegformerForSemanticSegmentation(config)
    for module in model.modules():  # its statistics are of a process's own part of the batch
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    mmtokmerge.apply(model, "hq", proportional=True)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 64, 96, generator=generator)
    return images, torch.randint(0, 4, (4, 64, 96), generator=generator)


def work(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(build())
    images, labels = (part[rank * 2 : rank * 2 + 2] for part in batch())
    model(pixel_values=images, labels=labels).loss.backward()
    if rank == 0:
        torch.save({n: p.grad for n, p in model.module.named_parameters()}, out)
    dist.destroy_process_group()


def test_gradients_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    out = str(tmp_path / "gradients.pth")
    mp.spawn(work, (port, out), nprocs=2, join=True)
    found = torch.load(out, weights_only=True)
    model = build()
    images, labels = batch()
    model(pixel_values=images, labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-3, msg=name)
