"""Commands and configs in README and docs: each parses, names files that are there, and trains."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from engine_helpers import ROOT, run_tool

from mmtokmerge.commands.main import TOOLS, VERBS, main, make_parser

PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]
COMMAND = re.compile(
    r"\s*(?:export )?(?:\w+=\S+ )*"
    r"(?:(?:\.venv/bin/)?mmtokmerge (?P<verb>[\w-]+)|\S*python (?P<script>\S+\.py)"
    r"|bash (?P<shell>\S+\.sh))(?P<rest>.*)"
)


def commands() -> Iterator[tuple[str, str]]:
    """Each command of a fenced block of a shell, with its page."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for language, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
            if language not in ("bash", ""):
                continue
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    if COMMAND.fullmatch(part) and "..." not in part and "for " not in part:
                        yield page.name, part.strip()


FOUND = sorted(set(commands()))


def test_there_are_commands() -> None:
    assert len(FOUND) > 80


@pytest.mark.parametrize(("page", "command"), FOUND, ids=[f"{p}: {c[:60]}" for p, c in FOUND])
def test_a_command_parses_and_its_files_are_there(page: str, command: str) -> None:
    found = COMMAND.fullmatch(command)
    assert found is not None
    script = found["script"] or found["shell"]
    words = shlex.split(found["rest"], comments=True)
    for word in re.findall(r"configs/[\w./-]+\.py", found["rest"]):
        assert (ROOT / word).is_file(), word
    verb = [found["verb"]] if found["verb"] else []
    if script is not None:
        assert (ROOT / script).is_file() or not script.startswith(("tools/", "benchmarks/")), script
        verb = TOOLS.get(script.removeprefix("tools/"), "").split()
    if not verb or "--help" in words:
        return
    assert verb[0] in VERBS
    make_parser(verb[0]).parse_args([*verb[1:], *words])


def test_own_data_trains_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's config, with its three classes, its folders and one iteration."""
    page = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
    block = re.findall(r"```python\n(# mine_hq.*?)```", page, re.DOTALL)[0]
    config = tmp_path / "mine_hq.py"
    config.write_text(block.replace('"configs/', f'"{ROOT}/configs/'))
    draw = np.random.default_rng(0)
    for split, name in (("train", "a"), ("train", "c"), ("val", "b")):
        for folder, suffix, most, shape in (
            ("images", ".jpg", 255, (96, 128, 3)),
            ("labels", ".png", 3, (96, 128)),
        ):
            path = tmp_path / "data/mine" / folder / split / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), draw.integers(0, most, shape).astype(np.uint8))
    root = tmp_path / "data/mine"
    options = [
        *("train_cfg.max_iters=1", "train_cfg.val_interval=1", "crop_size=(64,64)"),
        *("train_dataloader.batch_size=2", "train_dataloader.num_workers=0"),
        "val_dataloader.num_workers=0",
        *(f"{split}_dataloader.dataset.data_root={root}" for split in ("train", "val", "test")),
        "train_dataloader.dataset.pipeline.2.scale=(128,96)",
        "train_dataloader.dataset.pipeline.3.crop_size=(64,64)",
        *("model.data_preprocessor.size=(64,64)", "default_hooks.checkpoint.interval=1"),
    ]
    result = run_tool(
        "train.py", config, "--work-dir", tmp_path / "work", "--cfg-options", *options
    )
    assert result.status == 0, result.output
    assert "mIoU" in result.output and (tmp_path / "work/iter_1.pth").is_file()


def test_a_whole_config_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.py"
    assert main(["config", "b0_demo_hq", "--out", str(out)]) == 0
    assert "_base_" not in out.read_text() and "merging='hq'" in out.read_text()
    assert main(["config", str(out)]) == 0
    assert main(["config", "b0_demo_hq", "--out", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
