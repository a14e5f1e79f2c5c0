"""Pictures of what a plain ViT's reducers merge (ALGM, figures 5 and 9)."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from algm_tools_helpers import write_tiny, write_weights
from engine_helpers import run_tool
from mmengine.config import Config
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from torch import nn

from mmtokmerge.analysis.overview import overview_figure
from mmtokmerge.engine.hooks import MergeVisualizationHook
from mmtokmerge.errors import InputError
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.local_pooling import window_similarity
from mmtokmerge.merging.trace import is_traced, trace
from mmtokmerge.models.backbones import VisionTransformer
from mmtokmerge.visualization import (
    MergedTokens,
    Panel,
    WindowSimilarity,
    draw_groups,
    draw_similarity,
    encode_one,
    merges,
    panel_figure,
    record_assignments,
    token_figure,
)
from mmtokmerge.visualization.describe import name_layers
from mmtokmerge.visualization.figures import groups_panel, token_heading, token_panels
from mmtokmerge.visualization.groups import rim_scattered
from mmtokmerge.visualization.layout import BAR_ROW
from mmtokmerge.visualization.similarity import similarity_bar

CLAP = dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=0.05)
GBM = dict(type="mmtokmerge.GlobalBipartiteMerging", layer=2, threshold=0.5)
TOME = dict(type="mmtokmerge.ToMe", layer=[1, 2, 3], num_merged=3)
PATCH = 8
NUMBERS = (
    'dict(type="mmtokmerge.ConditionalLocalPooling", layer=1, threshold=0.7), '
    'dict(type="mmtokmerge.GlobalBipartiteMerging", layer=2, threshold=0.8)'
)


def encoder(*reducers: dict[str, Any]) -> VisionTransformer:
    torch.manual_seed(0)
    arch = dict(embed_dims=16, num_layers=3, num_heads=2)
    model = VisionTransformer(arch, img_size=32, patch_size=PATCH, reducers=list(reducers))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def images(batch: int = 2, height: int = 41, width: int = 59) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, height, width)


def observe(
    model: VisionTransformer, x: torch.Tensor
) -> tuple[Any, dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """A forward pass as it is without recording, and each layer's tokens and groups."""
    seen: dict[int, torch.Tensor] = {}
    with trace(model, lambda each: seen.update({each.layer: each.tokens})) as merged:
        features = model(x)
    return features, seen, {event.layer: event.assignment.groups for event in merged.events}


def mean_cosine(tokens: torch.Tensor) -> float:
    """Over all pairs of different tokens ``(k, C)``, one by one."""
    pairs = itertools.combinations(tokens.double(), 2)
    return float(np.mean([float(torch.dot(a, b) / a.norm() / b.norm()) for a, b in pairs]))


@torch.no_grad()
def test_records_groups_and_similarity_of_an_odd_grid() -> None:
    model, x = encoder(dict(CLAP, window=(2, 3)), GBM), images()
    expected, seen, groups = observe(model, x)
    with record_assignments(model) as records:
        features = model(x)
    assert all(torch.equal(a, b) for a, b in zip(features, expected))
    assert [(each.place, each.how, each.hw, each.stage) for each in records] == [
        ("After CLAP in layer 1", "windows of 2×3, τ 0.05", (6, 8), None),
        ("After GBM in layer 2", "τ 0.5", (6, 8), None),
    ]
    clap, gbm = records
    for record, layer in ((clap, 1), (gbm, 2)):
        assert torch.equal(record.assignment.groups, groups[layer])
        for image in range(2):
            distinct = groups[layer][image].unique()
            assert record.num_kept(image) == len(distinct)
    assert 48 > clap.num_kept() > gbm.num_kept() > 1
    assert gbm.windows is None
    assert clap.windows is not None
    assert clap.windows.values.shape == (2, 3, 2)
    assert torch.equal(clap.windows.values, window_similarity(seen[1], (6, 8), (2, 3)))
    tokens = seen[1][1].view(6, 8, -1)
    for row, column in itertools.product(range(3), range(2)):
        window = tokens[2 * row : 2 * row + 2, 3 * column : 3 * column + 3].flatten(0, 1)
        value = float(clap.windows.values[1, row, column])
        assert value == pytest.approx(mean_cosine(window), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("reducers", "places", "hows"),
    [
        ([dict(GBM, layer=1)], ["After GBM in layer 1"], ["τ 0.5"]),
        (
            [dict(CLAP, layer=3), dict(GBM, layer=1)],
            ["After GBM in layer 1", "After CLAP in layer 3"],
            ["τ 0.5", "windows of 2×2, τ 0.05"],
        ),
        ([TOME], ["After ToMe in layers 1 to 3"], ["3 tokens a layer, keys compared"]),
        (
            [dict(CLAP, layer=2), dict(GBM, layer=2), dict(GBM, layer=2, position="after")],
            ["After CLAP in layer 2", "After GBM in layer 2", "After GBM in layer 2"],
            ["windows of 2×2, τ 0.05", "τ 0.5", "τ 0.5, after the MLP"],
        ),
        (
            [dict(CLAP, layer=[1, 3], feature="Q", operation="random", position="after")],
            ["After CLAP in layers 1, 3"],
            ["windows of 2×2, τ 0.05, queries compared, after the MLP, random pick"],
        ),
    ],
)
def test_one_record_for_each_reducer_of_any_kind(
    reducers: list[dict], places: list[str], hows: list[str]
) -> None:
    model, x = encoder(*reducers), images(1)
    with record_assignments(model) as records, trace(model) as merged:
        model(x)
        model(x)
    assert len(records) == 2 * len(places), "each forward pass records anew"
    records = records[: len(places)]
    assert [each.place for each in records] == places
    assert [each.how for each in records] == hows
    for record in records:
        assert (record.windows is not None) == ("CLAP" in record.place)
    if not any("random" in how for how in hows):
        assert torch.equal(records[-1].assignment.groups, merged.assignment.groups)
    kept = [each.num_kept() for each in records]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] < 48


