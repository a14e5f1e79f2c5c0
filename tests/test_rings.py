"""The rooms of the package: arrows point inwards, and the torch rings need torch alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mmtokmerge"

# Each room and what it may import beside itself; `base` is errors, checks and the version.
RINGS: dict[str, set[str]] = {
    "kernels": set(),
    "merging": {"kernels"},
    "layers": {"kernels", "merging"},
    "adapters": {"kernels", "merging", "layers"},
    "deploy": {"kernels", "merging", "layers"},
    "reporting": set(),
    "models": {"kernels", "merging", "layers", "deploy", "registry"},
    "datasets": {"merging", "registry", "reporting"},
    "evaluation": {"merging", "registry", "reporting"},
    "visualization": {"kernels", "merging", "layers", "models", "reporting", "registry"},
    "engine": {
        *("merging", "deploy", "models", "datasets", "evaluation", "reporting"),
        *("registry", "visualization"),
    },
    "measure": {"kernels", "merging", "layers", "deploy", "models", "engine", "reporting"},
    "inference": {"merging", "deploy", "models", "engine", "reporting", "visualization"},
    "benchmark": {
        "kernels",
        "merging",
        "layers",
        "deploy",
        "models",
        "engine",
        "reporting",
        "measure",
    },
    "analysis": {
        *("kernels", "merging", "layers", "models", "datasets", "engine", "reporting"),
        *("measure", "inference", "visualization"),
    },
}
BASE = {"errors", "checks", "quiet", "_mmpose_import", "__init__"}
TORCH_RINGS = ("kernels", "merging", "layers", "adapters", "deploy")
FOREIGN = ("mmengine", "mmcv", "mmseg", "mmpose", "mmpretrain", "mmdet", "numpy", "cv2")


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, its functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_room_has_a_ring() -> None:
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert rooms == {*RINGS, "commands"}


@pytest.mark.parametrize("room", RINGS)
def test_arrows_point_inwards(room: str) -> None:
    allowed = {*RINGS[room], room, *BASE}
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "mmtokmerge" and len(parts) > 1 and parts[1] not in allowed:
                known = parts[1] in RINGS or parts[1] in ("commands", "registry", "pose")
                assert not known, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("room", (*TORCH_RINGS, "reporting"))
def test_a_torch_ring_names_no_other_package(room: str) -> None:
    banned = FOREIGN if room != "reporting" else FOREIGN[:6]
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] not in banned or path.name in ALLOWED, (
                f"{path.relative_to(ROOT)} imports {name}"
            )


ALLOWED = {"relative_position_table.py"}  # imports numpy where a table is resized, for scipy


@pytest.mark.parametrize("room", TORCH_RINGS)
def test_a_torch_ring_imports_with_torch_alone(room: str) -> None:
    code = (
        "import sys\n"
        f"banned = {FOREIGN!r}\n"
        "for name in banned: sys.modules[name] = None\n"
        f"import mmtokmerge.{room}, torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "print('ok')\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert run.stdout.strip().endswith("ok"), run.stderr[-500:]


def test_each_folder_says_what_lives_there() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert doc and len(doc.split()) >= 4, path


def test_every_file_reads_in_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}
