"""The search for rates: its moves, its way, its files, on a tiny MiT++ and a tiny data set."""

from __future__ import annotations

import json
import random
import runpy
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import matplotlib.image
import numpy as np
import pytest
import torch
from algm_tools_helpers import CONFIG, ROOT, write_images, write_weights
from engine_helpers import run_tool, weights_of
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmtokmerge.analysis.experiment import ResultStore
from mmtokmerge.analysis.rates import search as rate_search
from mmtokmerge.analysis.rates.model import count_tokens
from mmtokmerge.analysis.rates.report import describe
from mmtokmerge.analysis.rates.search import RateSearch, choose
from mmtokmerge.analysis.rates.space import (
    Merging,
    changes,
    merges_no_more,
    merging_config,
    presets,
)
from mmtokmerge.measure.evaluate import Measurement
from mmtokmerge.merging import PRESETS, read_merging
from mmtokmerge.models.backbones import MiTPlusPlus
from mmtokmerge.models.overrides import merging_as

LAYERS = (1, 2, 3, 1)
ARCH = dict(embed_dims=8, num_layers=LAYERS, num_heads=(1, 1, 2, 2))
BACKBONE = 'type="mmtokmerge.MiTPlusPlus", merging={merging}, arch=dict(' + (
    f"embed_dims=8, num_layers={LAYERS}, num_heads=(1, 1, 2, 2))"
)
HEAD = (
    'type="mmtokmerge.SegformerHead", in_channels=[8, 8, 16, 16], in_index=[0, 1, 2, 3], '
    'channels=8, num_classes=3, norm_cfg=dict(type="BN"), align_corners=False, '
    'loss_decode=dict(type="CrossEntropyLoss")'
)
Outcome = tuple[int, str, str]
Tool = Callable[..., Outcome]


class Tiny(NamedTuple):
    """A config and random weights."""

    config: Path
    weights: Path


