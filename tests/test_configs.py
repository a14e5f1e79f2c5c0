"""Every config builds, all in one fresh interpreter, and says what its name promises."""

from __future__ import annotations

import ast
import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmseg", reason="needs MMSegmentation")

REPO = Path(__file__).resolve().parents[1]
CONFIGS = REPO / "configs"
FILES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.py"))
WHOLE = [name for name in FILES if not name.startswith("_base_/")]
PRESETS = ("none", "hq", "fast", "n2d", "plus", "downsample")
SETS = {"cityscapes": 19, "ade20k": 150, "camvid": 11, "demo": 19}
NAMES = [
    f"segformerpp/b{size}_{data}_{preset}.py"
    for data in SETS
    for size in (range(6) if data in ("cityscapes", "ade20k") else [0])
    for preset in PRESETS
]
# Millions of parameters of the published SegFormer encoders with mmseg's head of 256 channels.
LEAST_PARAMETERS = {0: 3.5, 1: 13, 2: 24, 3: 44, 4: 61, 5: 81}


@pytest.fixture(scope="session")
def built() -> dict[str, Any]:
    script = REPO / "tests" / "reference" / "build_configs.py"
    command = [sys.executable, "-W", "ignore", str(script), str(CONFIGS)]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    run = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.strip().splitlines()[-1])


def facts_of(name: str, built: dict[str, Any]) -> dict[str, Any]:
    """What a config built, or the reason why it did not."""
    facts = built[name]
    assert "error" not in facts, facts["error"]
    if "skipped" in facts:
        pytest.skip(facts["skipped"])
    return facts


def assignments(name: str, variable: str) -> list[ast.expr]:
    """The values that a config file gives to a variable at its top level."""
    tree = ast.parse((CONFIGS / name).read_text())
    return [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == variable
    ]


@pytest.mark.parametrize("name", NAMES)
def test_promised_config_exists(name: str) -> None:
    assert (CONFIGS / name).is_file()


@pytest.mark.parametrize("name", WHOLE)
def test_config_builds(name: str, built: dict[str, Any]) -> None:
    facts = facts_of(name, built)
    assert facts["meta"] and facts["parameters"] > 0
    assert facts["imports"] == ["mmtokmerge"]
    outputs = facts["outputs"]
    assert outputs["train"] == outputs["val"] == outputs["test"]
    model = facts["model"]
    if facts["scope"] == "mmpose":
        assert model["head"]["out_channels"] == outputs["train"]
    elif "decode_head" in model:
        assert model["decode_head"]["num_classes"] == outputs["train"]
    else:  # scores superpatches, whatever the classes
        assert model["type"] == "mmtokmerge.PolicyNetwork"


@pytest.mark.parametrize("name", NAMES)
def test_config_is_what_its_name_says(name: str, built: dict[str, Any]) -> None:
    size, data, preset = Path(name).stem.split("_")
    facts = facts_of(name, built)
    model = facts["model"]
    backbone = model["backbone"]
    assert facts["scope"] == "mmseg"
    assert (backbone["type"], backbone["arch"]) == ("mmtokmerge.MiTPlusPlus", size)
    assert backbone["merging"] == ("none" if preset == "downsample" else preset)
    assert backbone.get("downsample", 1) == (2 if preset == "downsample" else 1)
    assert backbone.get("downsample_mode", "bilinear") == "bilinear"
    assert model["decode_head"]["type"] == "mmtokmerge.SegformerHead"
    assert model["decode_head"]["num_classes"] == facts["outputs"]["train"] == SETS[data]
    assert facts["parameters"] > LEAST_PARAMETERS[int(size[1])] * 1e6


@pytest.mark.parametrize("name", NAMES)
def test_presets_differ_in_the_backbone_alone(name: str, built: dict[str, Any]) -> None:
    plain = facts_of("_".join([*name.split("_")[:-1], "none.py"]), built)
    facts = copy.deepcopy(facts_of(name, built))
    for key in ("merging", "downsample"):
        facts["model"]["backbone"].pop(key, None)
    expected = copy.deepcopy(plain)
    expected["model"]["backbone"].pop("merging")
    assert facts == expected


@pytest.mark.parametrize("name", [n for n in NAMES if "cityscapes" in n or "ade20k" in n])
def test_published_schedule(name: str, built: dict[str, Any]) -> None:
    facts = facts_of(name, built)
    city = "cityscapes" in name
    side, batch = (1024, 4) if city else (640, 8)
    model = facts["model"]
    assert list(model["data_preprocessor"]["size"]) == [side, side]
    assert facts["batch"] == batch
    test = model["test_cfg"]
    if city:
        assert test["mode"] == "slide"
        assert [*test["crop_size"], *test["stride"]] == [1024, 1024, 768, 768]
    else:
        assert test["mode"] == "whole"
    optimizer = facts["optimizer"]["optimizer"]
    assert (optimizer["type"], optimizer["lr"], optimizer["weight_decay"]) == ("AdamW", 6e-5, 0.01)
    custom = facts["optimizer"]["paramwise_cfg"]["custom_keys"]
    assert custom["head"]["lr_mult"] == 10.0
    assert custom["norm"]["decay_mult"] == 0.0
    warm_up, poly = facts["schedule"]
    assert (warm_up["type"], warm_up["start_factor"], warm_up["end"]) == ("LinearLR", 1e-6, 1500)
    assert (poly["type"], poly["power"], poly["begin"], poly["end"]) == (
        "PolyLR",
        1.0,
        1500,
        160000,
    )
    assert facts["train"]["max_iters"] == 160000


@pytest.mark.parametrize("name", WHOLE)
def test_the_size_of_the_inputs_is_set(name: str, built: dict[str, Any]) -> None:
    facts = facts_of(name, built)
    if facts["scope"] == "mmseg":
        size = facts["model"]["data_preprocessor"]["size"]
    else:
        size = facts["model"]["head"]["decoder"]["input_size"]
    assert len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)


def test_custom_imports_stand_once() -> None:
    holders = [name for name in FILES if assignments(name, "custom_imports")]
    assert len(holders) == 1 and holders[0].startswith("_base_/")


@pytest.mark.parametrize("name", FILES)
def test_bases_are_relative_paths(name: str) -> None:
    for value in assignments(name, "_base_"):
        bases = ast.literal_eval(value)
        for base in [bases] if isinstance(bases, str) else bases:
            assert base.startswith(("./", "../")) and "::" not in base
            assert ((CONFIGS / name).parent / base).resolve().is_file()
