"""Samples and iterations draw from seeds that depend on their position alone."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import run_tool, weights_of, write_config
from mmengine.config import ConfigDict
from mmengine.dataset import InfiniteSampler

from mmtokmerge.engine.seeding import (
    SeededDataset,
    SeededDefaultSampler,
    SeededInfiniteSampler,
    mix_seeds,
    seed_train_samples,
)

DATA = range(7)


class Draws:
    """A data set whose samples are random draws."""

    metainfo = {"classes": ("a",)}

    def __len__(self) -> int:
        return len(DATA)

    def __getitem__(self, index: int) -> tuple:
        return index, random.random(), np.random.rand(), torch.rand(()).item()


def test_infinite_sampler_keeps_mmengine_s_order() -> None:
    keys = list(islice(SeededInfiniteSampler(DATA, seed=3), 20))
    assert [index for index, _ in keys] == list(islice(InfiniteSampler(DATA, seed=3), 20))
    assert len({seed for _, seed in keys}) == 20


@pytest.mark.parametrize("skipped", [0, 1, 7, 11])
def test_skipping_goes_on_where_the_stream_was(skipped: int) -> None:
    unbroken = list(islice(SeededInfiniteSampler(DATA, seed=3), 20))
    resumed = SeededInfiniteSampler(DATA, seed=3)
    resumed.skip(skipped)
    assert list(islice(resumed, 20 - skipped)) == unbroken[skipped:]


@pytest.mark.parametrize("kind", [SeededInfiniteSampler, SeededDefaultSampler])
def test_two_processes_share_the_samples_of_one(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = range(8)
    alone = list(islice(kind(data, seed=1), 8))
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda rank=rank: (rank, 2))
        shares.append(list(islice(kind(data, seed=1), 4)))
    assert [key for pair in zip(*shares, strict=True) for key in pair] == alone


def test_default_sampler_draws_anew_each_epoch() -> None:
    sampler = SeededDefaultSampler(DATA, seed=1)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert {seed for _, seed in first}.isdisjoint(seed for _, seed in second)
    assert sorted(index for index, _ in second) == list(DATA)


def test_dataset_draws_by_the_key_alone() -> None:
    dataset = SeededDataset(Draws())
    sample = dataset[3, 11]
    assert dataset[3, 12] != sample
    assert dataset[3, 11] == sample
    assert sample[0] == 3
    assert (len(dataset), dataset.metainfo) == (7, Draws.metainfo)


def test_seeds_of_neighbours_differ() -> None:
    seeds = {mix_seeds(*parts) for parts in np.ndindex(20, 20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_train_config_is_wrapped_once() -> None:
    loader = {"sampler": {"type": "InfiniteSampler", "shuffle": False}, "dataset": {"type": "D"}}
    cfg = ConfigDict(train_dataloader=loader)
    seed_train_samples(cfg)
    wrapped = ConfigDict(cfg.to_dict())
    seed_train_samples(cfg)
    assert cfg == wrapped
    assert cfg.train_dataloader.sampler == {
        "type": "mmtokmerge.SeededInfiniteSampler",
        "shuffle": False,
    }
    assert cfg.train_dataloader.dataset == {
        "type": "mmtokmerge.SeededDataset",
        "dataset": {"type": "D"},
    }


def test_foreign_samplers_are_left_alone() -> None:
    for loader in (
        {"sampler": {"type": "Mine"}, "dataset": {"type": "D"}},
        {"sampler": {"type": "InfiniteSampler"}, "batch_sampler": {"type": "Mine"}, "dataset": {}},
    ):
        cfg = ConfigDict(train_dataloader=loader)
        seed_train_samples(cfg)
        assert cfg.train_dataloader == loader


def test_epochs_resume_exactly(tmp_path: Path) -> None:
    """Pose schedules run by epochs: three of them at once, or two and then the third."""
    config = write_config(tmp_path)
    by_epoch = config.with_name("by_epoch.py")
    by_epoch.write_text(
        f"""_base_ = ["{config}"]
train_dataloader = dict(
    num_workers=1, persistent_workers=True,
    sampler=dict(_delete_=True, type="DefaultSampler", shuffle=True))
train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=3, val_interval=10)
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=-1))
"""
    )
    for arguments in (
        ("--work-dir", tmp_path / "unbroken"),
        ("--work-dir", tmp_path / "broken", "--cfg-options", "train_cfg.max_epochs=2"),
        ("--work-dir", tmp_path / "broken", "--resume"),
    ):
        result = run_tool("train.py", by_epoch, *arguments)
        assert result.status == 0, result.output
    one, other = (weights_of(tmp_path / run / "epoch_3.pth") for run in ("unbroken", "broken"))
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