def write_tiny(folder: Path, merging: str = '"hq"', name: str = "tiny.py") -> Path:
    if not (folder / "images").exists():
        write_images(folder, "train", 1, (40, 48))
        write_images(folder, "val", 4, (68, 70))
    text = CONFIG.format(root=ROOT, data=folder, reducers="", test_cfg='dict(mode="whole")')
    start, end = text.index("    backbone=dict("), text.index("    train_cfg=dict(),")
    network = f"    backbone=dict({BACKBONE.format(merging=merging)}),\n"
    config = folder / name
    config.write_text(f"{text[:start]}{network}    decode_head=dict({HEAD}),\n{text[end:]}")
    return config


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    config = write_tiny(tmp_path_factory.mktemp("rates"))
    return Tiny(config, write_weights(config))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    """Run the tool in this process: its exit status, and what it printed on each stream."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["search_rates.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            runpy.run_path(str(ROOT / "tools" / "search_rates.py"), run_name="__main__")
        printed = capsys.readouterr()
        return int(ending.value.code or 0), printed.out, printed.err

    return run


def succeed(outcome: Outcome) -> str:
    assert outcome[0] == 0, outcome[2]
    return outcome[1]


def as_merging(stages: list[dict[str, Any]]) -> Merging:
    return tuple(read_merging(stages))


def walk(steps: int, seed: int) -> list[Merging]:
    """Settings on a random way through the space from a preset."""
    rng = random.Random(seed)
    way = [rng.choice(list(presets().values()))]
    for _ in range(steps):
        way.append(rng.choice(changes(way[-1], LAYERS)))
    return way


@pytest.mark.parametrize("seed", range(6))
def test_every_change_is_valid_new_and_small(seed: int) -> None:
    for merging in walk(25, seed):
        around = changes(merging, LAYERS)
        assert len(set(around)) == len(around) and merging not in around
        for other in around:
            written = json.loads(json.dumps(merging_config(other)))
            assert as_merging(written) == other  # what a config says is what is searched
            for stage, layers in zip(other, LAYERS):
                assert stage.reuse <= layers
            if sum(a != b for a, b in zip(merging, other)) > 1:
                assert_one_thing_changed(merging, other)


def assert_one_thing_changed(before: Merging, after: Merging) -> None:
    """Several stages change in the same option, or all their rates go the same way."""
    differing = set()
    for a, b in zip(merging_config(before), merging_config(after)):
        for key in {*a, *b}:
            if a.get(key) != b.get(key):
                rise = key[:2] == "r_" and b[key] > a[key]
                differing.add((key[:2] if key[:2] == "r_" else key, rise, b.get(key)))
    keys = {(key, rise) for key, rise, _ in differing}
    assert len(keys) == 1
    assert keys.pop()[0] == "r_" or len(differing) == 1


def test_changes_of_a_preset_by_hand() -> None:
    around = changes(presets()["hq"], LAYERS)
    kv = dict(r_kv=0.6, kv_stride=2)
    q = dict(r_q=0.8, q_stride=4)
    for first in (
        dict(r_kv=0.5, kv_stride=2),
        dict(r_kv=0.7, kv_stride=2),
        dict(r_kv=0.6, kv_stride=3),
        dict(kv_mode="n2d", kv_stride=2),
        dict(kv, r_q=0.8, q_stride=4),
        dict(kv, q_mode="n2d", q_stride=2),
        dict(kv, proportional=True),
        dict(kv, destination="centre"),
        dict(kv, match="local"),
        {},
    ):
        assert as_merging([first, kv, q, q]) in around, first
    assert as_merging([kv, dict(kv, reuse=2), q, q]) in around
    assert as_merging([dict(kv, proportional=True)] * 2 + [q, q]) in around
    half = [dict(kv, r_kv=0.5)] * 2 + [dict(q, r_q=0.7)] * 2
    assert as_merging(half) in around
    # from 4 to 3 a rate of 0.9 is out of reach: one token of nine stays, and 0.8 is the next
    fast, slow = dict(r_kv=0.9, kv_stride=4), dict(r_q=0.9, q_stride=4)
    assert as_merging([dict(r_kv=0.8, kv_stride=3), fast, slow, slow]) in changes(
        presets()["fast"], LAYERS
    )
    pooled = dict(q_mode="n2d", q_stride=2)
    for first in (
        dict(pooled, r_kv=0.9, kv_stride=4),
        dict(pooled, unmerge="bilinear"),
        dict(pooled, q_stride=3),
    ):
        assert as_merging([first, pooled, pooled, pooled]) in changes(presets()["n2d"], LAYERS)


def test_a_side_that_begins_to_merge_matches_as_the_other_does() -> None:
    kv = dict(r_kv=0.6, kv_stride=2, destination="centre", match="local", proportional=True)
    around = changes(as_merging([kv, {}, {}, {}]), LAYERS)
    assert as_merging([dict(kv, r_q=0.6, q_stride=2), {}, {}, {}]) in around
    assert presets()["none"] in around  # nothing stays behind when the keys merge no more


def test_presets_are_those_of_the_settings() -> None:
    assert set(presets()) == set(PRESETS) and next(iter(presets())) == "none"
    assert describe(presets()["fast"]) == "fast"
    odd = dict(r_kv=0.6, kv_stride=(2, 4), q_mode="n2d", unmerge="bilinear", proportional=True)
    stages = [odd, dict(r_q=0.8, q_stride=4, match="local", reuse=2), {}, {}]
    assert describe(as_merging(stages)) == "q2x2 kv.6/2x4 pb | q.8/4 lu2 | - | -"


def test_which_merges_no_more() -> None:
    named = presets()
    kv, more = dict(r_kv=0.6, kv_stride=4), dict(r_kv=0.7, kv_stride=4)
    none, other = as_merging([kv, {}, {}, {}]), as_merging([more, kv, {}, {}])
    assert merges_no_more(none, other) and not merges_no_more(other, none)
    assert all(merges_no_more(named["none"], each) for each in named.values())
    assert not merges_no_more(named["hq"], named["fast"])  # other strides: not comparable
    assert not merges_no_more(named["hq"], named["n2d"])
    weighed = as_merging([dict(more, proportional=True), {}, {}, {}])
    assert not merges_no_more(none, weighed) and not merges_no_more(weighed, none)
    again = as_merging([{}, dict(kv, reuse=2), {}, {}])
    once = as_merging([{}, kv, {}, {}])
    assert merges_no_more(once, again) and not merges_no_more(again, once)


@pytest.mark.parametrize("seed", range(3))
def test_other_merging_for_a_while_is_a_network_built_so(seed: int) -> None:
    torch.manual_seed(seed)
    merging = walk(12, seed)[-1]
    image = torch.randn(1, 3, 68, 84)
    backbone = MiTPlusPlus(ARCH, "n2d").eval()
    built = MiTPlusPlus(ARCH, merging_config(merging)).eval()
    built.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        before = backbone(image)
        with merging_as(backbone, merging), count_tokens(backbone) as counts:
            found = backbone(image)
        with pytest.raises(KeyError), merging_as(backbone, merging):
            raise KeyError
        after, expected = backbone(image), built(image)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    grid, read = (17, 21), merging[0]
    assert counts["stage 1 q"] == (17 * 21 if read.q is None else read.q.num_groups(grid))
    assert counts["stage 1 kv"] == (2 * 2 if read.kv is None else read.kv.num_groups((2, 2)))


class Played:
    """A search whose measurements are a formula, counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.path = path
        self.measured: list[Merging] = []
        monkeypatch.setattr(rate_search, "measure", self.measure)
        monkeypatch.setattr(RateSearch, "_quick_speed", lambda search, merging: speed_of(merging))

    def measure(self, setting: Any, reference: Any, *_: object) -> Measurement:
        merging = as_merging(setting.values["merging"])
        self.measured.append(merging)
        miou = 50 - 8 * (speed_of(merging) - 1) ** 2 + 0.3 * merging[0].proportional
        return Measurement(
            dict(setting.values), {"mIoU": miou}, 1e9, {"stage 1 q": 1.0}, [1 / speed_of(merging)],
            [1.0],
        )  # fmt: skip

    def search(self, budget: int, seed: int = 0) -> RateSearch:
        backbone = SimpleNamespace(
            merging=list(presets()["hq"]), arch=SimpleNamespace(num_layers=LAYERS)
        )
        store = ResultStore(self.path, {"seed": seed})
        work: Any = SimpleNamespace(device="cpu", shape=None)
        model: Any = SimpleNamespace(backbone=backbone)
        search = RateSearch(
            model, work, store, lambda merging: nullcontext(lambda: None), budget, seed
        )
        search.run()
        return search


