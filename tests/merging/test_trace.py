"""The one trace of merges: what it reports, and that nothing is kept without it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmtokmerge.layers import EfficientAttention
from mmtokmerge.merging import read_merging
from mmtokmerge.merging.trace import KEYS, QUERIES, is_traced, trace


def attention(stage: int = 2) -> EfficientAttention:
    torch.manual_seed(0)
    return EfficientAttention(8, 1, 1, read_merging("hq")[stage]).eval()


def test_an_attention_reports_queries_and_keys() -> None:
    module, x = attention(), torch.randn(2, 48, 8)
    with torch.no_grad(), trace(module) as merges:
        _, groups = module(x, (6, 8))
    assert [event.part for event in merges.events] == [QUERIES, KEYS]
    queries, keys = merges.events
    assert torch.equal(queries.assignment.groups, groups.q.groups) and queries.grid == (6, 8)
    assert keys.assignment.num_groups == keys.assignment.num_tokens == 48  # not merged there
    assert queries.module is module and queries.place == ""
    assert merges.assignment is None and merges.sharing is None


def test_a_trace_names_modules_of_its_model_and_hears_no_others() -> None:
    both = nn.ModuleDict({"a": attention(), "b": attention()})
    x = torch.randn(1, 16, 8)
    with torch.no_grad(), trace(both) as outer:
        both["a"](x, (4, 4))
        with trace(both["b"]) as inner:
            both["a"](x, (4, 4))
            both["b"](x, (4, 4))
    assert [event.place for event in outer.events] == ["a", "a", "a", "a", "b", "b"]
    assert [event.place for event in inner.events] == ["", ""]


def test_nothing_is_traced_outside_nor_after_an_error() -> None:
    module, x = attention(), torch.randn(1, 16, 8)
    before = set(vars(module))
    with pytest.raises(RuntimeError, match="stop"), trace(module):
        assert is_traced()
        raise RuntimeError("stop")
    assert not is_traced()
    with torch.no_grad():
        traced = None
        with trace(module):
            traced = module(x, (4, 4))[0]
        assert torch.equal(module(x, (4, 4))[0], traced)
    assert set(vars(module)) == before
