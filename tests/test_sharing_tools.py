"""``tools/analyze_sharing.py`` on a tiny plain ViT whose tokens are shared."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.image
import mmcv
import numpy as np
import pytest
import torch
from algm_tools_helpers import ROOT, write_tiny, write_weights
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmtokmerge.engine.launch import import_scope

NETWORK = """
policy = dict(
    type="mmtokmerge.NetworkPolicy",
    network=dict(
        type="mmtokmerge.PolicyNetwork", in_channels=16, cell=16,
        backbone=dict(
            type="mmtokmerge.VisionTransformer", img_size=(32, 32), patch_size=16,
            arch=dict(embed_dims=16, num_layers=1, num_heads=2)),
        data_preprocessor=dict(
            type="mmseg.SegDataPreProcessor", mean=[100.0] * 3, std=[50.0] * 3,
            bgr_to_rgb=False)))
"""
ORACLE = 'policy = dict(type="mmtokmerge.OraclePolicy")\n'
SHARING = """
_base_ = ["tiny.py"]
{policy}
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),
    backbone=dict(sharing=dict(policy=policy, {setting})))
"""
HW = (8, 8)  # images of 36 x 44 are padded to 64 x 64, in patches of 8
Outcome = tuple[int, str, str]
Tool = Callable[..., Outcome]


class Tiny(NamedTuple):
    """Configs of one network that shares more or less, its weights, and those of a policy."""

    none: Path
    few: Path
    many: Path
    oracle: Path
    weights: Path
    policy: Path


def write_sharing(folder: Path, name: str, setting: str, policy: str = NETWORK) -> Path:
    path = folder / name
    path.write_text(SHARING.format(policy=policy, setting=setting))
    return path


def build(config: Path, weights: Path, policy: Path | None = None) -> Any:
    """The model without the tools."""
    from mmseg.registry import MODELS

    import_scope("mmseg")
    init_default_scope("mmseg")
    cfg = Config.fromfile(config)
    if policy is not None:
        cfg.model.backbone.sharing.policy.checkpoint = str(policy)
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load(weights, weights_only=True)["state_dict"])
    return model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("sharing")
    base = write_tiny(folder, "")
    weights = write_weights(base)
    none = folder / "none.py"
    divisor = "data_preprocessor=dict(test_cfg=dict(size_divisor=32))"
    none.write_text(f'_base_ = ["tiny.py"]\nmodel = dict({divisor})\n')
    few = write_sharing(folder, "few.py", "num_shared=3")
    torch.manual_seed(5)
    network = build_policy(few)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    torch.save({"state_dict": network.state_dict()}, folder / "policy.pth")
    return Tiny(
        none,
        few,
        write_sharing(folder, "many.py", "num_shared=0.5"),
        write_sharing(folder, "oracle.py", "num_shared=3", ORACLE),
        weights,
        folder / "policy.pth",
    )


def build_policy(config: Path) -> Any:
    from mmseg.registry import MODELS

    return MODELS.build(Config.fromfile(config).model.backbone.sharing.policy.network).eval()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    """Run the tool in this process: its exit status, and what it printed on each stream."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["analyze_sharing.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            runpy.run_path(str(ROOT / "tools" / "analyze_sharing.py"), run_name="__main__")
        printed = capsys.readouterr()
        return int(ending.value.code or 0), printed.out, printed.err

    return run


def succeed(outcome: Outcome) -> str:
    assert outcome[0] == 0, outcome[2]
    return outcome[1]


def fail(outcome: Outcome) -> str:
    status, _, errors = outcome
    assert status == 1, errors
    return errors.strip().splitlines()[-1]


def files(config: Path, split: str) -> list[tuple[torch.Tensor, np.ndarray]]:
    """Pixels ``(1, 3, H, W)`` in RGB and labels ``(H, W)`` of a set's files."""
    found = []
    for path in sorted((config.parent / "images" / split).iterdir()):
        pixels = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)[None]
        label = np.asarray(Image.open(config.parent / "labels" / split / path.name))
        found.append((pixels.float(), label))
    return found


def padded(pixels: torch.Tensor, value: float = 0.0) -> torch.Tensor:
    """``(1, 3, H, W)`` with sides rounded up to 32."""
    short = [-side % 32 for side in pixels.shape[2:]]
    return torch.nn.functional.pad(pixels, (0, short[1], 0, short[0]), value=value)


def predict(model: Any, pixels: torch.Tensor) -> np.ndarray:
    """The classes ``(36, 44)`` of one image, resized or not, as the tiny config's test feeds it."""
    inputs = padded((pixels - 127.5) / 127.5)
    with torch.no_grad():
        logits = model.encode_decode(inputs, [dict(img_shape=inputs.shape[2:])])
    logits = logits[:, :, : pixels.shape[2], : pixels.shape[3]]
    return torch.nn.functional.interpolate(logits, (36, 44), mode="bilinear")[0].argmax(0).numpy()


