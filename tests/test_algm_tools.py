"""The tools that calibrate, search and analyse ALGM, on a tiny plain ViT."""

from __future__ import annotations

import csv
import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.image
import pytest
import torch
from algm_tools_helpers import (
    CLAP_AND_GBM,
    ROOT,
    TOME,
    similarity_by_class,
    unmerged_cosines,
    write_tiny,
    write_weights,
)
from engine_helpers import run_tool, weights_of, write_config

Outcome = tuple[int, str, str]
Tool = Callable[..., Outcome]


class Tiny(NamedTuple):
    """A config with automatic thresholds and weights that were never calibrated."""

    config: Path
    weights: Path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    config = write_tiny(tmp_path_factory.mktemp("algm"))
    return Tiny(config, write_weights(config))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    """Run a tool in this process: its exit status, and what it printed on each stream."""

    def run(tool: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        printed = capsys.readouterr()
        return int(ending.value.code or 0), printed.out, printed.err

    return run


def succeed(outcome: Outcome) -> str:
    assert outcome[0] == 0, outcome[2]
    return outcome[1]


def fail(outcome: Outcome) -> str:
    status, _, errors = outcome
    assert status == 1
    return errors.strip().splitlines()[-1]


def test_calibrated_thresholds_are_mean_plus_deviation_of_all_pairs(
    tiny: Tiny, call: Tool, tmp_path: Path
) -> None:
    out = tmp_path / "calibrated.pth"
    told = succeed(call("calibrate_threshold.py", *tiny, "--out", out))
    cosines = unmerged_cosines(*tiny)
    everything = torch.cat([each for layer in cosines.values() for each in layer])
    tau = float(everything.mean() + everything.std(correction=0))
    content = torch.load(out, weights_only=True)
    before = weights_of(tiny.weights)
    taus = {f"backbone.reducers.{index}.tau" for index in range(2)}
    assert set(content["state_dict"]) == set(before) | taus
    assert all(torch.equal(content["state_dict"][key], value) for key, value in before.items())
    for key in taus:
        assert float(content["state_dict"][key]) == pytest.approx(tau, abs=1e-6)
    assert f"tau {tau:.4f} for ConditionalLocalPooling in layer 1" in told
    assert f"{float(everything.mean()):.4f}" in told and f"{len(everything):,}" in told
    meta = content["meta"]
    assert meta["dataset_meta"] == {"classes": ["a", "b", "c"]}
    assert meta["calibration"]["mu"] == pytest.approx(float(everything.mean()), abs=1e-6)
    assert meta["calibration"]["images"] == 3 and set(meta["calibration"]["layers"]) == {1, 2, 3}
    third = torch.cat(cosines[3])
    assert meta["calibration"]["layers"][3]["mu"] == pytest.approx(float(third.mean()), abs=1e-6)


def test_a_threshold_for_each_reducer(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    out = tmp_path / "calibrated.pth"
    succeed(call("calibrate_threshold.py", *tiny, "--out", out, "--per-reducer"))
    cosines = unmerged_cosines(*tiny)
    for index, layer in enumerate((1, 2)):
        values = torch.cat(cosines[layer])
        tau = float(weights_of(out)[f"backbone.reducers.{index}.tau"])
        assert tau == pytest.approx(float(values.mean() + values.std(correction=0)), abs=1e-6)


def test_weights_of_a_parallel_training(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    """Keys that begin with 'module.' are the same weights, and stay named so."""
    parallel, out = tmp_path / "parallel.pth", tmp_path / "calibrated.pth"
    torch.save(
        {f"module.{key}": value for key, value in weights_of(tiny.weights).items()}, parallel
    )
    succeed(call("calibrate_threshold.py", tiny.config, parallel, "--out", out))
    content = torch.load(out, weights_only=True)
    assert all(key.startswith("module.") for key in content["state_dict"])
    cosines = unmerged_cosines(*tiny)
    everything = torch.cat([each for layer in cosines.values() for each in layer])
    tau = float(everything.mean() + everything.std(correction=0))
    found = float(content["state_dict"]["module.backbone.reducers.1.tau"])
    assert found == pytest.approx(tau, abs=1e-6)


def test_an_interrupted_calibration_leaves_the_old_file(
    tiny: Tiny, call: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "calibrated.pth"
    out.write_bytes(b"old")

    def stop(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", stop)
    assert "Cannot write" in fail(call("calibrate_threshold.py", *tiny, "--out", out))
    assert out.read_bytes() == b"old" and list(tmp_path.iterdir()) == [out]


def test_what_cannot_be_calibrated(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    fixed = write_tiny(tiny.config.parent, CLAP_AND_GBM.format(threshold=0.9), name="fixed.py")
    mit = write_config(tmp_path)
    none = ("--cfg-options", "train_dataloader.dataset.dataset.indices=[]")
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((mit, tiny.weights), "is a MixVisionTransformer, but this needs mmtokmerge.Vision"),
        ((fixed, tiny.weights), "Nothing to calibrate: no entry of model.backbone.reducers"),
        ((*tiny, "--num-images", 0), "--num-images 0 must be at least 1."),
        ((*tiny, "--num-images", 4), "which is 3."),
        ((*tiny, *none), "The train set of"),
        ((*tiny, "--out", tiny.weights), "--out is the checkpoint itself"),
        ((*tiny, "--out", tmp_path), "--out is a folder"),
        ((tiny.config, tmp_path / "none.pth"), "There is no checkpoint at"),
        ((tmp_path / "none.py", tiny.weights), "There is no config file at"),
    ]
    for arguments, sentence in cases:
        error = fail(call("calibrate_threshold.py", *arguments))
        assert error.startswith("error: ") and sentence in error, error


def test_calibrated_weights_test_as_the_search_says(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    """Calibrate, search, resume; one process of the test tool gives the same mIoU."""
    calibrated, out = tmp_path / "calibrated.pth", tmp_path / "search"
    succeed(call("calibrate_threshold.py", *tiny, "--out", calibrated))
    words = (tiny.config, calibrated, "--out", out, "--refine", 0, "--target-speedup", 1e6)
    told = succeed(call("search_threshold.py", *words, "--taus", 1, 0.5, -1))
    assert "no merging" in told and "as configured" in told
    assert "No threshold measured is 1e+06 times as fast." in told
    rows = {row["setting"]: row for row in json.loads((out / "search.json").read_text())["table"]}
    tau = float(weights_of(calibrated)["backbone.reducers.0.tau"])
    chosen = rows[f"tau {tau:g}"]
    assert "as configured" in chosen["note"]
    tested = run_tool("test.py", tiny.config, calibrated, "--work-dir", tmp_path / "work")
    assert tested.status == 0, tested.output
    assert f"mIoU: {chosen['miou']:.4f}" in tested.output
    check_ends(rows)
    with (out / "search.csv").open() as file:
        assert [line["setting"] for line in csv.DictReader(file)] == list(rows)
    assert (out / "table.md").read_text().count("\n| tau ") == 4
    assert matplotlib.image.imread(out / "front.png").ndim == 3
    check_resumes(call, words, out)


def check_ends(rows: dict[str, dict[str, Any]]) -> None:
    """Tau 1 is the baseline, tau -1 merges every window and leaves few tokens, between is more."""
    none, first, last = rows["no merging"], rows["tau 1"], rows["tau -1"]
    clap, gbm = "tokens_percent_after CLAP (1)", "tokens_percent_after GBM (2)"
    assert none["relative_throughput"] == 1 and none[clap] == none[gbm] == 100
    assert first["miou"] == none["miou"] and first[clap] == first[gbm] == 100
    # 36 x 44 pixels are 5 x 6 patches of 8: six full windows become six tokens, six stand outside
    assert last[clap] == 40
    assert last[gbm] == 20
    assert first["gflops"] >= none["gflops"] > last["gflops"]
    assert rows["tau 0.5"][gbm] <= rows["tau 1"][gbm]


def check_resumes(call: Tool, words: tuple[object, ...], out: Path) -> None:
    """Another call measures only what is new; other images start anew and keep the old file."""
    before = json.loads((out / "search.json").read_text())
    succeed(call("search_threshold.py", *words, "--taus", 1, 0.25))
    after = json.loads((out / "search.json").read_text())
    assert len(after["records"]) == len(before["records"]) + 1
    assert all(after["records"][key] == value for key, value in before["records"].items())
    told = succeed(call("search_threshold.py", *words, "--taus", 1, "--num-images", 2))
    assert "Measured anew" in told and "images" in told
    assert json.loads((out / "search.old.json").read_text())["records"] == after["records"]


def test_fewer_pixels_for_speed_and_another_baseline(
    tiny: Tiny, call: Tool, tmp_path: Path
) -> None:
    other = write_weights(tiny.config, seed=1, name="other.pth")
    plain, compared = tmp_path / "a", tmp_path / "b"
    words = ("--taus", 1, "--refine", 0, "--shape", 16, 24)
    succeed(call("search_threshold.py", *tiny, "--out", plain, *words))
    told = succeed(
        call(
            "search_threshold.py", *tiny, "--out", compared, *words, "--repeats", 2,
            "--baseline-checkpoint", other, "--overlay", f"same weights={plain / 'search.json'}",
        )
    )  # fmt: skip
    tables = [json.loads((each / "search.json").read_text())["table"] for each in (plain, compared)]
    assert tables[0][1]["miou"] == tables[1][1]["miou"]
    assert tables[0][0]["miou"] != tables[1][0]["miou"]
    record = json.loads((compared / "search.json").read_text())["records"]['{"threshold": 1.0}']
    assert record["tokens"]["patches"] == 6
    records = json.loads((compared / "search.json").read_text())["records"]
    assert records['{"reduction": "none"}']["flops"] == flops_by_hand(6)
    assert "speed at 16 x 24" in told


def flops_by_hand(patches: int) -> int:
    """Of the tiny network without merging: 16 channels, 3 layers, patches of 8, 3 classes."""
    tokens = patches + 1
    embedding = patches * 16 * 3 * 8 * 8
    attention = 4 * tokens * 16 * 16 + 2 * tokens * tokens * 16
    mlp = 2 * tokens * 16 * 64
    head = patches * 8 * 16 * 3 * 3 + patches * 3 * 8
    return 2 * (embedding + 3 * (attention + mlp) + head)


def test_slide_inference_is_counted_by_window(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    slide = 'dict(mode="slide", crop_size=(32, 32), stride=(16, 16))'
    config = write_tiny(tiny.config.parent, test_cfg=slide, name="slide.py")
    words = ("--taus", 1, "--refine", 0, "--num-images", 1, "--out", tmp_path)
    succeed(call("search_threshold.py", config, tiny.weights, *words))
    record = json.loads((tmp_path / "search.json").read_text())["records"]['{"threshold": 1.0}']
    assert record["tokens"]["patches"] == 16
    assert len(record["milliseconds"]) == 4  # 36 x 44 pixels: two rows and two columns


def test_numbers_of_tome(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    config = write_tiny(tiny.config.parent, TOME, name="tome.py")
    words = ("--num-merged", 1, 4, "--out", tmp_path)
    told = succeed(call("search_threshold.py", config, tiny.weights, *words))
    rows = {
        row["setting"]: row for row in json.loads((tmp_path / "search.json").read_text())["table"]
    }
    key = "tokens_percent_after ToMe (2)"
    found = {name: row[key] * 30 / 100 for name, row in rows.items()}
    assert {name: round(tokens) for name, tokens in found.items()} == {
        "no merging": 30,
        "4 merged a layer": 22,
        "2 merged a layer": 26,
        "1 merged a layer": 28,
    }
    assert "as configured" in told


def test_what_cannot_be_searched(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    tome = write_tiny(tiny.config.parent, TOME, name="tome.py")
    plain = write_tiny(tiny.config.parent, "", name="plain.py")
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((tome, tiny.weights), "has threshold (there are: ToMe); --num-merged searches ToMe."),
        ((*tiny, "--num-merged", 4), "has num_merged (there are: ConditionalLocalPooling, Glob"),
        ((plain, tiny.weights), "has threshold (there are: none)"),
        ((*tiny, "--num-merged", 4, "--taus", 0.5), "it goes without --taus, --steps"),
        ((*tiny, "--num-merged", 0), "--num-merged 0 must be at least 1."),
        ((*tiny, "--taus", 0.5, "--steps", 3), "Give --taus or --steps, not both."),
        ((*tiny, "--taus", 1.5), "tau 1.5 is no threshold for a cosine: take -1 to 1."),
        ((*tiny, "--steps", 0), "--steps 0 must be at least 1."),
        ((*tiny, "--repeats", 0), "--repeats 0 must be at least 1"),
        ((*tiny, "--target-speedup", 0), "--target-speedup takes numbers above 0"),
        ((*tiny, "--overlay", "a.json"), "--overlay 'a.json' must be NAME=JSON"),
        ((*tiny, "--shape", 0, 8), "--shape 0 8 must be at least 1 x 1."),
        ((tiny.config, tmp_path / "none.pth"), "There is no checkpoint at"),
    ]
    for arguments, sentence in cases:
        error = fail(call("search_threshold.py", *arguments, "--out", tmp_path / "out"))
        assert error.startswith("error: ") and sentence in error, error
    assert not (tmp_path / "out").exists()


def test_similarity_by_class(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    words = ("--windows", 2, 4, 9, "--out", tmp_path)
    told = succeed(call("analyze_similarity.py", *tiny, *words))
    found = json.loads((tmp_path / "similarity.json").read_text())
    windows, layers = found["windows_in_layer_1"], found["image_by_layer"]
    assert list(windows) == ["2", "4", "9"] and list(layers) == ["1", "2", "3"]
    for size in (2, 4):
        expected = similarity_by_class(*tiny, layer=1, window=size)
        assert windows[str(size)]["intra"] == pytest.approx(expected["intra"], abs=1e-5)
        assert windows[str(size)]["inter"] == pytest.approx(expected["inter"], abs=1e-5)
        assert windows[str(size)]["intra_pairs"] == expected["intra_pairs"]
    for layer in (1, 3):
        expected = similarity_by_class(*tiny, layer=layer, window=None)
        assert layers[str(layer)]["intra"] == pytest.approx(expected["intra"], abs=1e-5)
        assert layers[str(layer)]["inter_pairs"] == expected["inter_pairs"]
    assert windows["9"] == {"intra": None, "inter": None, "intra_pairs": 0, "inter_pairs": 0}
    assert "windows 9 x 9, layer 1" in told
    succeed(call("analyze_similarity.py", *tiny, *words, "--majority", "--split", "test"))
    other = json.loads((tmp_path / "similarity.json").read_text())
    assert found["images"] == 3 and other["images"] == 4
    assert (tmp_path / "similarity.md").read_text().count("\n| ") == 8
    assert matplotlib.image.imread(tmp_path / "similarity.png").ndim == 3


def test_what_cannot_be_compared(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    error = fail(call("analyze_similarity.py", *tiny, "--windows", 1, "--out", tmp_path))
    assert error == "error: --windows 1 has no pairs of tokens: take at least 2."
    bare = tiny.config.with_name("bare.py")
    pipeline = 'dict(pipeline=[dict(type="LoadImageFromFile"), dict(type="PackSegInputs")])'
    bare.write_text(f'_base_ = ["{tiny.config}"]\ntest_dataloader = dict(dataset={pipeline})\n')
    error = fail(call("analyze_similarity.py", bare, tiny.weights, "--out", tmp_path))
    assert error == "error: The config's test pipeline loads no labels, which classes come from."
