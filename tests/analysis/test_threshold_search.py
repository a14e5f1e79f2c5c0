"""ALGM*, refinement, wanted speeds and what the table says of them, on made-up measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import pytest

from mmtokmerge.analysis.experiment import ResultStore
from mmtokmerge.analysis.front_plot import front_figure
from mmtokmerge.analysis.thresholds import search as threshold_search
from mmtokmerge.analysis.thresholds.report import (
    Row,
    cells,
    curve_of,
    heads,
    make_rows,
    read_curve,
)
from mmtokmerge.analysis.thresholds.search import (
    BASELINE,
    Search,
    describe,
    even_steps,
)
from mmtokmerge.errors import InputError
from mmtokmerge.measure.evaluate import Measurement, Setting
from mmtokmerge.models.backbones import VisionTransformer
from mmtokmerge.models.overrides import NUM_MERGED
from mmtokmerge.reporting.tables import csv_text, markdown_table

MIOU = {0.95: 41.0, 0.9: 42.0, 0.85: 40.5, 0.8: 39.0}
BASE_MIOU = 40.0


def made_up(setting: Setting, *_: Any) -> Measurement:
    """Speed 1 at tau 1 and 3 at tau 0.5; mIoU falls below the baseline's under 0.83."""
    tau = setting.values.get("threshold")
    if tau is None:
        return measurement(setting.values, BASE_MIOU, 1.0, 1.0)
    with setting.active():
        reducer = setting.model.backbone.reducers[0]
        assert float(reducer.threshold) == pytest.approx(tau, abs=1e-6)
    miou = MIOU.get(tau, 40.0 if tau >= 0.83 else 39.5)
    return measurement(setting.values, miou, 1 + 4 * (1 - tau), tau)


def measurement(values: Any, miou: float, speed: float, share: float) -> Measurement:
    tokens = {"patches": 200.0, "after GBM (5)": 200 * share}
    return Measurement(dict(values), {"mIoU": miou}, 2e9 * share, tokens, [1.0, 1.0], [speed] * 2)


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    """A search whose measurements are made up, and counted in ``search.calls``."""
    calls: list[Any] = []

    def count(setting: Setting, *rest: Any) -> Measurement:
        calls.append(setting.values)
        return made_up(setting, *rest)

    @contextmanager
    def progress(_: str) -> Iterator[Callable[[], None]]:
        yield lambda: None

    monkeypatch.setattr(threshold_search, "measure", count)
    backbone = VisionTransformer(
        dict(embed_dims=8, num_layers=5, num_heads=1),
        img_size=32,
        reducers=[dict(type="mmtokmerge.GlobalBipartiteMerging", layer=5, threshold=0.5)],
    )
    model: Any = SimpleNamespace(backbone=backbone)
    store = ResultStore(tmp_path / "search.json", {})
    found = Search(model, model, None, store, progress)  # type: ignore[arg-type]
    found.calls = calls  # type: ignore[attr-defined]
    return found


def test_algm_star_is_the_smallest_that_keeps_the_miou(search: Search) -> None:
    baseline = search.run_baseline()
    for tau in (0.95, 0.9, 0.85, 0.8):
        search.run(tau)
    assert search.star(baseline.miou) == 0.85
    assert search.star(40.5) == 0.85
    assert search.star(40.51) == 0.9
    assert search.star(43) is None
    assert search.model.backbone.reducers[0].threshold == 0.5


def test_of_tokens_merged_the_most_counts(search: Search) -> None:
    search.name = NUM_MERGED
    search.measured = {
        value: measurement({NUM_MERGED: value}, 40 - value / 10, 1 + value / 10, 1 - value / 99)
        for value in (4, 8, 16)
    }
    assert search.star(39.2) == 8


def test_refining_halves_the_gap_below(search: Search) -> None:
    for tau in (0.9, 0.85, 0.8, 0.7):
        search.run(tau)
    search.refine(BASE_MIOU, 3)
    assert sorted(search.measured) == [0.7, 0.8, 0.825, 0.83125, 0.8375, 0.85, 0.9]
    assert search.star(BASE_MIOU) == 0.83125


def test_refining_where_there_is_nothing_below(search: Search) -> None:
    search.run(0.9)
    search.refine(BASE_MIOU, 3)
    search.refine(99, 3)
    assert list(search.measured) == [0.9]


def test_a_wanted_speed_is_interpolated_and_measured(search: Search) -> None:
    for tau in (0.95, 0.8, 0.5):
        search.run(tau)
    target = search.reach(1.5)
    assert target.found is not None
    assert target.found.values == {"threshold": pytest.approx(0.875)}
    assert target.found.speed == pytest.approx(1.5)
    below_the_first = search.reach(1.1)  # between no merging at tau 1 and 0.95
    assert below_the_first.found is not None
    assert below_the_first.found.values == {"threshold": pytest.approx(0.975)}
    assert search.reach(3.5).found is None