def vote(guess: np.ndarray, scores: torch.Tensor, number: int, side: int) -> np.ndarray:
    """One class for each of the ``number`` cells of ``side`` pixels with the highest scores."""
    voted = guess.copy()
    for place in scores.flatten().topk(number).indices.tolist():
        top, left = side * (place // scores.shape[1]), side * (place % scores.shape[1])
        cell = voted[top : top + side, left : left + side]  # a view
        if cell.size:
            cell[:] = np.bincount(cell.flatten()).argmax()
    return voted


def miou(predictions: list[np.ndarray], labels: list[np.ndarray]) -> float:
    """By hand, in percent."""
    hits, union = np.zeros(3), np.zeros(3)
    for guess, label in zip(predictions, labels):
        for kind in range(3):
            mine, yours = label == kind, (guess == kind) & (label != 255)
            hits[kind] += (mine & yours).sum()
            union[kind] += (mine | yours).sum()
    return float(100 * (hits / union).mean())


def scores_of(tiny: Tiny, pixels: torch.Tensor) -> torch.Tensor:
    """The policy's scores in its own normalisation, which takes BGR; padding is grey."""
    network = build_policy(tiny.few)
    network.load_state_dict(torch.load(tiny.policy, weights_only=True)["state_dict"])
    with torch.no_grad():
        return network.scores((padded(pixels, 127.5).flip(1) - 100) / 50)[0]


def test_statistics(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    words = ("statistics", tiny.few, "--patch-size", 4, "--out", tmp_path)
    told = succeed(call(*words, "--bins", 5))
    found = json.loads((tmp_path / "statistics.json").read_text())
    expected = []
    for _, label in files(tiny.few, "train"):  # 40 x 48: 5 x 6 superpatches of 8 pixels
        cells = label.reshape(5, 8, 6, 8).swapaxes(1, 2).reshape(30, 64)
        expected.append(100 * sum(len(set(cell.tolist())) == 1 for cell in cells) / 30)
    assert found["percent_by_image"] == pytest.approx(expected)
    assert found["percent"]["mean"] == pytest.approx(np.mean(expected))
    assert [part["images"] for part in found["histogram"]] == np.histogram(expected, 5, (0, 100))[
        0
    ].tolist()
    with (tmp_path / "statistics.csv").open() as file:
        assert [float(row["percent"]) for row in csv.DictReader(file)] == pytest.approx(expected)
    assert "images from 80% to 100%" in told
    assert matplotlib.image.imread(tmp_path / "statistics.png").ndim == 3
    before = tmp_path / "before.json"
    (tmp_path / "statistics.json").rename(before)
    shape = ("--shape", 80, 96, "--crop", 32, 96, "--split", "test", "--border", "ignore")
    succeed(call(*words, *shape, "--overlay", f"train={before}", "--num-images", 2))
    other = json.loads((tmp_path / "statistics.json").read_text())
    assert other["images"] == 2 and other["crop"] == [32, 96]
    with (tmp_path / "statistics.csv").open() as file:
        assert {row["superpatches"] for row in csv.DictReader(file)} == {str(4 * 12)}


def test_statistics_of_a_policy_networks_config_look_at_pixels(
    tiny: Tiny, call: Tool, tmp_path: Path
) -> None:
    config = tiny.few.with_name("targets.py")
    step = 'dict(type="mmtokmerge.GenerateSharingTargets", patch_size=8)'
    config.write_text(
        '_base_ = ["tiny.py"]\n'
        "test_pipeline = [*_base_.test_pipeline[:-1], " + step + ", _base_.test_pipeline[-1]]\n"
        "test_dataloader = dict(dataset=dict(pipeline=test_pipeline))\n"
    )
    for name, path in (("a", config), ("b", tiny.few)):
        succeed(call("statistics", path, "--patch-size", 4, "--out", tmp_path / name))
    first, second = ((tmp_path / name / "statistics.json").read_text() for name in "ab")
    assert first == second


def test_consistency(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    """Superpatches by the policy's highest scores, votes by loops, mIoU by hand."""
    words = ("consistency", tiny.many, tiny.weights, "--policy", tiny.policy, "--out", tmp_path)
    told = succeed(call(*words, "--model", tiny.few, tiny.weights))
    rows = json.loads((tmp_path / "consistency.json").read_text())["table"]
    images = files(tiny.many, "val")
    labels = [label for _, label in images]
    for row, config, number in zip(rows, (tiny.many, tiny.few), (8, 3)):
        model = build(config, tiny.weights, tiny.policy)
        before = [predict(model, pixels) for pixels, _ in images]
        after = [
            vote(guess, scores_of(tiny, pixels), number, 16)
            for guess, (pixels, _) in zip(before, images)
        ]
        changed = sum(int((a != b).sum()) for a, b in zip(after, before))
        assert changed > 0
        assert row["default"] == pytest.approx(miou(before, labels), abs=0.006)
        assert row["one_class"] == pytest.approx(miou(after, labels), abs=0.006)
        assert row["difference"] == pytest.approx(row["one_class"] - row["default"])
        assert row["changed"] == pytest.approx(100 * changed / (4 * 36 * 44))
        assert row["reduction"] == pytest.approx(100 * 3 * number / 64)
    assert "one class" in told and "many" in told
    assert (tmp_path / "consistency.csv").read_text().startswith("model,reduction,default,")


def test_consistency_of_resized_images(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    """At twice the size, a superpatch of the network is 8 pixels of the file."""
    config = tiny.few.with_name("resized.py")
    step = 'dict(type="Resize", scale=(88, 72), keep_ratio=False)'
    config.write_text(
        f'_base_ = ["{tiny.few}"]\n'
        f"test_pipeline = [_base_.test_pipeline[0], {step}, *_base_.test_pipeline[1:]]\n"
        "test_dataloader = dict(dataset=dict(pipeline=test_pipeline))\n"
        "model = dict(backbone=dict(sharing=dict(num_shared=30)))\n"
    )
    policy = ("--policy", tiny.policy)
    succeed(call("consistency", config, tiny.weights, *policy, "--out", tmp_path))
    (row,) = json.loads((tmp_path / "consistency.json").read_text())["table"]
    assert row["reduction"] == pytest.approx(100 * 90 / 144)  # 96 x 96 pixels
    model = build(config, tiny.weights, tiny.policy)
    changed = 0
    for pixels, _ in files(config, "val"):
        resized = mmcv.imresize(pixels[0].permute(1, 2, 0).numpy().astype(np.uint8), (88, 72))
        larger = torch.from_numpy(resized).permute(2, 0, 1)[None].float()
        guess = predict(model, larger)
        changed += int((vote(guess, scores_of(tiny, larger), 30, 8) != guess).sum())
    assert row["changed"] == pytest.approx(100 * changed / (4 * 36 * 44)) and changed > 0


@pytest.mark.parametrize("alone", [True, False])
def test_route(tiny: Tiny, call: Tool, tmp_path: Path, alone: bool) -> None:
    models = [tiny.many, tiny.none, tiny.few]
    images = files(tiny.few, "val")
    scores = [scores_of(tiny, pixels) for pixels, _ in images]
    # Between the images: some have more than 8 superpatches above it, some fewer.
    threshold = float(
        torch.stack([each.flatten().sort().values[-9:-7].mean() for each in scores]).median()
    )
    words = [word for config in models for word in ("--model", config, tiny.weights)]
    words += ["--policy", tiny.policy, "--threshold", threshold, "--out", tmp_path]
    told = succeed(call("route", *words, *(["--alone"] if alone else [])))
    found = json.loads((tmp_path / "route.json").read_text())
    shareable = [int((each > threshold).sum()) for each in scores]
    assert found["shareable_by_image"] == shareable
    chosen = [0 if count > 8 else 2 if count > 3 else 1 for count in shareable]
    assert len(set(chosen)) > 1
    guesses = []
    for config in models:
        policy = None if config == tiny.none else tiny.policy
        model = build(config, tiny.weights, policy)
        guesses.append([predict(model, pixels) for pixels, _ in images])
    labels = [label for _, label in images]
    rows = {row["model"]: row for row in found["table"]}
    assert list(rows) == ["none", "few", "many", "combined"]
    mixed = [guesses[model][image] for image, model in enumerate(chosen)]
    assert rows["combined"]["miou"] == pytest.approx(miou(mixed, labels), abs=0.006)
    for index, (name, number) in enumerate((("many", 8), ("none", 0), ("few", 3))):
        assert rows[name]["images"] == chosen.count(index)
        assert rows[name]["token_reduction_percent"] == pytest.approx(100 * 3 * number / 64)
        expected = pytest.approx(miou(guesses[index], labels), abs=0.006)
        assert rows[name]["miou"] == (expected if alone else None)
    assert "combined" in told


def test_tradeoff(tiny: Tiny, call: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens follow S; S = 0 is the same network unshared; what was measured is kept."""
    words = ("--policy", tiny.policy, "--num-shared", 0, 0.25, "--out", tmp_path)
    models = [("--model", config, tiny.weights) for config in (tiny.none, tiny.few, tiny.oracle)]
    told = succeed(call("tradeoff", *models[0], *models[1], *models[2], *words))
    table = json.loads((tmp_path / "tradeoff.json").read_text())["table"]
    rows = {(row["model"], row["num_shared"]): row for row in table}
    assert list(rows)[:2] == [("none", None), ("few", None)] and len(rows) == 7
    tokens = {key: row["tokens_percent_after_sharing"] for key, row in rows.items()}
    for name in ("few", "oracle"):
        assert tokens[name, None] == pytest.approx(100 * 55 / 64, abs=0.001)
        assert tokens[name, 0] == 100 and tokens[name, 0.25] == pytest.approx(100 * 52 / 64)
        assert rows[name, 0]["miou"] == rows["none", None]["miou"]
        assert rows[name, 0.25]["gflops"] < rows[name, None]["gflops"]
    # With S = 0 the policy network does not run.
    assert rows["few", 0]["gflops"] == rows["none", None]["gflops"] > rows["oracle", None]["gflops"]
    assert rows["none", None]["relative_throughput"] == 1
    labels = [label for _, label in files(tiny.few, "val")]
    model = build(tiny.few, tiny.weights, tiny.policy)
    model.backbone.sharing.num_shared = 0.25
    guesses = [predict(model, pixels) for pixels, _ in files(tiny.few, "val")]
    assert rows["few", 0.25]["miou"] == pytest.approx(miou(guesses, labels), abs=0.006)
    assert matplotlib.image.imread(tmp_path / "tradeoff.png").ndim == 3
    assert "few, S = 0.25" in told

    from mmtokmerge.analysis.sharing import run_tradeoff

    def measure(*_: Any) -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr(run_tradeoff, "measure", measure)
    succeed(call("tradeoff", *models[0], *models[1], *words))
    assert json.loads((tmp_path / "tradeoff.json").read_text())["table"] == [
        row for row in table if row["model"] != "oracle"
    ]


def test_what_cannot_be_analysed(tiny: Tiny, call: Tool, tmp_path: Path) -> None:
    slide = tiny.few.with_name("slide.py")
    windows = 'dict(mode="slide", crop_size=(32, 32), stride=(16, 16))'
    slide.write_text(f'_base_ = ["{tiny.oracle}"]\nmodel = dict(test_cfg={windows})\n')
    other = tiny.few.with_name("other.py")
    prefix = 'dict(img_path="images/train", seg_map_path="labels/train")'
    other.write_text(
        f'_base_ = ["{tiny.few}"]\ntest_dataloader = dict(dataset=dict(data_prefix={prefix}))\n'
    )
    above = write_sharing(tiny.few.parent, "above.py", "threshold=0.5")
    policy = ("--policy", tiny.policy)
    model = {name: ("--model", getattr(tiny, name), tiny.weights) for name in Tiny._fields[:4]}
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("statistics", tiny.none, "--patch-size", 0), "--patch-size 0 must be at least 1."),
        (("statistics", tiny.none, "--shape", 0, 4), "--shape 0 4 must be at least 1."),
        (("statistics", tiny.none, "--overlay", "x"), "--overlay 'x' must be NAME=JSON"),
        (("statistics", tiny.none, "--patch-size", 99), "take a smaller --patch-size"),
        (("consistency", tiny.none, tiny.weights), "has no sharing, so no pixels share a token."),
        (("consistency", slide, tiny.weights), "is 'slide', but the vote needs 'whole': windows"),
        (("consistency", tiny.few, tiny.weights), "sharing.policy.checkpoint is None: name"),
        (("consistency", tiny.oracle, tiny.weights, *policy), "does nothing: no config has"),
        (("route", *model["none"], *model["oracle"]), "route needs a --model whose"),
        (("route", *model["few"], *model["oracle"], *policy), "the same num_shared=3"),
        (("route", *model["few"], "--model", other, tiny.weights, *policy), "on the same images"),
        (
            ("route", *model["few"], "--model", above, tiny.weights, *policy),
            "above shares by sharing.threshold=0.5, so it has no setting S",
        ),
        (("tradeoff", *model["none"]), "A trade-off needs a second --model, or --num-shared."),
        (("tradeoff", *model["none"], "--num-shared", 2), "--num-shared does nothing"),
        (("tradeoff", *model["none"], "--num-shared", 1.5), "or a fraction from 0 to 1."),
        (("tradeoff", "--model", slide, tiny.weights, "--num-shared", 2), "shares by labels"),
    ]
    for arguments, sentence in cases:
        error = fail(call(*arguments, "--out", tmp_path / "out"))
        assert error.startswith("error: ") and sentence in error, error
    assert not (tmp_path / "out").exists()
