"""Merging by a threshold down to a number of tokens that an image keeps at most."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.layers.reducers import ConditionalLocalPooling, GlobalBipartiteMerging
from mmtokmerge.merging import TokenAssignment, bipartite_matching, local_pooling, window_similarity
from mmtokmerge.merging.trace import counting_beyond


def tokens(alike: float, batch: int = 3) -> Tensor:
    """Images of 6x8 tokens, the first of them noise, the last nearly of one colour."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, 48, 5, generator=generator)
    share = torch.linspace(0, alike, batch)[:, None, None]
    return (1 - share) * noise + share * torch.ones(5)


def kept(assignment: TokenAssignment) -> list[int]:
    return (assignment.sizes > 0).sum(1).tolist()


@pytest.mark.parametrize("most", [12, 13, 30, 47, 48, 99])
def test_windows_merge_in_the_order_of_their_similarity(most: int) -> None:
    """By hand: windows above the threshold, then the next similar ones until few are left."""
    x = tokens(0.9)
    with counting_beyond() as beyond:
        found = local_pooling(x, (6, 8), threshold=0.4, most=most)
    assert found.num_groups == min(most, 48) and found.padded
    similarity = window_similarity(x, (6, 8), 2).flatten(1)
    for image in range(3):
        order = similarity[image].argsort(descending=True).tolist()
        merged = [window for window in order if similarity[image, window] > 0.4]
        above = len(merged)
        for window in order[above:]:
            if 48 - 3 * len(merged) > most:
                merged.append(window)
        groups = found.groups[image].view(6, 8)
        for window in range(12):
            top, left = window // 4 * 2, window % 4 * 2
            cell = groups[top : top + 2, left : left + 2]
            assert len(cell.unique()) == (1 if window in merged else 4)
        assert kept(found)[image] == 48 - 3 * len(merged)
        assert beyond[0][image] == 3 * (len(merged) - above)


@pytest.mark.parametrize("most", [24, 25, 40, 48])
def test_sources_join_in_the_order_of_their_similarity(most: int) -> None:
    x = tokens(0.9)
    with counting_beyond() as beyond:
        found = bipartite_matching(x, threshold=0.8, most=most)
    free = bipartite_matching(x, threshold=0.8)
    assert found.num_groups == most
    unit = torch.nn.functional.normalize(x, dim=-1)
    best = (unit[:, ::2] @ unit[:, 1::2].mT).amax(-1)
    for image in range(3):
        above = int((best[image] > 0.8).sum())
        joined = max(above, 48 - most)
        assert kept(found)[image] == 48 - joined and beyond[0][image] == joined - above
        chosen = set(best[image].argsort(descending=True)[:joined].tolist())
        sources = [
            token
            for token in range(0, 48, 2)
            if found.groups[image].tolist().count(found.groups[image, token].item()) > 1
        ]
        assert {token // 2 for token in sources} == chosen
    if most == 48:
        assert kept(found) == kept(free) and torch.equal(found.groups, free.groups)


@pytest.mark.parametrize(
    ("first", "then"), [(20, 20), (20, 30), (40, 20), (40, 30), (48, 24), (48, 30)]
)
def test_one_after_the_other(first: int, then: int) -> None:
    """What the second sees is padded; padding takes no part and no image has more than its most."""
    x = tokens(0.95)
    local = local_pooling(x, (6, 8), threshold=0.6, most=first)
    merged = local.merge(x)
    second = bipartite_matching(merged, threshold=0.9, sizes=local.sizes, most=then)
    whole = local.compose(second)
    assert whole.num_groups == min(first, then) and whole.padded
    assert max(kept(whole)) <= then and (whole.sizes.sum(1) == 48).all()
    for image in range(3):
        alone = local_pooling(x[image : image + 1], (6, 8), threshold=0.6, most=first)
        again = bipartite_matching(
            alone.merge(x[image : image + 1]), threshold=0.9, sizes=alone.sizes, most=then
        )
        assert torch.equal(alone.compose(again).groups[0], whole.groups[image])


def test_what_cannot_be_reached_is_a_sentence() -> None:
    x = tokens(0.5)
    with pytest.raises(InputError, match="max_tokens=11 cannot be reached: 48 tokens have 12 wind"):
        local_pooling(x, (6, 8), threshold=0.4, most=11)
    with pytest.raises(InputError, match=r"max_tokens=23 cannot be reached.*at least 24 stay"):
        bipartite_matching(x, threshold=0.4, most=23)
    with pytest.raises(InputError, match="most= goes with threshold="):
        local_pooling(x, (6, 8), count=2, most=40)
    with pytest.raises(ValueError, match="go with threshold="):
        bipartite_matching(x, count=2, most=40)


def test_settings() -> None:
    assert ConditionalLocalPooling(layer=1, threshold=0.5, max_tokens=0.5).most((5, 7)) == 18
    reducer = GlobalBipartiteMerging(layer=1, threshold=0.5, max_tokens=40)
    assert reducer.most((6, 8)) == 40 and reducer.num_groups(30, (6, 8)) == 30
    assert "max_tokens=40" in repr(reducer)
    for value in (0, -3, 1.5, 0.0):
        with pytest.raises(InputError, match="max_tokens"):
            GlobalBipartiteMerging(layer=1, threshold=0.5, max_tokens=value)
    for value in (True, "half"):
        with pytest.raises(InputTypeError, match="max_tokens"):
            GlobalBipartiteMerging(layer=1, threshold=0.5, max_tokens=value)
    with pytest.raises(InputError, match="does nothing with reduce=False"):
        GlobalBipartiteMerging(layer=1, threshold=0.5, max_tokens=40, reduce=False)


def vit(**settings: object) -> torch.nn.Module:
    models = pytest.importorskip("mmtokmerge.models")
    torch.manual_seed(0)
    clap = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=0.95)
    gbm = dict(type="mmtokmerge.GlobalBipartiteMerging", layer=2, threshold=0.97)
    model = models.VisionTransformer(
        dict(embed_dims=32, num_layers=3, num_heads=2),
        img_size=96,
        patch_size=16,
        reducers=[{**clap, **settings}, {**gbm, **settings}],
    )
    model.init_weights()
    return model.eval()


def pictures() -> Tensor:
    x = torch.randn(4, 3, 96, 96)
    x[1, :, :, :48] = 0.3
    x[2] = 0.3
    x[3, :, 32:64] = -1.0
    return x


def test_a_most_that_no_image_needs_changes_no_feature() -> None:
    x = pictures()
    with torch.no_grad():
        expected = vit()(x)[-1]
        found = vit(max_tokens=36)(x)[-1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_image_keeps_what_it_has_in_any_batch() -> None:
    model, x = vit(max_tokens=18), pictures()
    with torch.no_grad():
        together = model(x)[-1]
        for image in range(4):
            alone = model(x[image : image + 1])[-1]
            torch.testing.assert_close(together[image], alone[0], atol=1e-5, rtol=1e-5)
    model.train()
    model(x)[-1].sum().backward()


@pytest.mark.slow
def test_one_graph_for_every_image() -> None:
    """A compiler needs no break: what an image needs changes no shape."""
    from torch._dynamo.testing import CompileCounter

    counter, model = CompileCounter(), vit(max_tokens=18)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    with torch.no_grad():
        for x in pictures():
            found, expected = compiled(x[None])[-1], model(x[None])[-1]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1