def test_what_was_measured_is_not_measured_again(search: Search, tmp_path: Path) -> None:
    search.run_baseline()
    first = search.run(0.9)
    assert search.calls == [BASELINE, {"threshold": 0.9}]  # type: ignore[attr-defined]
    search.store = ResultStore(tmp_path / "search.json", {})
    search.measured = {}
    assert search.run_baseline().miou == BASE_MIOU
    assert search.run(0.9) == first
    search.run(0.8)
    assert search.calls[2:] == [{"threshold": 0.8}]  # type: ignore[attr-defined]


def test_table(search: Search, tmp_path: Path) -> None:
    baseline = search.run_baseline()
    for tau in (0.9, 0.85, 0.8):
        search.run(tau)
    target = search.reach(1.6)
    rows = make_rows(search, baseline, None, 0.9, [target])
    found = [cells(row) for row in rows]
    assert [line[0] for line in found] == [
        "no merging",
        "tau 0.9 (as configured)",
        "tau 0.85 (ALGM*, 1.6x wanted)",
        "tau 0.8",
    ]
    assert found[0][1:] == ["40.00", "", "100.0", "2.00", "", "1.00x"]
    assert found[2][1:] == ["40.50", "+0.50", "85.0", "1.70", "-15.0%", "1.60x"]
    assert found[3][2] == "-1.00"
    lines = markdown_table(heads(rows), found, "title").splitlines()
    assert lines[0] == "title"
    assert lines[2].startswith("| setting | mIoU | mIoU change | tokens % after GBM (5) |")
    assert {line.count("|") for line in lines[2:]} == {8}
    search.store.summarise(table=[row.to_json() for row in rows])
    curve = read_curve("other", tmp_path / "search.json")
    assert curve == curve_of("other", [row.to_json() for row in rows])
    assert curve.baseline == 40.0
    assert [(m.label, m.speed, m.miou, m.star) for m in curve.marks] == [
        ("0.9", 1.4, 42.0, False),
        ("0.85", 1.6, 40.5, True),
        ("0.8", 1.8, 39.0, False),
    ]


def test_reducers_with_different_thresholds_have_a_row_of_their_own(search: Search) -> None:
    baseline = search.run_baseline()
    configured = measurement({"reduction": "as configured"}, 41, 1.2, 0.5)
    search.run(0.9)
    rows = make_rows(search, baseline, configured, None, [])
    assert [row.label for row in rows] == ["no merging", "as configured", "tau 0.9"]
    assert curve_of("a", [row.to_json() for row in rows]).marks[0].label == "config"


def test_an_unfinished_search_is_no_overlay(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    ResultStore(path, {}).put({"threshold": 0.5}, {})
    with pytest.raises(InputError, match=r"--overlay ToMe=.* was not finished"):
        read_curve("ToMe", path)
    with pytest.raises(InputError, match="cannot be read"):
        read_curve("ToMe", tmp_path / "none.json")


def test_the_plot_shows_every_method(search: Search, tmp_path: Path) -> None:
    baseline = search.run_baseline()
    for tau in (0.9, 0.8):
        search.run(tau)
    table = [row.to_json() for row in make_rows(search, baseline, None, None, [])]
    pictures = {}
    for count in (1, 2):
        curves = [curve_of(f"method {index}", table[: 3 - index]) for index in range(count)]
        path = tmp_path / f"{count}.png"
        path.write_bytes(front_figure(curves, "title", front_only=count > 1))
        pictures[count] = matplotlib.image.imread(path)
    assert pictures[1].shape == pictures[2].shape
    assert (pictures[1] != pictures[2]).any()


def test_words_and_steps() -> None:
    assert describe({"threshold": 0.883312}) == "tau 0.883312"
    assert describe({"num_merged": 8}) == "8 merged a layer"
    assert even_steps(0.5, 1.0, 3) == [0.5, 0.75, 1.0]
    assert even_steps(0.5, 0.9, 1) == [0.9]
    assert csv_text(["a", "b"], [[1, "x,y"]]) == 'a,b\n1,"x,y"\n'


def test_row_compares_with_the_baseline() -> None:
    base = measurement({}, 40, 1, 1)
    row = Row(measurement({"threshold": 0.5}, 41, 2, 0.25), base, "ALGM*")
    assert row.to_json() == {
        "setting": "tau 0.5",
        "value": 0.5,
        "note": "ALGM*",
        "miou": 41,
        "miou_gain": 1,
        "tokens_percent_after GBM (5)": 25,
        "gflops": 0.5,
        "gflops_change_percent": -75,
        "relative_throughput": 2,
    }
