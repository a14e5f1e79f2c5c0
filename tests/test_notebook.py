"""The notebook's cells run from the first to the last, at a small size."""

from __future__ import annotations

import json
import runpy
from typing import Any

import pytest
from engine_helpers import ROOT

NOTEBOOK = ROOT / "docs/faster_model.ipynb"


def test_the_cells_run() -> None:
    pytest.importorskip("mmseg")
    tools = runpy.run_path(str(ROOT / "docs/make_notebook.py"))
    content: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        shorter = [line.replace("1024, 1024)", "64, 96)") for line in cell["source"]]
        cell["source"] = [line.replace("512, 1024)", "128, 256)") for line in shorter]
    tools["run_notebook"](content)
    printed = [
        "".join(output.get("text", []))
        for cell in content["cells"]
        for output in cell.get("outputs", [])
    ]
    assert any("times as fast as none" in text for text in printed)
    assert sum("image/jpeg" in str(cell.get("outputs")) for cell in content["cells"]) == 3


def test_it_stands_there_executed() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert codes and all(cell["outputs"] and cell["execution_count"] for cell in codes)
