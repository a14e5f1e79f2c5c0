"""What the tools read from a plain ViT's reducers and what they set for a while."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mmtokmerge.analysis.plain_vit import (
    auto_reducers,
    check_searchable,
    configured_value,
    count_tokens,
    lacks_threshold,
)
from mmtokmerge.errors import InputError
from mmtokmerge.models.backbones import VisionTransformer
from mmtokmerge.models.overrides import NUM_MERGED, THRESHOLD, merging_as, without_merging


def clap(threshold: float | str, **options: Any) -> dict[str, Any]:
    options = {"layer": 1, **options}
    return dict(type="mmtokmerge.ConditionalLocalPooling", threshold=threshold, **options)


def gbm(threshold: float | str, **options: Any) -> dict[str, Any]:
    options = {"layer": 2, **options}
    return dict(type="mmtokmerge.GlobalBipartiteMerging", threshold=threshold, **options)


def tome(**options: Any) -> dict[str, Any]:
    return dict(type="mmtokmerge.ToMe", **{"num_merged": 2, "layer": [1, 2], **options})


def vit(*reducers: dict[str, Any]) -> VisionTransformer:
    torch.manual_seed(0)
    arch = dict(embed_dims=16, num_layers=3, num_heads=2)
    model = VisionTransformer(arch=arch, img_size=32, patch_size=8, reducers=reducers)
    return model.eval()


@torch.no_grad()
def counted(model: VisionTransformer) -> dict[str, int]:
    with count_tokens(model) as counts:
        model(torch.randn(1, 3, 40, 30))  # 5 x 4 patches
    return dict(counts)


@pytest.mark.parametrize("position", ["between", "after"])
@pytest.mark.parametrize(("layers", "kept"), [([1], 18), ([1, 2], 16), ([2, 3], 16), ([3], 18)])
def test_tokens_after_the_last_layer_of_a_reducer(
    position: str, layers: list[int], kept: int
) -> None:
    found = counted(vit(tome(layer=layers, position=position)))
    assert found == {"patches": 20, f"after ToMe ({layers[-1]})": kept}


def test_each_reducer_is_counted_where_it_stands() -> None:
    """All windows merge: 2 x 2 of them and a row of 4 are left; then half of those."""
    model = vit(clap(-1), gbm(-1))
    found = {"patches": 20, "after CLAP (1)": 8, "after GBM (2)": 4}
    assert counted(model) == found
    with without_merging(model):
        assert set(counted(model).values()) == {20}
    assert counted(model) == found


def test_tokens_that_are_averaged_but_stay_are_counted() -> None:
    assert counted(vit(clap(-1, reduce=False)))["after CLAP (1)"] == 20


def test_a_threshold_is_set_for_a_while() -> None:
    model = vit(clap(0.5), gbm("auto"), tome(layer=3))
    with merging_as(model, {THRESHOLD: 0.75}):
        assert [float(each.threshold) for each in model.reducers[:2]] == [0.75, 0.75]
    assert float(model.reducers[0].threshold) == 0.5
    assert lacks_threshold(model)
    with pytest.raises(InputError, match="found no threshold"):
        _ = model.reducers[1].threshold
    with pytest.raises(RuntimeError, match="stop"), merging_as(model, {NUM_MERGED: 5}):
        assert model.reducers[2].num_merged == 5
        raise RuntimeError("stop")
    assert model.reducers[2].num_merged == 2


def test_the_one_value_of_all_reducers() -> None:
    assert configured_value(vit(clap(0.5), gbm(0.5)), THRESHOLD) == 0.5
    assert configured_value(vit(clap(0.5), gbm(0.75)), THRESHOLD) is None
    assert configured_value(vit(clap("auto"), gbm("auto")), THRESHOLD) is None
    assert configured_value(vit(clap(0.5), tome(layer=2)), THRESHOLD) is None
    value = configured_value(vit(tome()), NUM_MERGED)
    assert value == 2 and isinstance(value, int)


def test_automatic_reducers_and_their_thresholds() -> None:
    model = vit(clap(0.5), gbm("auto"), gbm("auto", layer=3))
    assert list(auto_reducers(model)) == [1, 2]
    assert lacks_threshold(model)
    for each in auto_reducers(model).values():
        assert math.isnan(float(each.tau))
        each.threshold = 0.5
    assert not lacks_threshold(model)
    check_searchable(model, THRESHOLD, "a.py")
    with pytest.raises(InputError, match=r"in a\.py has num_merged"):
        check_searchable(model, NUM_MERGED, "a.py")
