"""Policies of CTS against loops over cells, mmseg's own model, and sequences worked out by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from tracing import ended, follow

from mmtokmerge.models.overrides import without_merging

pytest.importorskip("mmseg", reason="needs MMSegmentation")

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample

from mmtokmerge.errors import InputError
from mmtokmerge.models.policies import Normalisation, Policy, PolicyInput
from mmtokmerge.models.policies.oracle import uniformity
from mmtokmerge.models.segmentors.label_maps import label_maps
from mmtokmerge.registry import MODELS

PATCH, CELL = 8, 16
OURS = dict(
    type="mmseg.SegDataPreProcessor",
    mean=[127.5, 120.0, 110.0],
    std=[127.5, 60.0, 50.0],
    bgr_to_rgb=True,
    size_divisor=1,
)
THEIRS = dict(
    type="mmseg.SegDataPreProcessor",
    mean=[103.53, 116.28, 123.675],
    std=[57.375, 57.12, 58.395],
    bgr_to_rgb=False,
)


@MODELS.register_module(force=True)
class CellNet(BaseModel):
    """Scores a cell by the mean of its blue, in pixels, over 100: what a hand can work out."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor or dict(type="mmseg.SegDataPreProcessor"))
        self.mean = nn.Conv2d(3, 1, CELL, CELL, bias=False)
        self.norm = nn.BatchNorm2d(1, eps=0)
        with torch.no_grad():
            self.mean.weight.zero_()[:, 0] = 1 / CELL**2
            self.norm.running_var.fill_(100.0**2)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Tensor:
        return self.norm(self.mean(inputs))

    def scores(self, inputs: Tensor) -> Tensor:
        return self(inputs)[:, 0]


@pytest.fixture
def cell_net(tmp_path: Path) -> dict[str, Any]:
    torch.save(dict(state_dict=CellNet().state_dict()), tmp_path / "cells.pth")
    network = dict(type="mmtokmerge.CellNet")
    checkpoint = str(tmp_path / "cells.pth")
    return dict(type="mmtokmerge.NetworkPolicy", network=network, checkpoint=checkpoint)


def by_loops(labels: Tensor, cell: int, ignored: int = 255) -> Tensor:
    """Share of a cell's largest class, by counting pixel by pixel."""
    maps = []
    for one in labels.tolist():
        h, w = len(one), len(one[0])
        rows = []
        for top in range(0, h, cell):
            row = []
            for left in range(0, w, cell):
                pixels = [v for line in one[top : top + cell] for v in line[left : left + cell]]
                row.append(max(Counter(pixels).values()) / len(pixels))
            rows.append(row)
        maps.append(rows)
    return torch.tensor(maps)