def speed_of(merging: Merging) -> float:
    """Faster by rate, slower by each side that matches; pooling is quick; proportional costs."""
    speed = 1.0
    for stage in merging:
        for side in (stage.q, stage.kv):
            if side is not None:
                speed += 0.12 if side.mode == "n2d" else 0.2 * side.rate - 0.6 / side.stride[0] ** 2
        speed -= 0.02 * stage.proportional
    return speed


def test_a_search_is_resumed_and_continued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played = Played(monkeypatch, tmp_path / "search.json")
    first = played.search(budget=10)
    assert len(first.tested) == len(presets()) + 10 == len(played.measured)
    assert list(first.tested)[: len(PRESETS)] == list(presets().values())
    again = played.search(budget=10)
    assert list(again.tested) == list(first.tested) and again.skipped == first.skipped
    assert len(played.measured) == len(first.tested)
    longer = played.search(budget=16)
    assert list(longer.tested)[: len(first.tested)] == list(first.tested)
    assert len(played.measured) == len(longer.tested) == len(presets()) + 16
    whole = Played(monkeypatch, tmp_path / "other.json").search(budget=16)
    assert list(whole.tested) == list(longer.tested)  # an interruption changes nothing
    played.path = tmp_path / "seed.json"
    assert list(played.search(budget=10, seed=1).tested) != list(first.tested)


def test_the_front_is_what_nothing_beats_and_the_slow_are_only_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = Played(monkeypatch, tmp_path / "search.json").search(budget=40)
    points = list(search.tested.values())
    front = search.front()
    for each in points:
        beaten = any(
            (o.miou, o.speed) != (each.miou, each.speed)
            and o.miou >= each.miou
            and o.speed >= each.speed
            for o in points
        )
        assert (each in front) != beaten
    assert search.skipped and not set(search.skipped) & set(search.tested)
    by_number = {each.number: each for each in points}
    for merging, reason in search.skipped.items():
        if reason == "no faster than no merging":
            assert speed_of(merging) <= 1
        else:
            other = by_number[int(reason.split("number ")[1].split(",")[0])]
            assert other.speed >= speed_of(merging)
            assert merges_no_more(other.merging, merging)
    best = choose(search, 0.1)
    assert best.miou >= search.baseline.miou - 0.1
    faster = [each for each in points if each.speed > best.speed]
    assert all(each.miou < search.baseline.miou - 0.1 for each in faster)
    assert max(each.speed for each in front) > speed_of(presets()["n2d"])  # better than it began


