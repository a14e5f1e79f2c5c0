"""The command line: every verb explains itself quickly, and what stops one ends in a sentence."""

from __future__ import annotations

import errno
import subprocess
import sys
import time

import pytest
from engine_helpers import ROOT

from mmtokmerge.commands.main import INTERRUPTED, TOOLS, VERBS, guard, main, make_parser
from mmtokmerge.errors import InputError


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches_and_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys\n"
        "from mmtokmerge.commands.main import make_parser\n"
        f"print(make_parser({verb!r}).format_help())\n"
        "print([m for m in ('torch', 'mmengine', 'mmseg', 'cv2') if m in sys.modules])\n"
    )
    start = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 10  # a fraction of a second on an idle machine
    assert run.stdout.strip().endswith("[]") and run.stderr == ""
    assert f"mmtokmerge {verb}" in run.stdout


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_is_a_few_lines_over_its_verb(tool: str) -> None:
    text = (ROOT / "tools" / tool).read_text()
    assert len(text.splitlines()) <= 9
    shown = make_parser(TOOLS[tool].split()[0], f"python tools/{tool}").format_help()
    assert f"python tools/{tool}" in shown


def test_the_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb}" in text for verb in VERBS)
    assert main(["trian"]) == 2
    assert "there is no verb 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (InputError("no"), 1, "error: no"),
        (KeyboardInterrupt(), INTERRUPTED, "stopped by Ctrl-C"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "cannot write: No space left"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b.pth"), 1, "/a/b.pth: Read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), 1, "/a: Permission denied"),
    ],
)
def test_what_stops_a_verb_is_one_sentence(
    error: BaseException, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert guard(fail) == status
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_fault_of_the_program_is_no_sentence() -> None:
    def fail() -> None:
        raise OSError("no number")

    with pytest.raises(OSError, match="no number"):
        guard(fail)


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = f"{sys.executable} -W ignore -m mmtokmerge config b5_cityscapes_hq | head -1"
    run = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.count("\n") == 1 and "Traceback" not in run.stderr, run.stderr[-500:]


def test_config_says_what_is_wrong_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    for option, word in (("mergin=hq", "mergin"), ("merging=hqq", "hqq")):
        words = ["config", "b0_demo_none", "--cfg-options", f"model.backbone.{option}"]
        assert main(words) == 1
        captured = capsys.readouterr()
        assert word in captured.err and captured.out == ""


def test_a_file_that_is_no_picture_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import UnidentifiedImageError

    def action() -> None:
        raise UnidentifiedImageError("cannot identify image file <_io.BytesIO object>")

    assert guard(action) == 1
    assert "empty, cut off or none (cannot identify image file" in capsys.readouterr().err
