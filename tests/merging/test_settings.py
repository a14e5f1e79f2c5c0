"""What a config may say about merging, and the sentence for everything else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmtokmerge.merging import (
    PRESETS,
    BipartiteMatcher,
    CellPooling,
    Matcher,
    StageMerging,
    neighbour_pooling,
    read_merging,
)

Q_HQ = BipartiteMatcher(0.8, (4, 4))
Q_FAST = BipartiteMatcher(0.9, (4, 4))
KV_HQ = BipartiteMatcher(0.6, (2, 2))
KV_FAST = BipartiteMatcher(0.9, (4, 4))
Q_N2D = CellPooling((2, 2))


def stages(**first: Any) -> list[dict[str, Any]]:
    return [first, {}, {}, {}]


def test_presets_are_table_one() -> None:
    """Table I, the same for every size: stages 1 and 2 merge keys, 3 and 4 queries; n2d queries."""
    assert set(PRESETS) == {"none", "hq", "fast", "n2d", "plus"}
    assert read_merging("none") == [StageMerging()] * 4
    assert read_merging("hq") == [StageMerging(kv=KV_HQ)] * 2 + [StageMerging(q=Q_HQ)] * 2
    assert read_merging("fast") == [StageMerging(kv=KV_FAST)] * 2 + [StageMerging(q=Q_FAST)] * 2
    assert read_merging("n2d") == [StageMerging(q=Q_N2D)] * 4


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"plus"}))
def test_the_papers_presets_are_not_proportional(name: str) -> None:
    assert not any(stage.proportional for stage in read_merging(name))


def test_plus_pools_queries_and_weighs_keys_in_the_first_stages() -> None:
    keys = BipartiteMatcher(0.8, (4, 4))
    first = StageMerging(q=Q_N2D, kv=keys, proportional=True)
    assert read_merging("plus") == [first] * 2 + [StageMerging(q=Q_FAST)] * 2


def test_every_key_is_read() -> None:
    stage = dict(
        r_q=0.5,
        q_mode="bsm",
        q_stride=(3, 2),
        r_kv=0.25,
        kv_mode="bsm",
        kv_stride=[1, 4],
        proportional=True,
    )
    expected = StageMerging(BipartiteMatcher(0.5, (3, 2)), BipartiteMatcher(0.25, (1, 4)), True)
    assert read_merging(stages(**stage))[0] == expected


def test_a_rate_alone_means_matching() -> None:
    read = read_merging(stages(r_q=0.5, r_kv=0.9, kv_stride=4))[0]
    assert read == StageMerging(BipartiteMatcher(0.5, (2, 2)), BipartiteMatcher(0.9, (4, 4)))


def test_modes_on_both_sides() -> None:
    read = read_merging(stages(q_mode="n1d", q_stride=3, kv_mode="n2d", kv_stride=(2, 1)))[0]
    assert read == StageMerging(CellPooling((1, 3), along_sequence=True), CellPooling((2, 1)))


@pytest.mark.parametrize("nothing", [{}, dict(q_mode=None), dict(r_q=0.0, r_kv=0)])
def test_nothing_to_merge(nothing: dict[str, Any]) -> None:
    assert read_merging(stages(**nothing)) == [StageMerging()] * 4


def test_options_beyond_the_paper() -> None:
    stage = dict(r_q=0.9, q_stride=4, r_kv=0.5, destination="centre", match="local", reuse=3)
    read = read_merging(stages(**stage))[0]
    assert read.q == BipartiteMatcher(0.9, (4, 4), "centre", "local")
    assert read.kv == BipartiteMatcher(0.5, (2, 2), "centre", "local")
    assert read.reuse == 3
    mixed = dict(q_mode="n2d", unmerge="bilinear", r_kv=0.5, match="local", proportional=True)
    read = read_merging(stages(**mixed))[0]
    assert read.q == CellPooling((2, 2), unmerge="bilinear")
    assert read.kv == BipartiteMatcher(0.5, (2, 2), match="local")
    assert read.proportional
    assert read_merging(stages(**stage), proportional=True)[0].reuse == 3


def test_options_are_off_where_absent_and_may_be_named() -> None:
    off = dict(destination="corner", match="global", unmerge="copy", reuse=1)
    for stage in ({}, dict(r_q=0.5), dict(q_mode="n2d")):
        assert read_merging(stages(**stage, **off)) == read_merging(stages(**stage))


def test_one_switch_for_all_stages() -> None:
    on = [stage.proportional for stage in read_merging("hq", proportional=True)]
    assert on == [True, True, False, False]
    own = stages(r_kv=0.5, proportional=True)
    assert read_merging(own)[0].proportional
    assert not read_merging(own, proportional=False)[0].proportional


@pytest.mark.parametrize(
    ("merging", "error", "message"),
    [
        # which preset, which are allowed
        ("quick", ValueError, "'quick'.*'none', 'hq', 'fast', 'n2d', 'plus'"),
        ("HQ", ValueError, "'HQ'.*'hq'"),
        (None, TypeError, "merging.*None"),
        (3, TypeError, "merging.*3"),
        (dict(r_q=0.5), TypeError, "merging.*r_q"),
        # how many stages
        ([{}, {}, {}], ValueError, "merging.*four.*3"),
        ([{}] * 5, ValueError, "merging.*four.*5"),
        ([{}, {}, "hq", {}], TypeError, "stage 3.*'hq'"),
        # which key, which are allowed
        ([{}, dict(rate=0.5), {}, {}], ValueError, "stage 2.*'rate'.*r_q.*r_kv.*q_mode.*kv_stride"),
        # modes
        (stages(q_mode="bms", r_q=0.5), ValueError, "stage 1.*q_mode='bms'.*'bsm', 'n1d', 'n2d'"),
        (stages(kv_mode="bsm_fast", r_kv=0.5), ValueError, "kv_mode='bsm_fast'.*'bsm'"),
        (stages(q_mode=2, r_q=0.5), (TypeError, ValueError), "q_mode=2.*'bsm'"),
        # rates
        (stages(r_q=0.8), ValueError, r"stage 1.*r_q=0\.8.*\(2, 2\).*0\.75"),
        (stages(r_kv=0.95, kv_stride=4), ValueError, r"r_kv=0\.95.*\(4, 4\).*0\.9375"),
        (stages(r_q=-0.1), ValueError, r"r_q=-0\.1.*0"),
        (stages(r_q=1), ValueError, "r_q=1.*0"),
        (stages(r_q="0.5"), TypeError, r"r_q.*'0\.5'"),
        (stages(r_q=True), TypeError, "r_q.*True"),
        (stages(r_kv=[0.5]), TypeError, r"r_kv.*\[0\.5\]"),
        (stages(r_q=float("nan")), ValueError, "r_q=nan"),
        # strides
        (stages(r_q=0.5, q_stride=0), ValueError, "q_stride.*0"),
        (stages(r_q=0.5, q_stride=False), (TypeError, ValueError), "q_stride.*False"),
        (stages(r_q=0.5, q_stride=()), (TypeError, ValueError), r"q_stride.*\(\)"),
        (stages(r_q=0.5, q_stride=(2, -2)), ValueError, r"q_stride.*\(2, -2\)"),
        (stages(r_kv=0.5, kv_stride=2.0), TypeError, r"kv_stride.*2\.0"),
        (stages(r_kv=0.5, kv_stride=(2, 2, 2)), TypeError, r"kv_stride.*\(2, 2, 2\)"),
        (stages(r_kv=0.5, kv_stride="2"), TypeError, "kv_stride.*'2'"),
        (stages(q_mode="n2d", q_stride=0), ValueError, "q_stride.*0"),
        (stages(q_mode="n2d", q_stride=1), ValueError, "q_stride.*1"),
        (stages(q_mode="n1d", q_stride=1), ValueError, "q_stride.*1"),
        (stages(q_mode="n1d", q_stride=2.5), TypeError, r"q_stride.*2\.5"),
        (stages(q_mode="n1d", q_stride=True), TypeError, "q_stride.*True"),
        (stages(q_mode="n1d", q_stride=(2, 2)), ValueError, r"q_stride.*\(2, 2\).*\(1, k\)"),
        (stages(q_mode="n1d", q_stride=[[], 2]), (TypeError, ValueError), r"q_stride.*\[\[\], 2\]"),
        # settings that would do nothing
        (stages(q_mode="bsm"), ValueError, "q_mode='bsm'.*r_q"),
        (stages(q_mode="n2d", r_q=0.5), ValueError, r"r_q=0\.5.*q_mode='n2d'"),
        (stages(q_mode=None, r_q=0.5), ValueError, r"r_q=0\.5.*q_mode"),
        (stages(q_stride=2), ValueError, "q_stride=2.*q_mode"),
        (stages(proportional=True), ValueError, "proportional=True.*r_kv"),
        (stages(proportional=True, r_q=0.5), ValueError, "proportional=True.*r_kv"),
        (stages(r_kv=0.5, proportional=1), TypeError, "proportional.*1"),
        # options beyond the paper
        (stages(r_q=0.5, match="near"), ValueError, "stage 1.*match='near'.*'global', 'local'"),
        (stages(r_q=0.5, destination=None), ValueError, "stage 1.*destination=None.*'centre'"),
        (stages(q_mode="n2d", unmerge=["copy"]), ValueError, r"unmerge=\['copy'\].*'bilinear'"),
        (stages(r_q=0.5, reuse=0), ValueError, "stage 1.*reuse=0"),
        (stages(r_q=0.5, reuse=2.0), TypeError, r"stage 1.*reuse.*2\.0"),
        (stages(r_q=0.5, reuse=True), TypeError, "reuse.*True"),
        (stages(match="local"), ValueError, "stage 1.*match='local'.*r_q or r_kv"),
        (stages(q_mode="n2d", destination="centre"), ValueError, "destination='centre'.*r_q"),
        (stages(q_mode="n2d", reuse=2), ValueError, "reuse=2.*r_q or r_kv"),
        (stages(unmerge="bilinear"), ValueError, "unmerge='bilinear'.*q_mode='n2d'"),
        (stages(r_q=0.5, unmerge="bilinear"), ValueError, "unmerge='bilinear'.*q_mode='n2d'"),
        (stages(kv_mode="n2d", unmerge="bilinear"), ValueError, "unmerge.*q_mode='n2d'"),
        (stages(q_mode="n1d", unmerge="bilinear"), ValueError, "unmerge.*q_mode='n2d'"),
    ],
)
def test_wrong_settings_are_one_sentence(merging: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read_merging(merging)
    assert "\n" not in str(caught.value)


def test_wrong_switch() -> None:
    with pytest.raises(TypeError, match=r"proportional.*'yes'"):
        read_merging("hq", proportional="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="proportional=True"):
        read_merging("none", proportional=True)


@pytest.mark.parametrize("hw", [(8, 8), (7, 9), (3, 3), (1, 5), (1, 1), (2, 11)])
@pytest.mark.parametrize(
    "matcher",
    [KV_HQ, Q_HQ, Q_N2D, CellPooling((1, 3), along_sequence=True), BipartiteMatcher(0.5, (3, 2))],
    ids=lambda m: f"{m.mode}-{m.stride}",
)
def test_counts_are_those_of_the_assignment(matcher: Matcher, hw: tuple[int, int]) -> None:
    x = torch.randn(1, hw[0] * hw[1], 4)
    assert matcher.num_groups(hw) == matcher.assign(x, hw).num_groups


def test_n1d_runs_along_the_raster_sequence() -> None:
    """Runs of three cross the row's end on a grid of 2x4; n2d's cells do not."""
    x = torch.randn(1, 8, 2)
    run = CellPooling((1, 3), along_sequence=True).assign(x, (2, 4))
    assert run.groups.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2]]
    cells = CellPooling((1, 3)).assign(x, (2, 4))
    assert cells.groups.tolist() == neighbour_pooling((2, 4), kernel=(1, 3)).groups.tolist()