def asked(images: Tensor, labels: Tensor | None = None, **kwargs: Any) -> PolicyInput:
    hw = (-(-images.shape[2] // PATCH), -(-images.shape[3] // PATCH))
    normalisation = kwargs.pop("normalisation", Normalisation())
    return PolicyInput(images, hw, PATCH, normalisation, labels)


def build(**config: Any) -> Policy:
    return MODELS.build(config).eval()


# Normalisation


@pytest.mark.parametrize("one", [OURS, THEIRS, dict(type="mmseg.SegDataPreProcessor")])
@pytest.mark.parametrize("other", [OURS, THEIRS, dict(type="mmseg.SegDataPreProcessor")])
def test_converted_is_as_normalised_from_pixels(one: dict[str, Any], other: dict[str, Any]) -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    first, second = MODELS.build(one), MODELS.build(other)

    def feed(preprocessor: nn.Module) -> Tensor:
        samples = [SegDataSample() for _ in pixels]
        return preprocessor(dict(inputs=list(pixels), data_samples=samples))["inputs"]

    feed(first)
    found = Normalisation.of(first).convert(feed(first), Normalisation.of(second))
    torch.testing.assert_close(found, feed(second), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(
        Normalisation.of(first).undo(feed(first)), pixels.float(), atol=1e-4, rtol=1e-5
    )


def test_a_backbone_that_was_told_nothing_says_so() -> None:
    unknown = asked(torch.zeros(1, 3, 32, 32), normalisation=None)
    with pytest.raises(InputError, match="SharingEncoderDecoder"):
        unknown.normalised_as(Normalisation(), "NetworkPolicy")


# Oracle and random


@given(
    st.integers(1, 13),
    st.integers(1, 13),
    st.integers(1, 5),
    st.integers(0, 2**16),
)
def test_uniformity_equals_loops(h: int, w: int, cell: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.tensor([0, 7, 254, 255])
    coarse = kinds[torch.randint(4, (2, -(-h // 3), -(-w // 3)), generator=generator)]
    labels = coarse.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :h, :w]
    cells = (-(-h // cell), -(-w // cell))
    torch.testing.assert_close(uniformity(labels, cell, cells), by_loops(labels, cell))


def test_what_the_oracle_calls_a_single_class() -> None:
    """One class, all ignored, one class with an ignored pixel, half and half."""
    labels = torch.full((1, CELL, 4 * CELL), 3)
    labels[:, :, CELL : 2 * CELL] = 255
    labels[:, 0, 2 * CELL] = 255
    labels[:, :, 3 * CELL : 3 * CELL + CELL // 2] = 5
    found = build(type="mmtokmerge.OraclePolicy")(asked(torch.zeros(1, 3, CELL, 4 * CELL), labels))
    torch.testing.assert_close(found, torch.tensor([[[1, 1, 255 / 256, 0.5]]]))


def test_the_oracle_needs_labels() -> None:
    with pytest.raises(InputError, match="ground-truth labels"):
        build(type="mmtokmerge.OraclePolicy")(asked(torch.zeros(1, 3, 32, 32)))


def test_random_scores() -> None:
    images = torch.zeros(2, 3, 40, 33)
    seeded = build(type="mmtokmerge.RandomPolicy", seed=3)
    first = seeded(asked(images))
    assert first.shape == (2, 3, 3)
    torch.rand(5)
    assert torch.equal(first, seeded(asked(images + 1)))
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, build(type="mmtokmerge.RandomPolicy", seed=4)(asked(images)))
    assert not torch.equal(seeded.train()(asked(images)), seeded(asked(images)))
    free = build(type="mmtokmerge.RandomPolicy")
    assert not torch.equal(free(asked(images)), free(asked(images)))


# Labels as the network sees the image


def sample(labels: Any, **metainfo: Any) -> SegDataSample:
    return SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([labels])), metainfo=metainfo)


def maps_of(one: SegDataSample, size: tuple[int, int], flip: bool = False) -> list[list[int]]:
    found = label_maps([one], torch.zeros(1, 3, *size), 255, flip)
    assert found is not None
    return found[0].tolist()


def test_label_maps_by_hand() -> None:
    labels = [[0, 1], [2, 3]]
    assert maps_of(sample(labels), (2, 2)) == labels
    doubled = [[0, 0, 1, 1, 255], [0, 0, 1, 1, 255], [2, 2, 3, 3, 255], [2, 2, 3, 3, 255]]
    assert maps_of(sample(labels, img_shape=(4, 4)), (4, 5)) == doubled
    four = [[0, 1, 2, 3]]
    assert maps_of(sample(four, img_shape=(1, 2)), (1, 2)) == [[1, 3]]
    flipped = sample(labels, img_shape=(2, 2), flip=True, flip_direction="horizontal")
    assert maps_of(flipped, (2, 3)) == [[0, 1, 255], [2, 3, 255]]
    assert maps_of(flipped, (2, 3), flip=True) == [[1, 0, 255], [3, 2, 255]]
    upside = sample(labels, flip=True, flip_direction="vertical")
    assert maps_of(upside, (2, 2), flip=True) == [[2, 3], [0, 1]]
    assert label_maps([SegDataSample()], torch.zeros(1, 3, 2, 2), 255) is None


# Segmentation


def segmentor(**head: Any) -> dict[str, Any]:
    decode = dict(
        type="mmseg.FCNHead",
        in_channels=24,
        in_index=1,
        channels=8,
        num_convs=1,
        num_classes=4,
        norm_cfg=dict(type="BN"),
    )
    return dict(
        type="mmseg.EncoderDecoder",
        data_preprocessor=THEIRS,
        backbone=dict(type="mmseg.MobileNetV2", out_indices=(0, 1)),
        decode_head={**decode, **head},
        auxiliary_head=decode,
        train_cfg=None,
        test_cfg=dict(mode="whole"),
    )


def trained(config: dict[str, Any], path: Path) -> Any:
    """mmseg's model with weights and statistics of its own, and its checkpoint."""
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(config))
    for name, value in model.state_dict().items():
        if name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight")):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(0, 0.3)
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return model.eval()


def test_segmentation_is_the_oracle_on_mmsegs_prediction(tmp_path: Path) -> None:
    """From pixels, each model in its own normalisation; sizes that no cell divides."""
    model = trained(segmentor(), tmp_path / "fcn.pth").double()
    policy = build(
        type="mmtokmerge.SegmentationPolicy",
        network=segmentor(),
        checkpoint=str(tmp_path / "fcn.pth"),
    ).double()
    pixels = torch.randint(0, 256, (2, 3, 5, 7)).double().repeat_interleave(10, 2)
    pixels = pixels.repeat_interleave(10, 3)[:, :, :41]  # (2, 3, 41, 70)
    ours = Normalisation.of(MODELS.build(OURS))
    found = policy(asked(ours.apply(pixels), normalisation=ours))

    std, mean = (torch.tensor(THEIRS[key]).view(3, 1, 1).double() for key in ("std", "mean"))
    with torch.no_grad():
        predicted = model.predict((pixels - mean) / std)
    labels = torch.stack([each.pred_sem_seg.data[0] for each in predicted])
    assert found.shape == (2, 3, 5)
    assert len(set(labels.flatten().tolist())) > 1 and 0 < (found < 1).float().mean() < 1
    torch.testing.assert_close(found, by_loops(labels, CELL))
    oracle = build(type="mmtokmerge.OraclePolicy")
    assert torch.equal(found, oracle(asked(pixels, labels)))


def test_training_only_heads_need_not_fit(tmp_path: Path) -> None:
    trained(segmentor(), tmp_path / "fcn.pth")
    without = {key: value for key, value in segmentor().items() if key != "auxiliary_head"}
    checkpoint = str(tmp_path / "fcn.pth")
    for network in (segmentor(), without):
        policy = build(type="mmtokmerge.SegmentationPolicy", network=network, checkpoint=checkpoint)
        policy.check()
        assert not policy.network.model.with_auxiliary_head


@pytest.mark.parametrize("kind", ["missing", "damaged", "mismatched", "empty", "none"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_wrong_checkpoint_is_named(kind: str, nested: bool, tmp_path: Path) -> None:
    path = tmp_path / f"{kind}.pth"
    if kind == "damaged":
        path.write_bytes(b"PK\x03\x04 no checkpoint")
    elif kind == "mismatched":
        trained(segmentor(num_classes=5), path)
    elif kind == "empty":
        torch.save(dict(state_dict={}), path)
    inner = dict(
        type="mmtokmerge.SegmentationPolicy",
        network=segmentor(),
        checkpoint=None if kind == "none" else str(path),
    )
    policy = (
        build(type="mmtokmerge.PreviousFramePolicy", source=inner) if nested else build(**inner)
    )
    with pytest.raises(InputError) as raised:
        policy.check()
    key = "sharing.policy.source.checkpoint" if nested else "sharing.policy.checkpoint"
    assert str(raised.value).startswith(key)
    assert kind == "none" or str(path) in str(raised.value)
    assert kind != "mismatched" or "decode_head.conv_seg" in str(raised.value)


def test_a_network_that_does_not_segment() -> None:
    with pytest.raises(TypeError, match="decode_head"):
        build(type="mmtokmerge.SegmentationPolicy", network=dict(type="mmtokmerge.CellNet"))


# In the segmentation network


def network(policy: dict[str, Any], **kwargs: Any) -> Any:
    torch.manual_seed(1)
    kwargs = {"test_cfg": dict(mode="whole"), "data_preprocessor": OURS, **kwargs}
    model = MODELS.build(
        ConfigDict(
            type="mmtokmerge.SharingEncoderDecoder",
            backbone=dict(
                type="mmtokmerge.VisionTransformer",
                arch=dict(embed_dims=16, num_layers=1, num_heads=2),
                img_size=32,
                patch_size=PATCH,
                out_indices=(0,),
                sharing=dict(policy=policy, num_shared=1),
            ),
            decode_head=dict(
                type="mmseg.FCNHead",
                in_channels=16,
                channels=8,
                num_convs=1,
                concat_input=False,
                num_classes=3,
                norm_cfg=dict(type="BN"),
            ),
            train_cfg=None,
            **kwargs,
        )
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@contextmanager
def noting_scores(model: Any) -> Iterator[list[Tensor]]:
    """What the policy scored, call by call."""
    noted: list[Tensor] = []
    policy = model.backbone.sharing.policy
    hook = policy.register_forward_hook(lambda module, args, output: noted.append(output))
    try:
        yield noted
    finally:
        hook.remove()


def frame(seed: int, name: str = "", size: tuple[int, int] = (32, 64)) -> dict[str, Any]:
    """A batch of one image of blocks, with labels of blocks."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = -(-size[0] // 8), -(-size[1] // 8)

    def blocks(most: int, channels: int) -> Tensor:
        coarse = torch.randint(most, (channels, rows, columns), generator=generator)
        fine = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
        return fine[:, : size[0], : size[1]]

    label = blocks(2, 1)
    known = dict(ori_shape=size, img_shape=size)
    if name:
        known["img_path"] = name
    sample = SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=known)
    return dict(inputs=[blocks(256, 3).to(torch.uint8)], data_samples=[sample])


def blue(data: dict[str, Any], left: int = 0, right: int | None = None) -> Tensor:
    """The scores of CellNet, from pixels."""
    pixels = data["inputs"][0][0, :, left:right].float() / 100
    return pixels.unflatten(1, (-1, CELL)).unflatten(0, (-1, CELL)).mean((1, 3))[None]


SLIDE = dict(mode="slide", crop_size=(32, 32), stride=(16, 16))


def test_windows_carry_their_labels() -> None:
    model = network(dict(type="mmtokmerge.OraclePolicy"), test_cfg=SLIDE)
    data = frame(0)
    labels = data["data_samples"][0].gt_sem_seg.data
    with noting_scores(model) as noted:
        model.test_step(data)
    assert len(noted) == 3
    for left, found in zip((0, 16, 32), noted):
        torch.testing.assert_close(found, by_loops(labels[:, :, left : left + 32], CELL))
    assert not torch.equal(noted[0], noted[2])


def test_a_policys_network_stays_as_it_is(cell_net: dict[str, Any], tmp_path: Path) -> None:
    trained(segmentor(), tmp_path / "fcn.pth")
    fcn = dict(
        type="mmtokmerge.SegmentationPolicy",
        network=segmentor(),
        checkpoint=str(tmp_path / "fcn.pth"),
    )
    for policy in (cell_net, fcn):
        model = network(policy).train()
        model.backbone.sharing.policy.check()
        frozen = model.backbone.sharing.policy.network.model
        before = {key: value.clone() for key, value in frozen.state_dict().items()}
        data = model.data_preprocessor(frame(0), True)
        data["inputs"] = data["inputs"].repeat(2, 1, 1, 1)
        data["data_samples"] = data["data_samples"] * 2
        losses = model(**data, mode="loss")
        losses["decode.loss_ce"].backward()
        assert model.training and not any(each.training for each in frozen.modules())
        assert all(each.grad is None and not each.requires_grad for each in frozen.parameters())
        assert model.backbone.patch_embed.projection.weight.grad is not None
        for key, value in frozen.state_dict().items():
            assert torch.equal(value, before[key]), key
        assert not any("network" in key or "policy" in key for key in model.state_dict())
        own = {id(each) for each in frozen.parameters()}
        assert not own & {id(each) for each in model.parameters()}
        model.half()
        assert next(frozen.parameters()).dtype == torch.float16


# Previous frame


def run(model: Any, data: dict[str, Any]) -> list[Tensor]:
    """Scores of a frame, window by window."""
    with torch.no_grad(), noting_scores(model) as noted:
        model.test_step(data)
    return noted


def previous(policy: Any, **kwargs: Any) -> dict[str, Any]:
    return dict(type="mmtokmerge.PreviousFramePolicy", source=policy, **kwargs)


def test_the_network_on_the_previous_frame(cell_net: dict[str, Any]) -> None:
    """Table 7c, PolicyNet: frame t by the scores of t - 1, the first by its own."""
    model = network(previous(cell_net))
    follow(model.backbone)
    a, b, c = (frame(seed, f"video/{seed}.png") for seed in (9, 10, 11))
    for data, expected in [(a, a), (b, a), (b, a), (c, b)]:
        torch.testing.assert_close(run(model, data)[0], blue(expected), atol=1e-4, rtol=1e-4)
    assert ended(model.backbone).sharing.num_groups == 32 - 3
    # The sequence once more, another one, another size, and on demand.
    other = frame(3, "next/12.png")
    small = frame(4, "next/13.png", (32, 32))
    for data, expected in [(a, a), (b, a), (other, other), (small, small)]:
        torch.testing.assert_close(run(model, data)[0], blue(expected), atol=1e-4, rtol=1e-4)
    model.backbone.sharing.policy.reset()
    torch.testing.assert_close(run(model, c)[0], blue(c), atol=1e-4, rtol=1e-4)


def test_frames_without_a_path_follow_each_other(cell_net: dict[str, Any]) -> None:
    model = network(previous(cell_net))
    follow(model.backbone)
    a, b, c = (frame(seed) for seed in range(3))
    for data, expected in [(a, a), (b, a), (c, b)]:
        torch.testing.assert_close(run(model, data)[0], blue(expected), atol=1e-4, rtol=1e-4)


def test_a_window_goes_by_its_own_of_the_previous_frame(cell_net: dict[str, Any]) -> None:
    model = network(previous(cell_net), test_cfg=SLIDE)
    a, b = frame(0, "1.png"), frame(1, "2.png")
    for data, expected in [(a, a), (b, a)]:
        noted = run(model, data)
        assert len(noted) == 3
        for left, found in zip((0, 16, 32), noted):
            torch.testing.assert_close(found, blue(expected, left, left + 32), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("classes", [3, 1])
def test_the_previous_prediction(cell_net: dict[str, Any], mode: str, classes: int) -> None:
    """Table 7c, segmentation prediction: by the label map that the model gave for t - 1."""
    model = network(
        previous("prediction", first=cell_net),
        test_cfg=SLIDE if mode == "slide" else dict(mode=mode),
    )
    if classes == 1:
        head = model.decode_head
        head.conv_seg, head.out_channels, model.out_channels = nn.Conv2d(8, 1, 1), 1, 1
        head.threshold = 0.5
        nn.init.normal_(head.conv_seg.weight)
    edges = [(0, 32), (16, 48), (32, 64)] if mode == "slide" else [(0, 64)]
    before: Tensor | None = None
    differ = False
    for data in (frame(seed, f"{seed}.png") for seed in range(3)):
        with torch.no_grad(), noting_scores(model) as noted:
            found = model.test_step(data)[0].pred_sem_seg.data.long()
        assert len(noted) == len(edges)
        for (left, right), scores in zip(edges, noted):
            expected = blue(data, left, right)
            if before is not None:
                expected = by_loops(before[:, :, left:right], CELL)
                differ = differ or not torch.equal(
                    expected, by_loops(found[:, :, left:right], CELL)
                )
            torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
        before = found
    assert differ


def test_the_first_frame_may_be_the_oracles() -> None:
    model = network(previous("prediction", first=dict(type="mmtokmerge.OraclePolicy")))
    a, b = frame(0, "1.png"), frame(1, "2.png")
    truth = a["data_samples"][0].gt_sem_seg.data
    torch.testing.assert_close(run(model, a)[0], by_loops(truth, CELL))
    with torch.no_grad():
        predicted = model.test_step(a)[0].pred_sem_seg.data
    torch.testing.assert_close(run(model, b)[0], by_loops(predicted, CELL))


def test_a_frame_again_without_sharing_changes_nothing(cell_net: dict[str, Any]) -> None:
    """As the tools measure a baseline: image by image, with sharing off and on."""
    for policy in (previous(cell_net), previous("prediction", first=cell_net)):
        plain, mixed = network(policy), network(policy)
        for data in (frame(seed, f"{seed}.png") for seed in range(3)):
            with torch.no_grad(), without_merging(mixed.backbone):
                mixed.test_step(data)
            expected = run(plain, data)
            assert torch.equal(run(mixed, data)[0], expected[0])
            with torch.no_grad(), without_merging(mixed.backbone):
                mixed.test_step(data)


def test_sequences_by_name(cell_net: dict[str, Any]) -> None:
    model = network(previous(cell_net, sequence=r"([^/]+)_\d+\.png$"))
    a1, a2, b1 = (frame(i, f"all/{name}.png") for i, name in enumerate(("a_9", "a_10", "b_11")))
    for data, expected in [(a1, a1), (a2, a1), (b1, b1)]:
        torch.testing.assert_close(run(model, data)[0], blue(expected), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match=r"finds no sequence in all/12\.png"):
        run(model, frame(0, "all/12.png"))


def test_use_that_has_no_previous_frame(cell_net: dict[str, Any]) -> None:
    model = network(previous(cell_net))
    run(model, frame(0, "video/2.png"))
    run(model, frame(0, "video/10.png"))
    with pytest.raises(InputError, match=r"video/9\.png after video/10\.png"):
        run(model, frame(0, "video/9.png"))
    with pytest.raises(InputError, match="in two sizes, 32x64 and 32x32"):
        run(model, frame(0, "video/10.png", (32, 32)))
    flipped = frame(0, "video/11.png")
    flipped["data_samples"][0].set_metainfo(dict(flip=True, flip_direction="horizontal"))
    with pytest.raises(InputError, match="no flipped images"):
        run(model, flipped)
    two = {key: value * 2 for key, value in frame(0, "video/12.png").items()}
    with pytest.raises(InputError, match="batch of 2"):
        model.test_step(two)
    with pytest.raises(InputError, match="batch of 2"):
        model.backbone(torch.zeros(2, 3, 32, 32))
    with pytest.raises(InputError, match="training"):
        model.train()(**model.data_preprocessor(frame(0), True), mode="loss")
    asks = network(previous("prediction", first=cell_net))
    with pytest.raises(InputError, match="where predictions are made"):
        asks.backbone(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        (dict(source="labels"), "source='labels' is unknown"),
        (dict(source=None), "source must be a policy's config"),
        (dict(source="prediction"), "first must be a policy's config, got None"),
        (dict(source=dict(type="mmtokmerge.CellNet")), "source=.* is no policy"),
        (
            dict(source=previous(dict(type="mmtokmerge.RandomPolicy"))),
            "no policy for a single frame",
        ),
        (
            dict(
                source=dict(type="mmtokmerge.RandomPolicy"),
                first=dict(type="mmtokmerge.RandomPolicy"),
            ),
            "first does nothing",
        ),
        (dict(source=dict(type="mmtokmerge.RandomPolicy"), sequence="("), "no regular expression"),
        (dict(source=dict(type="mmtokmerge.RandomPolicy"), sequence="a"), "has no group"),
        (dict(source=dict(type="mmtokmerge.RandomPolicy"), sequence=1), "got 1"),
    ],
)
def test_bad_settings_of_previous_frames(kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(type="mmtokmerge.PreviousFramePolicy", **kwargs)


def test_previous_frames_hold_no_weights_but_move_them(cell_net: dict[str, Any]) -> None:
    policy = build(**previous(cell_net))
    assert not policy.state_dict() and not list(policy.parameters())
    policy.half()
    assert policy.asked.network.model.mean.weight.dtype == torch.float16


def test_without_frames_the_segmentor_is_mmsegs() -> None:
    """The override of inference adds nothing for policies that do not go by frames."""
    model = network(dict(type="mmtokmerge.RandomPolicy", seed=0), test_cfg=SLIDE)
    x = torch.randn(1, 3, 32, 64)
    metas = [dict(ori_shape=(32, 64), img_shape=(32, 64))]
    with torch.no_grad():
        torch.testing.assert_close(
            model.inference(x, metas), EncoderDecoder.inference(model, x, metas)
        )


def test_a_run_between_frames_moves_nothing_on(cell_net: dict[str, Any]) -> None:
    """Timing an image runs the network without a path; the next sequence is still a new one."""
    model = network(dict(type="mmtokmerge.PreviousFramePolicy", source=cell_net))
    with noting_scores(model) as noted:
        for number, name in ((1, "a/1.png"), (2, "a/2.png")):
            model.test_step(frame(number, name))
        inputs = model.data_preprocessor(frame(9), False)["inputs"]
        with torch.no_grad():
            model(inputs, None, mode="tensor")
        model.test_step(frame(3, "b/1.png"))
    torch.testing.assert_close(noted[1], blue(frame(1)))
    torch.testing.assert_close(noted[3], blue(frame(3)))
