"""Recording what a model merges: the very assignments it uses, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import nn

from mmtokmerge.merging import BipartiteMatcher, CellPooling
from mmtokmerge.merging.trace import is_traced
from mmtokmerge.models import MiTPlusPlus
from mmtokmerge.visualization import encode_one, merges, record_assignments

ARCH = dict(embed_dims=8, num_layers=(2, 1, 1, 2), num_heads=(1, 1, 2, 2))
BOTH = [dict(r_q=0.5, q_stride=2, r_kv=0.5, kv_stride=2), {}, {}, dict(q_mode="n2d")]


def encoder(merging: Any) -> MiTPlusPlus:
    torch.manual_seed(0)
    model = MiTPlusPlus(ARCH, merging)
    model.init_weights()
    return model.eval()


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@torch.no_grad()
def test_records_what_the_model_itself_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = encoder(BOTH), torch.randn(2, 3, 72, 100)
    own: list[Any] = []

    def spied(kind: type) -> Any:
        assign = kind.assign

        def spy(matcher: Any, tokens: torch.Tensor, hw: tuple[int, int]) -> Any:
            own.append(assign(matcher, tokens, hw))
            return own[-1]

        return spy

    with monkeypatch.context() as patch:
        for kind in (BipartiteMatcher, CellPooling):
            patch.setattr(kind, "assign", spied(kind))
        expected = model(x)  # queries and keys for each of two blocks, then queries for each of two
    assert len(own) == 6
    with record_assignments(model) as records:
        features = model(x)
    assert [(r.stage, r.place, r.how, r.hw) for r in records] == [
        (1, "Stage 1: queries", "bsm, rate 0.5, cells of 2×2", (18, 25)),
        (1, "Stage 1: keys and values", "bsm, rate 0.5, cells of 2×2", (2, 3)),
        (4, "Stage 4: queries", "n2d, cells of 2×2", (3, 4)),
    ]
    for record in records:  # the first block's are the first of their grid
        used = next(each for each in own if each.num_tokens == record.assignment.num_tokens)
        assert torch.equal(record.assignment.groups, used.groups)
    assert all(torch.equal(a, b) for a, b in zip(features, expected))
    assert records[1].covered == pytest.approx((16 / 18, 24 / 25))
    assert records[0].num_kept() == records[0].assignment.num_groups == 450 - 225


@torch.no_grad()
def test_last_block_differs_from_the_first() -> None:
    model, x = encoder(BOTH), torch.randn(1, 3, 64, 64)
    with record_assignments(model) as first, record_assignments(model, block="last") as last:
        model(x)
    assert [r.stage for r in first] == [r.stage for r in last]
    assert not torch.equal(first[0].groups(), last[0].groups())


@torch.no_grad()
def test_last_block_that_reuses_the_first_has_its_groups() -> None:
    reusing = encoder([dict(r_q=0.5, q_stride=2, reuse=2), {}, {}, {}])
    x = torch.randn(1, 3, 64, 64)
    with record_assignments(reusing) as first, record_assignments(reusing, block="last") as last:
        reusing(x)
    assert torch.equal(first[0].groups(), last[0].groups())


def test_nothing_stays_behind() -> None:
    model = encoder("hq")
    with pytest.raises(RuntimeError, match="stop"), record_assignments(model):
        assert is_traced()
        raise RuntimeError("stop")
    assert not is_traced()
    assert hooks_of(model) == 0


def test_model_without_merging_has_no_records() -> None:
    model = encoder("none")
    assert not merges(model)
    assert merges(encoder("n2d"))
    with record_assignments(model) as records:
        model(torch.randn(1, 3, 32, 32))
    assert records == []


def test_unknown_block() -> None:
    context = record_assignments(encoder("hq"), block="middle")
    with pytest.raises(ValueError, match="block='middle' is unknown, allowed are 'first'"):
        context.__enter__()


class Segmentor(nn.Module):
    """What encode_one needs of one of mmseg's segmentors."""

    def __init__(self, inference: dict, **preprocessing: Any) -> None:
        super().__init__()
        self.backbone = encoder("n2d")
        self.test_cfg = inference
        self.data_preprocessor = SegDataPreProcessor(
            mean=[100.0] * 3, std=[50.0] * 3, bgr_to_rgb=True, **preprocessing
        )


def batch_of(height: int, width: int) -> dict:
    torch.manual_seed(1)
    images = list(torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8))
    return dict(inputs=images, data_samples=[SegDataSample(), SegDataSample()])


def test_encodes_one_image_of_the_batch_as_rgb() -> None:
    batch = batch_of(48, 64)
    pixels, records, note = encode_one(Segmentor(dict(mode="whole")), batch, 1)
    assert torch.equal(pixels, batch["inputs"][1].flip(0))
    assert [r.hw for r in records] == [(12, 16), (6, 8), (3, 4), (2, 2)]
    assert note == ""


def test_shows_the_padding_that_the_encoder_saw() -> None:
    model = Segmentor(dict(mode="whole"), size=(64, 64), test_cfg=dict(size_divisor=32))
    pixels, records, _ = encode_one(model, batch_of(48, 60))
    assert pixels.shape == (3, 64, 64)
    assert not pixels[:, 48:].any()
    assert records[0].hw == (16, 16)


def test_first_window_of_a_sliding_test_says_so() -> None:
    slide = dict(mode="slide", crop_size=(32, 32), stride=(24, 24))
    batch = batch_of(40, 64)
    pixels, records, note = encode_one(Segmentor(slide), batch)
    assert torch.equal(pixels, batch["inputs"][0].flip(0)[:, :32, :32])
    assert records[0].hw == (8, 8)
    assert note == "first window, 32×32 of 40×64"


def test_first_view_of_an_augmented_test_says_so() -> None:
    whole, flipped = batch_of(32, 32), batch_of(32, 32)
    flipped["inputs"] = [image.flip(2) for image in flipped["inputs"]]
    batch = {key: [whole[key], flipped[key]] for key in whole}
    pixels, _, note = encode_one(Segmentor(dict(mode="whole")), batch, 1)
    assert torch.equal(pixels, whole["inputs"][1].flip(0))
    assert note == "first augmented view"