@torch.no_grad()
def test_similarity_is_of_what_is_compared() -> None:
    x = images(1)
    found = {}
    for feature, position in itertools.product("XK", ("between", "after")):
        threshold = dict(X=0.05, K=0.83)[feature]
        model = encoder(dict(CLAP, feature=feature, position=position, threshold=threshold))
        with record_assignments(model) as records:
            model(x)
        windows = records[0].windows
        word = dict(X="tokens", K="keys")[feature]
        assert windows.place == f"Similarity of {word} in layer 1"
        found[feature, position] = windows.values
        assert 0 < windows.num_above() < 12
        assert records[0].num_kept() == 48 - 3 * windows.num_above(), (
            "the windows above are those that merge"
        )
    assert torch.equal(found["K", "between"], found["K", "after"])
    assert not torch.allclose(found["X", "between"], found["K", "between"])
    assert not torch.allclose(found["X", "between"], found["X", "after"])


@torch.no_grad()
@pytest.mark.parametrize("before", [(), (CLAP,)])
def test_averaged_tokens_that_stay_are_drawn_as_groups(before: tuple[dict, ...]) -> None:
    records = []
    for reduce in (True, False):
        model = encoder(*before, dict(GBM, reduce=reduce))
        with record_assignments(model) as recorded, trace(model) as merged:
            model(images(1))
        records.append(recorded[-1])
    assert torch.equal(records[0].assignment.groups, records[1].assignment.groups)
    kept = records[1].num_kept()
    assert kept < merged.assignment.num_groups, "the second removes nothing"
    panel = groups_panel(np.zeros((48, 64, 3), np.uint8), records[1], (48, 64))
    assert panel.title == f"After GBM in layer 2, 48 tokens in {kept} groups"
    assert panel.subtitle == "τ 0.5; averaged, none removed"


def test_nothing_stays_behind() -> None:
    model = encoder(CLAP, GBM)

    def traces() -> list[Any]:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        return [hooks, is_traced(), [set(vars(m)) for m in model.modules()]]

    before = traces()
    with pytest.raises(RuntimeError, match="stop"), record_assignments(model):
        model(images())
        assert traces() != before
        raise RuntimeError("stop")
    assert traces() == before


def test_model_without_reducers_has_no_records() -> None:
    model = encoder()
    assert not merges(model)
    assert merges(encoder(GBM))
    with record_assignments(model) as records:
        model(images())
    assert records == []


