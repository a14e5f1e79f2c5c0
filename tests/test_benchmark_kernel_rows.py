"""Rows of kernels and their file."""

from __future__ import annotations

import json
from dataclasses import dataclass

from mmtokmerge.benchmark.kernel_rows import kernel_rows, save_kernel_rows


@dataclass(frozen=True)
class Size:
    tokens: int


def test_rows_are_summarised_and_written(tmp_path):
    rows = kernel_rows(Size(7), {"torch": [1.0, 3.0, 2.0], "kernel": [4.0]})
    assert [(row.way, row.median) for row in rows] == [("torch", 2.0), ("kernel", 4.0)]
    assert (rows[0].p10, rows[0].p90) == (1.2, 2.8)
    path = tmp_path / "new" / "rows.json"
    save_kernel_rows(path, rows, {"cpu": "x"}, {"runs": 3}, agreement=[{"loss": 0.0}])
    content = json.loads(path.read_text())
    assert content["rows"][0]["size"] == {"tokens": 7}
    assert content["rows"][0]["samples"] == [1.0, 3.0, 2.0]
    assert content["agreement"] == [{"loss": 0.0}] and content["settings"] == {"runs": 3}
    assert [file.name for file in path.parent.iterdir()] == ["rows.json"]
