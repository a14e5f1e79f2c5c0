"""MiT++ under torch.compile and torch.export: one graph, equal features."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmtokmerge.layers import EfficientAttention
from mmtokmerge.merging import read_merging
from mmtokmerge.models import MiTPlusPlus

TINY = dict(embed_dims=8, num_layers=[1, 1, 1, 1])
LOCAL = [
    dict(r_q=0.9, q_stride=4, r_kv=0.5, match="local", destination="centre", proportional=True),
    dict(q_mode="n2d", unmerge="bilinear"),
    dict(r_q=0.5, match="local", reuse=2),
    dict(r_q=0.5, match="local"),
]


def build(merging: Any, **kwargs: Any) -> MiTPlusPlus:
    torch.manual_seed(0)
    return MiTPlusPlus(TINY, merging=merging, **kwargs).double().eval()


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("merging", ["none", "hq", "fast", "n2d", pytest.param(LOCAL, id="local")])
def test_one_graph(merging: Any) -> None:
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


def graphs_of_sizes(forward: Any, sizes: list[tuple[int, int]], channels: int) -> int:
    """Compile for any height and width, compare at each size, and count the graphs made."""
    counts = torch._dynamo.utils.counters["stats"]
    before = counts["unique_graphs"]
    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for size in sizes:
            x = torch.randn(2, channels, *size, dtype=torch.float64)
            torch.testing.assert_close(compiled(x), forward(x))
    return int(counts["unique_graphs"] - before)


@pytest.mark.parametrize(
    ("sr_ratio", "stage"),
    [
        (2, {}),
        (2, dict(r_kv=0.9, kv_stride=4, proportional=True)),
        pytest.param(1, dict(r_q=0.8, q_stride=4), marks=pytest.mark.slow),
        pytest.param(1, dict(q_mode="n2d", q_stride=2), marks=pytest.mark.slow),
        pytest.param(1, dict(r_q=0.9, q_stride=4, match="local"), marks=pytest.mark.slow),
        pytest.param(1, dict(q_mode="n2d", unmerge="bilinear"), marks=pytest.mark.slow),
    ],
    ids=["none", "kv", "q", "n2d", "local", "bilinear"],
)
def test_one_graph_for_all_sizes(sr_ratio: int, stage: dict[str, Any]) -> None:
    """The merging layers with dynamic height and width: no graph of their own for each size.

    torch's interpolation takes one graph for each parity of a side.
    """
    layer = EfficientAttention(8, 2, sr_ratio, read_merging([stage, {}, {}, {}])[0]).double()

    def forward(x: torch.Tensor) -> torch.Tensor:
        return layer(x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3]))[0]

    odd = [] if "unmerge" in stage else [(33, 29)]
    assert graphs_of_sizes(forward, [(22, 30), (34, 46), *odd], 8) == 1


@pytest.mark.slow
def test_one_graph_of_the_encoder_for_all_sizes() -> None:
    """From the size on where stage 1 has two cells of keys on a side and stage 4 two of queries."""
    model = build("hq")
    assert graphs_of_sizes(model, [(256, 320), (384, 448)], 3) == 1


@pytest.mark.slow
def test_generated_code_equals_eager() -> None:
    """One layer through the default compiler; the whole encoder would take minutes to generate."""
    layer = build("hq", proportional=True).layers[0][1][0]
    x = torch.randn(2, 16 * 24, 8, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, dynamic=False)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, (16, 24))[0], layer(x, (16, 24))[0])


@pytest.mark.parametrize("merging", ["hq", "n2d", pytest.param(LOCAL, id="local")])
def test_export(merging: Any) -> None:
    model = build(merging)
    x = torch.randn(2, 3, 70, 90, dtype=torch.float64)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        y = torch.randn_like(x)
        for a, b in zip(program.module()(y), model(y)):
            torch.testing.assert_close(a, b)


class Tuple(torch.nn.Module):
    """A backbone for tracers, which take tuples alone."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model(x))


@pytest.mark.parametrize("preset", ["none", "hq", "n2d", "plus"])
def test_a_trace_is_right_for_other_batches_and_refused_for_other_grids(preset: str) -> None:
    model = MiTPlusPlus("b0", merging=preset).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(Tuple(model).eval(), x, check_trace=False)
        for y in (torch.randn(1, 3, 64, 64), torch.randn(3, 3, 64, 64)):
            for a, b in zip(traced(y), model(y)):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        if preset != "none":
            with pytest.raises(RuntimeError):  # as many tokens on another grid
                traced(torch.randn(1, 3, 32, 128))


@pytest.mark.parametrize("side", [24, 28])
def test_a_trace_of_an_image_below_a_stride_holds_for_its_grid_alone(side: int) -> None:
    """The grid of stage 1 is padded there, which a trace would do of every later image too."""
    model = MiTPlusPlus("b0").eval()
    x = torch.randn(1, 3, side, side)
    with torch.no_grad():
        traced = torch.jit.trace(Tuple(model).eval(), x, check_trace=False)
        y = torch.randn(1, 3, side, side)
        for a, b in zip(traced(y), model(y)):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        with pytest.raises(RuntimeError):
            traced(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("preset", ["none", "hq", "n2d", "plus"])
def test_an_export_with_a_dynamic_batch(preset: str) -> None:
    model = Tuple(MiTPlusPlus("b0", merging=preset).eval()).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(model, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: batch},))
    y = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(program.module()(y), model(y)):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_threshold_is_not_traced_but_may_be_counted() -> None:
    from mmengine.analysis import get_model_complexity_info

    from mmtokmerge.errors import InputError
    from mmtokmerge.models.backbones import VisionTransformer

    clap = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=0.5)
    arch = dict(embed_dims=16, num_layers=2, num_heads=2)
    model = VisionTransformer(arch, img_size=64, reducers=[clap]).eval()
    with torch.no_grad(), pytest.raises(InputError, match=r"torch\.jit\.trace cannot record"):
        torch.jit.trace(model, torch.randn(1, 3, 64, 64), check_trace=False)
    counted = get_model_complexity_info(model, (3, 64, 64), show_table=False, show_arch=False)
    assert counted["flops"] > 0
