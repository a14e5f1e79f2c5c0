"""Models timed in several runtimes in one run, each over the baselines in each."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from engine_helpers import ROOT, run_tool

CONFIG = ROOT / "configs/segformerpp/b0_demo_none.py"
FAST = ROOT / "configs/segformerpp/b0_demo_fast.py"
QUICK = ("--shape", 64, 96, "--runs", 1, "--warmup", 1, "--baselines", "fused")


def test_every_model_runs_in_every_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    out = tmp_path / "rows.csv"
    result = run_tool(
        *("benchmark.py", FAST, *QUICK, "--csv", out),
        *("--runtime", "torch", "onnxruntime", "openvino"),
    )
    assert result.status == 0, result.output
    rows = {row["model"]: row for row in csv.DictReader(out.open())}
    runtimes = ("torch", "onnxruntime", "openvino")
    names = ("stock fused", "b0_demo_fast")
    assert set(rows) == {f"{name}, {runtime}" for name in names for runtime in runtimes}
    for row in rows.values():
        assert float(row["setup_s"]) > 0 and row["note"] == ""
    over = [key for key in rows["b0_demo_fast, openvino"] if key.startswith("speedup_over_stock")]
    assert len(over) == 3
    over = [key for key in over if key.endswith("openvino")]
    fast, stock = rows["b0_demo_fast, openvino"], rows["stock fused, openvino"]
    assert float(stock[over[0]]) == 1
    ratio = float(stock["median_ms"]) / float(fast["median_ms"])
    assert float(fast[over[0]]) == pytest.approx(ratio, rel=0.01)
    assert "ready after" in result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--runtime", "tensorrt"), "allowed are 'torch', 'compile', 'onnxruntime', 'openvino'"),
        (("--runtime", "openvino", "openvino"), "names openvino twice"),
        (("--runtime", "onnxruntime", "--dtype", "bf16"), "it takes fp32, int8"),
        (("--dtype", "int8"), "it takes fp32, fp16, bf16"),
        (("--runtime", "openvino", "--part", "head"), "--part head"),
        (("--runtime", "compile", "--train"), "inference alone"),
        (("--runtime", "openvino", "--images"), "cannot go with --images"),
    ],
)
def test_what_a_runtime_cannot_do_is_said(words: tuple[str, ...], says: str) -> None:
    result = run_tool("benchmark.py", CONFIG, *QUICK, *words)
    assert result.status == 1 and says in result.error
