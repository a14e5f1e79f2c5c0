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
BASE = {"errors", "checks", "quiet", "_mmpose_import"}
# Modules beside the rooms, and what they may import.
BESIDE: dict[str, set[str]] = {
    **{name: set() for name in BASE},
    "__init__": {"adapters"},
    "__main__": {"commands"},
    "registry": set(),
    "pose": set(),
    "inferencers": {"engine", "models", "pose"},
}
TORCH_RINGS = ("kernels", "merging", "layers", "adapters", "deploy")
FOREIGN = ("mmengine", "mmcv", "mmseg", "mmpose", "mmpretrain", "mmdet", "numpy", "cv2")
# What a torch ring imports beside torch and Python's own library, where it is there.
BESIDE_TORCH: dict[str, set[str]] = {
    "kernels": {"triton"},
    "merging": set(),
    "layers": {"numpy", "scipy"},  # where a table of relative positions is resized
    "adapters": set(),
    "deploy": {"numpy", "onnx", "onnxruntime", "onnxscript", "openvino", "nncf"},
}


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, its functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args:  # import_module("...")
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = getattr(node.args[0], "value", None)
            if called in ("import_module", "__import__") and isinstance(name, str):
                found.add(name)
    return found


def strays(names: set[str], allowed: set[str]) -> list[str]:
    """The imports of this package that are not of the rooms and modules allowed."""
    parts = {name: name.split(".") for name in names}
    return [
        name
        for name, (top, *rest) in parts.items()
        if top == "mmtokmerge" and rest and rest[0] not in {*allowed, *BASE, "__version__"}
    ]


def test_every_room_has_a_ring() -> None:
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert rooms == {*RINGS, "commands"}


@pytest.mark.parametrize("room", RINGS)
def test_arrows_point_inwards(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        found = strays(imports(path), {*RINGS[room], room})
        assert found == [], f"{path.relative_to(ROOT)} imports {found}"


def test_arrows_of_what_stands_beside_the_rooms() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(BESIDE)
    for name, allowed in BESIDE.items():
        found = strays(imports(PACKAGE / f"{name}.py"), allowed)
        assert found == [], f"{name}.py imports {found}"


@pytest.mark.parametrize("room", TORCH_RINGS)
def test_a_torch_ring_names_no_other_package(room: str) -> None:
    allowed = {"torch", "mmtokmerge", *BESIDE_TORCH[room], *sys.stdlib_module_names}
    for path in (PACKAGE / room).rglob("*.py"):
        tops = {name.split(".")[0] for name in imports(path)}
        assert tops <= allowed, f"{path.relative_to(ROOT)} imports {sorted(tops - allowed)}"


def test_reporting_names_no_mm_package() -> None:
    for path in (PACKAGE / "reporting").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & set(FOREIGN[:6]), path


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("from mmtokmerge.inferencers import resolve", True),
        ("import mmtokmerge.commands.main", True),
        ("from importlib import import_module\nimport_module('mmtokmerge.models')", True),
        ("from mmtokmerge.kernels.plain import is_plain", False),
        ("from mmtokmerge import errors, __version__", False),
    ],
)
def test_the_test_of_arrows_sees_them(line: str, caught: bool, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(line)
    assert bool(strays(imports(tmp_path / "planted.py"), {"kernels"})) == caught


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
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 360
    }
    assert long == {}
