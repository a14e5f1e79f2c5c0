"""MiT++ under torch.compile and torch.export: one graph, equal features."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmtokmerge.models import MiTPlusPlus

TINY = dict(embed_dims=8, num_layers=[1, 1, 1, 1])
each_preset = pytest.mark.parametrize("merging", ["none", "hq", "fast", "n2d"])


def build(merging: str, **kwargs: Any) -> MiTPlusPlus:
    torch.manual_seed(0)
    return MiTPlusPlus(TINY, merging=merging, **kwargs).double().eval()


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()


@each_preset
def test_one_graph(merging: str) -> None:
    """A graph break or a wait for the device raises with fullgraph=True."""
    model = build(merging)
    x = torch.randn(2, 3, 70, 90, dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    with torch.no_grad():
        for a, b in zip(compiled(x), model(x)):
            torch.testing.assert_close(a, b)


def test_one_graph_in_training() -> None:
    model = build("fast", proportional=True)
    x = torch.randn(2, 3, 70, 90, dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    grads = []
    for run in (model, compiled):
        model.zero_grad()
        sum(f.square().sum() for f in run(x)).backward()  # type: ignore[union-attr]
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_generated_code_equals_eager() -> None:
    """One layer through the default compiler; the whole encoder would take minutes to generate."""
    layer = build("hq", proportional=True).layers[0][1][0]
    x = torch.randn(2, 16 * 24, 8, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, dynamic=False)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, (16, 24)), layer(x, (16, 24)))


@pytest.mark.parametrize("merging", ["hq", "n2d"])
def test_export(merging: str) -> None:
    model = build(merging)
    x = torch.randn(2, 3, 70, 90, dtype=torch.float64)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        y = torch.randn_like(x)
        for a, b in zip(program.module()(y), model(y)):
            torch.testing.assert_close(a, b)
