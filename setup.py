"""Everything is declared in ``pyproject.toml``; this file puts configs and tools into the wheel.

They travel as ``mmtokmerge/.mim``, where mim and MMEngine look for the configs of a package.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
PARTS = ("configs", "tools", "model-index.yml")


class BuildWithConfigs(build_py):
    """Copies the parts outside the package beside its modules."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "mmtokmerge" / ".mim"
        shutil.rmtree(target, ignore_errors=True)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                unwanted = shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(source, target / part, ignore=unwanted)
            elif source.is_file():
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target / part)


setup(cmdclass={"build_py": BuildWithConfigs})