def test_the_tool_from_search_to_test(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    words = (*tiny, "--out", out, "--budget", 3, "--num-images", 4)
    told = succeed(call(*words, "--max-loss", 100))
    content = json.loads((out / "search.json").read_text())
    rows = {row["number"]: row for row in content["table"]}
    assert {row["setting"] for row in rows.values()} >= set(PRESETS)
    none = next(row for row in rows.values() if row["setting"] == "none")
    assert none["relative_throughput"] == 1 and none["number"] == 1
    chosen = rows[content["chosen"]]
    assert chosen["relative_throughput"] == max(r["relative_throughput"] for r in rows.values())
    assert f"Chosen, number {chosen['number']}: {chosen['setting']}" in told
    assert (out / "table.md").read_text().count("\n| ") == len(rows) + 2  # with head and rule
    assert matplotlib.image.imread(out / "front.png").ndim == 3

    number = next(row["number"] for row in rows.values() if row["setting"] == "fast")
    before = (out / "search.json").read_text()
    told = succeed(call(*words, "--choose", number, "--name", "mine"))
    after = json.loads((out / "search.json").read_text())
    assert after["records"] == json.loads(before)["records"] and after["chosen"] == number
    check_written(tiny, out / "mine.py", rows[number])
    linked = tmp_path / "linked"
    linked.symlink_to(out)
    succeed(call(*tiny, *words[2:3], linked, *words[4:], "--name", "linked"))
    assert Config.fromfile(linked / "linked.py").model.type == "EncoderDecoder"
    succeed(call(*words, "--num-images", 2, "--budget", 0))
    assert json.loads((out / "search.old.json").read_text())["records"] == after["records"]


def check_written(tiny: Tiny, path: Path, row: dict[str, Any]) -> None:
    """The config inherits, builds, gives the setting's output, and tests with its mIoU."""
    assert "_base_ = " in path.read_text() and str(tiny.config) not in path.read_text()
    cfg = Config.fromfile(path)
    assert tuple(read_merging(cfg.model.backbone.merging)) == as_merging(row["merging"])
    init_default_scope("mmseg")
    image = torch.randn(1, 3, 68, 70)
    outputs = []
    for config, merging in ((tiny.config, as_merging(row["merging"])), (path, None)):
        model = MODELS.build(Config.fromfile(config).model).eval()
        model.load_state_dict(weights_of(tiny.weights))
        backbone = model.backbone
        with torch.no_grad(), merging_as(backbone, merging or backbone.merging):
            outputs.append(model(image, None, mode="tensor"))
    assert torch.equal(*outputs)
    work_dir = path.parent / "test"
    tested = run_tool("test.py", path, tiny.weights, "--work-dir", work_dir)
    assert f"mIoU: {row['miou']:.4f}" in tested.output, tested.output


def test_miou_and_speed_are_of_the_shape(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    succeed(
        call(
            *tiny,
            "--out",
            tmp_path,
            "--budget",
            0,
            "--shape",
            40,
            100,
            "--repeats",
            2,
            "--cfg-options",
            "model.test_cfg.mode=whole",
        )
    )
    assert "mode': 'whole'}: give them again" in (tmp_path / "tiny_searched.py").read_text()
    table = json.loads((tmp_path / "search.json").read_text())["table"]
    rows = {row["setting"]: row for row in table}
    assert rows["none"]["tokens"]["stage 1 q"] == 10 * 25
    assert rows["n2d"]["tokens"]["stage 1 q"] == 5 * 13
    for name in ("none", "fast"):
        expected = miou_by_hand(tiny, name, (40, 100))
        assert rows[name]["miou"] == pytest.approx(expected, abs=0.006)  # mmseg rounds


def miou_by_hand(tiny: Tiny, merging: str, shape: tuple[int, int]) -> float:
    init_default_scope("mmseg")
    cfg = Config.fromfile(tiny.config)
    cfg.model.backbone.merging = merging
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(weights_of(tiny.weights))
    both, either = np.zeros(3), np.zeros(3)
    for path in sorted((tiny.config.parent / "images" / "val").iterdir()):
        image = cv2.imread(str(path))
        label = cv2.imread(str(tiny.config.parent / "labels" / "val" / path.name), -1)
        small = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_LINEAR)[..., ::-1].copy()
        x = (torch.from_numpy(small).permute(2, 0, 1)[None].float() - 127.5) / 127.5
        with torch.no_grad():
            logits = model.encode_decode(x, [dict(ori_shape=shape, img_shape=shape)])
        full = torch.nn.functional.interpolate(logits, label.shape, mode="bilinear")
        found, known = full[0].argmax(0).numpy(), label != 255
        for k in range(3):
            both[k] += ((found == k) & (label == k) & known).sum()
            either[k] += (((found == k) | (label == k)) & known).sum()
    return float(100 * (both / either).mean())


def test_a_config_that_weighs_all_stages(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    """The chosen setting holds although the config sets ``proportional`` for every stage."""
    config = tiny.config.with_name("weighed.py")
    config.write_text('_base_ = "./tiny.py"\nmodel = dict(backbone=dict(proportional=True))\n')
    words = (config, tiny.weights, "--out", tmp_path, "--budget", 0, "--num-images", 1)
    succeed(call(*words, "--choose", 1))
    backbone = Config.fromfile(tmp_path / "weighed_searched.py").model.backbone
    built = MiTPlusPlus(ARCH, backbone.merging, backbone.proportional)
    assert tuple(built.merging) == presets()["none"]
    rows = json.loads((tmp_path / "search.json").read_text())["table"]
    assert "kv.6/2 p | kv.6/2 p | q.8/4 | q.8/4" in [row["setting"] for row in rows]


def test_what_cannot_be_searched(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    slow = tiny.config.with_name("slow.py")
    slow.write_text('_base_ = "./tiny.py"\nmodel = dict(backbone=dict(fused_attention=False))\n')
    first = "test_dataloader.dataset.pipeline.0.type=LoadAnnotations"
    vit = ROOT / "configs" / "algm" / "segmenter_vit-t_camvid_algm.py"
    here = tiny.config.parent
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((*tiny, "--budget", -1), "--budget -1 must be at least 0."),
        ((*tiny, "--repeats", 0), "--repeats 0 must be at least 1."),
        ((*tiny, "--shape", 0, 8), "--shape 0 8 must be at least 1 x 1."),
        ((*tiny, "--max-loss", -1), "--max-loss -1 must be at least 0 points of mIoU."),
        ((*tiny, "--choose", "best"), "--choose 'best' must be 'fastest' or a number"),
        ((*tiny, "--name", "a.b"), "--name 'a.b' must be of letters"),
        ((*tiny, "--name", "tiny", "--out", here), "is the config itself"),
        ((*tiny, "--num-images", 5), "--num-images 5 is more than the val set of"),
        ((vit, tiny.weights), "is a VisionTransformer, but this needs mmtokmerge.MiTPlusPlus"),
        ((slow, tiny.weights), "fused_attention of"),
        ((*tiny, "--shape", 8, 8, "--cfg-options", first), "whose first step loads an image"),
        ((tiny.config, tmp_path / "none.pth"), "There is no checkpoint at"),
    ]
    for arguments, sentence in cases:
        chosen = arguments if "--out" in arguments else (*arguments, "--out", tmp_path / "out")
        status, _, errors = call(*chosen)
        error = errors.strip().splitlines()[-1]
        assert status == 1 and error.startswith("error: ") and sentence in error, error
    assert not (tmp_path / "out").exists()
    words = (*tiny, "--out", tmp_path, "--budget", 0, "--num-images", 1, "--choose", 99)
    status, _, errors = call(*words)
    assert status == 1 and f"--choose 99: settings 1 to {len(PRESETS)} were tested" in errors