def record_of(
    values: list[list[float]], hw: tuple[int, int], window: tuple[int, int] = (2, 2)
) -> MergedTokens:
    similarity = torch.tensor([values]).view(1, hw[0] // window[0], hw[1] // window[1])
    windows = WindowSimilarity(similarity, window, 0.5, "Similarity of tokens in layer 1")
    tokens = TokenAssignment.identity(hw[0] * hw[1])
    return MergedTokens("After CLAP in layer 1", "", tokens, hw, windows=windows)


def test_similarity_in_colours_with_a_dark_rim() -> None:
    image = np.full((30, 50, 3), 200, dtype=np.uint8)  # tokens of 10x10
    record = record_of([[0.26, 1.0]], (3, 5))
    picture, bar = draw_similarity(image, record)
    assert (bar.low, bar.high, bar.mark) == (pytest.approx(0.2), 1.0, 0.5)
    colours = matplotlib.colormaps[bar.colours]
    low = np.array(colours(0.06 / 0.8, bytes=True)[:3])
    high = np.array(colours(1.0, bytes=True)[:3])
    assert (picture[:20, :20] == low).all()
    assert (picture[:20, 20:40] == high).all()
    assert (picture[20:] == 50).all()
    assert (picture[:, 40:] == 50).all()
    assert (image == 200).all()


def test_grid_smaller_than_a_window_has_no_colours() -> None:
    image = np.full((10, 40, 3), 200, dtype=np.uint8)
    record = record_of([], (1, 4))
    picture, _ = draw_similarity(image, record)
    assert (picture == 50).all()
    similarity, _ = token_panels(image, [record], (10, 40))
    assert similarity.subtitle == "0 of 0 windows above τ 0.5; rim: no window"


@pytest.mark.parametrize(
    ("values", "threshold", "low"),
    [([0.55, 0.8], 0.9, 0.5), ([0.95], 0.88, 0.8), ([0.99], 1.5, 0.9), ([-1.0], 0.0, -1.0)],
)
def test_bar_reaches_from_the_least_value_to_one(
    values: list[float], threshold: float, low: float
) -> None:
    bar = similarity_bar(np.array(values), threshold)
    assert (bar.low, bar.high) == (pytest.approx(low), 1.0)
    assert f"τ {threshold:g}" in bar.label


def test_record_without_windows_has_no_similarity_to_draw() -> None:
    record = MergedTokens("After GBM in layer 2", "", TokenAssignment.identity(4), (2, 2))
    with pytest.raises(ValueError, match="After GBM in layer 2 has no windows"):
        draw_similarity(np.zeros((4, 4, 3), np.uint8), record)


@torch.no_grad()
def test_panels_are_figure_9() -> None:
    with record_assignments(model := encoder(CLAP, GBM)) as records:
        model(images(1, 48, 64))
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    clap, gbm = (each.num_kept() for each in records)
    windows = records[0].windows
    similarity, after_clap, after_gbm = token_panels(image, records, (96, 128))
    assert similarity.title == "Similarity of tokens in layer 1, windows of 2×2"
    assert similarity.subtitle == f"{windows.num_above()} of 12 windows above τ 0.05"
    assert similarity.bar.mark == pytest.approx(0.05)
    assert (similarity.image == draw_similarity(image, records[0], size=(96, 128))[0]).all()
    assert after_clap.title == f"After CLAP in layer 1, 48 → {clap} tokens"
    assert after_clap.subtitle == f"windows of 2×2, τ 0.05; {clap / 48:.0%} kept"
    assert after_gbm.title == f"After GBM in layer 2, 48 → {gbm} tokens"
    for panel, record in ((after_clap, records[0]), (after_gbm, records[1])):
        groups = record.assignment.groups[0].numpy()
        drawn = draw_groups(image, groups, (6, 8), (96, 128))
        assert (panel.image == rim_scattered(drawn, groups, (6, 8))).all()
    assert token_heading("a.png", records, "first", "part") == "a: merged tokens (part)"


def test_figure_starts_with_the_input() -> None:
    image = np.full((20, 40, 3), (10, 200, 30), dtype=np.uint8)
    groups = TokenAssignment.from_groups(torch.zeros(1, 8, dtype=torch.long), 1)
    plain = MergedTokens("After GBM in layer 2", "τ 0.5", groups, (2, 4))
    staged = MergedTokens("Stage 1: queries", "n2d", groups, (2, 4), stage=1)
    areas = [
        int((token_figure(image, [record]) == (10, 200, 30)).all(axis=2).sum())
        for record in (plain, staged)
    ]
    assert areas[0] == pytest.approx(2 * areas[1], rel=0.02)


def test_bar_is_drawn_below_its_row_alone() -> None:
    grey = Panel(np.full((40, 60, 3), 128, dtype=np.uint8), "grey")
    coloured = Panel(grey.image, "coloured", bar=similarity_bar(np.array([0.0]), 0.5))
    without = panel_figure([[grey], [grey]], width=200)
    figure = panel_figure([[coloured], [grey]], width=200)
    assert abs(figure.shape[0] - without.shape[0] - BAR_ROW) <= 1
    for end in (0.02, 0.98):
        colour = np.array(matplotlib.colormaps["viridis"](end, bytes=True)[:3]).astype(int)
        near = np.abs(figure.astype(int) - colour).max(axis=2) <= 4
        rows = np.nonzero(near.any(axis=1))[0]
        assert len(rows) >= 5, "both ends of the bar are there"
        assert rows.max() < without.shape[0] // 2 + BAR_ROW
    red = (figure == (255, 0, 0)).all(axis=2)
    columns = np.nonzero(red.any(axis=0))[0]
    assert abs(columns.mean() - (14 + 100)) < 4, "tau is in the middle of 0 to 1"


def test_names_of_layers() -> None:
    assert name_layers([5]) == "layer 5"
    assert name_layers([1, 2]) == "layers 1, 2"
    assert name_layers([1, 4, 9]) == "layers 1, 4, 9"
    assert name_layers(range(1, 13)) == "layers 1 to 12"


class Segmentor(nn.Module):
    """What encode_one needs of one of mmseg's segmentors."""

    def __init__(self, inference: dict) -> None:
        super().__init__()
        self.backbone = encoder(CLAP)
        self.test_cfg = inference
        self.data_preprocessor = SegDataPreProcessor(mean=[100.0] * 3, std=[50.0] * 3)


@pytest.mark.parametrize("index", [0, 1])
def test_encoded_image_shows_the_padding_of_the_patches(index: int) -> None:
    torch.manual_seed(2)
    inputs = list(torch.randint(0, 256, (2, 3, 41, 60), dtype=torch.uint8))
    batch = dict(inputs=inputs, data_samples=[SegDataSample(), SegDataSample()])
    model = Segmentor(dict(mode="whole"))
    pixels, (record,), note = encode_one(model, batch, index)
    assert (pixels.shape, record.hw, note) == ((3, 48, 64), (6, 8), "")
    assert torch.equal(pixels[:, :41, :60], inputs[index].flip(0))
    assert not pixels[:, 41:].any()
    assert not pixels[:, :, 60:].any()
    both = model.data_preprocessor(batch, False)["inputs"]
    with torch.no_grad(), record_assignments(model) as records:
        model.backbone(both)
    assert torch.equal(record.groups(), records[0].groups(index)), "as in the batch"


def test_first_window_of_a_sliding_test_says_so() -> None:
    slide = dict(mode="slide", crop_size=(24, 32), stride=(16, 16))
    inputs = [torch.zeros(3, 41, 60, dtype=torch.uint8)]
    pixels, (record,), note = encode_one(Segmentor(slide), dict(inputs=inputs))
    assert (pixels.shape, record.hw) == ((3, 24, 32), (3, 4))
    assert note == "first window, 24×32 of 41×60"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """A config with CLAP and GBM, its random weights, and one of its images of 36x44 pixels."""
    config = write_tiny(tmp_path_factory.mktemp("algm"), NUMBERS)
    weights = write_weights(config)
    return str(config), str(weights), str(config.parent / "images" / "val" / "0.png")


def test_a_block_of_stages_that_do_not_exist_is_an_error(tiny: tuple[str, str, str]) -> None:
    SegLocalVisualizer.get_instance(tiny[0])
    runner = SimpleNamespace(model=encoder(CLAP))
    MergeVisualizationHook().before_run(runner)
    with pytest.raises(InputError, match="block='last' does nothing: the model has no stages"):
        MergeVisualizationHook(block="last").before_run(runner)
    cfg = Config.fromfile(tiny[0])
    for arguments in (dict(stages=(1,)), dict(block="first")):
        with pytest.raises(InputError, match="--stage and --block choose tokens of stages"):
            overview_figure(cfg, *tiny[1:], **arguments)


def test_overview_of_one_image(tiny: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def panels(rows: Any, *rest: Any) -> np.ndarray:
        drawn.append((rows, *rest))
        return panel_figure(rows, *rest)

    monkeypatch.setattr("mmtokmerge.analysis.overview.panel_figure", panels)
    figure = overview_figure(Config.fromfile(tiny[0]), *tiny[1:])
    assert figure.dtype == np.uint8
    rows, heading, *_ = drawn[0]
    assert heading == "0: merged tokens"
    assert [panel.title.split(",")[0] for panel in rows[1]] == [
        "Similarity of tokens in layer 1",
        "After CLAP in layer 1",
        "After GBM in layer 2",
    ]
    assert rows[0][2].subtitle == "CLAP and GBM merging"
    assert not (rows[0][1].image == rows[0][2].image).all(), "one of the two is without merging"


def test_overview_of_a_config_without_reducers(tiny: tuple[str, str, str]) -> None:
    cfg = Config.fromfile(tiny[0])
    cfg.model.backbone.reducers = []
    with pytest.raises(InputError, match=r"merges no tokens .* neither merging nor reducers"):
        overview_figure(cfg, *tiny[1:])


def test_show_dir_of_the_test_tool(tiny: tuple[str, str, str], tmp_path: Path) -> None:
    arguments = ("--work-dir", tmp_path / "work", "--show-dir", tmp_path / "show")
    result = run_tool("test.py", *tiny[:2], *arguments)
    assert result.status == 0, result.output
    names = sorted(path.name for path in (tmp_path / "show").rglob("*.png"))
    assert names == sorted(
        f"test_{i}.png{what}_{i + 1}.png" for i in range(4) for what in ("", "_tokens")
    )
