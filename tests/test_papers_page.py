"""The page of the papers' tables names configs, scripts and verbs that are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmengine")

from mmengine.config import Config

from mmtokmerge.commands.main import VERBS

REPO = Path(__file__).resolve().parents[1]
PAGE = (REPO / "docs" / "papers.md").read_text(encoding="utf-8")
CONFIGS = {
    key: path
    for path in (REPO / "configs").rglob("*.py")
    if "_base_" not in path.parts
    for key in (path.stem, str(path.relative_to(REPO / "configs").with_suffix("")))
}
WORDS = {
    word
    for quoted in re.findall(r"`([^`]+)`", PAGE)
    for word in re.split(r"[\s;,]+", quoted)
    if re.fullmatch(r"(?:algm/|cts/|segformerpp/)?(?:ablations/)?[a-z0-9]+[_-][\w-]+", word)
}
NAMED = sorted(
    word
    for word in WORDS
    if re.match(r"(b\d_|segmenter|setr|segvit|upernet|policynet|algm/|cts/|table\d)", word)
)


def find(name: str) -> Path:
    """The config of a name on the page; rows name the folder of ablations once."""
    for key in (name, f"algm/ablations/{name}", f"cts/ablations/{name}"):
        if key in CONFIGS:
            return CONFIGS[key]
    raise AssertionError(f"docs/papers.md names {name}, which is no config")


def test_the_page_names_many_configs() -> None:
    assert len(NAMED) > 40, NAMED


@pytest.mark.parametrize("name", NAMED)
def test_a_named_config_reads(name: str) -> None:
    assert Config.fromfile(find(name)).get("model") is not None


def test_named_scripts_and_verbs_are_there() -> None:
    for script in re.findall(r"(?:benchmarks|tests)/\w+\.(?:py|sh)", PAGE):
        assert (REPO / script).is_file(), script
    verbs = set(re.findall(r"mmtokmerge ([a-z-]+)", PAGE))
    assert len(verbs) > 7 and verbs <= set(VERBS), verbs - set(VERBS)
    questions = set(re.findall(r"mmtokmerge analyze (\w+)", PAGE))
    help_of = subprocess.run(
        [sys.executable, "-m", "mmtokmerge", "analyze", "--help"],
        capture_output=True,
        text=True,
        cwd=REPO,
        check=True,
    ).stdout
    assert all(re.search(rf"^\s+{question}\b", help_of, re.MULTILINE) for question in questions)
