"""What an import takes along, and how MMPose is imported without compiled operators."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
HEAVY = ("mmengine", "mmcv", "mmseg", "mmpose", "mmpretrain", "mmdet", "cv2", "timm", "matplotlib")
needs_mmpose = pytest.mark.skipif(find_spec("mmpose") is None, reason="MMPose is not installed")


def run_python(code: str) -> str:
    """What ``code`` prints in a fresh Python at the repository root; its errors fail the test."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip().splitlines()[-1]


def test_the_merging_ring_takes_torch_alone() -> None:
    code = (
        "import json, sys, torch; before = set(sys.modules)\n"
        "import mmtokmerge.merging\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps([torch.cuda.is_initialized(), sorted(sys.modules), sorted(new)]))"
    )
    cuda_started, loaded, new = json.loads(run_python(code))
    assert not cuda_started
    assert "mmtokmerge.merging" in loaded
    assert not [name for name in HEAVY if name in loaded]
    assert "numpy" not in new  # torch itself may bring numpy; the ring adds no import of it


def test_the_package_itself_takes_nothing() -> None:
    code = "import sys, mmtokmerge; print('torch' in sys.modules or 'mmengine' in sys.modules)"
    assert run_python(code) == "False"


@needs_mmpose
def test_mmpose_is_imported_and_no_stand_in_stays() -> None:
    code = (
        "import sys, importlib.util\n"
        "from mmtokmerge._mmpose_import import import_mmpose\n"
        "mmpose = import_mmpose()\n"
        "assert import_mmpose() is mmpose\n"
        "from mmpose.registry import MODELS\n"
        "assert MODELS.get('TopdownPoseEstimator') is not None\n"
        "compiled = importlib.util.find_spec('mmcv._ext') is not None\n"
        "assert compiled or 'mmcv.ops' not in sys.modules\n"
        "import mmseg.models\n"
        "import xtcocotools.mask as masks, numpy as np\n"
        "disc = np.asfortranarray(np.eye(4, dtype=np.uint8))\n"
        "print(int(masks.area(masks.encode(disc))))"
    )
    assert run_python(code) == "4"


FAKE_MMPOSE = """
def register_all_modules(init_default_scope):
    from mmcv.ops import MultiScaleDeformableAttention as attention
    try:
        from mmcv.ops import nms
    except ModuleNotFoundError:
        guarded = True
    try:
        attention(embed_dims=8)
    except ValueError as error:
        assert "compiled operators" in str(error)
    assert guarded
    {ending}
"""


def run_with_fake_packages(folder: Path, ending: str, compiled: bool) -> str:
    """Import a small ``mmpose`` with a small ``mmcv`` and print what became of ``mmcv.ops``."""
    for package in ("mmcv", "mmpose", *(["mmcv/ops"] if compiled else [])):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    if compiled:
        (folder / "mmcv" / "_ext.py").touch()
        source = "def register_all_modules(init_default_scope):\n    import mmcv.ops\n"
    else:
        source = FAKE_MMPOSE.format(ending=ending)
    (folder / "mmpose" / "utils.py").write_text(source)
    return run_python(
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "from mmtokmerge._mmpose_import import import_mmpose\n"
        "try:\n    seen = import_mmpose().__name__\n"
        "except RuntimeError as error:\n    seen = str(error)\n"
        "print(seen, getattr(sys.modules.get('mmcv.ops'), '__file__', 'gone'))"
    )


def test_the_stand_in_answers_only_what_mmpose_needs(tmp_path: Path) -> None:
    assert run_with_fake_packages(tmp_path, "pass", compiled=False) == "mmpose gone"


def test_the_stand_in_goes_when_the_import_fails(tmp_path: Path) -> None:
    ending = "raise RuntimeError('broken')"
    assert run_with_fake_packages(tmp_path, ending, compiled=False) == "broken gone"


def test_compiled_operators_are_used(tmp_path: Path) -> None:
    seen = run_with_fake_packages(tmp_path, "", compiled=True)
    assert seen == f"mmpose {tmp_path / 'mmcv' / 'ops' / '__init__.py'}"


def test_importing_the_models_says_nothing_of_other_packages_and_loggers_go_on() -> None:
    pytest.importorskip("mmseg", reason="needs MMSegmentation")
    code = (
        "import mmtokmerge.datasets, mmtokmerge.models\n"
        "from mmengine.logging import MMLogger\n"
        "MMLogger.get_current_instance().warning('a warning of ours')\n"
        "print('a line of ours')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2 and lines[0].endswith("a warning of ours"), done.stdout
    assert lines[1] == "a line of ours" and done.stderr == ""
