"""Markdown tables from CSV files of the benchmark."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mmtokmerge.benchmark.limit import Limits
from mmtokmerge.benchmark.options import Settings
from mmtokmerge.benchmark.report import save_csv
from mmtokmerge.benchmark.result import Result, compare
from mmtokmerge.benchmark.result_tables import BEGIN, END, make_tables
from mmtokmerge.commands.main import main

MACHINE = {"machine": "Some CPU", "threads": 2, "torch": "2.12.1"}
ROOT = Path(__file__).resolve().parents[1]


def save(path, width, *, train=False, limits=None, note=""):
    results = [
        Result((64, width), "stock fused", True, 1, [4.0]),
        Result((64, width), "b0_x_none", False, 1, [2.0], peak_memory=10.4),
        Result((64, width), "b0_x_hq", False, 1, [] if note else [1.0], note=note, limits=limits),
    ]
    compare(results)
    save_csv(path, results, Settings(shapes=((64, width),), train=train), MACHINE)


def test_files_of_one_kind_make_one_table(tmp_path):
    save(tmp_path / "a.csv", 128)
    save(tmp_path / "b.csv", 96, limits=Limits("b0_x_none", 2.0, 4.0, 2.5))
    text = make_tables([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert text.splitlines() == [
        "**b0_x, model, inference, fp32, batch 1; Some CPU, 2 threads, torch 2.12.1: "
        "speed-up over stock fused**",
        "",
        "| model | 64 x 96 | 64 x 128 |",
        "|---|---:|---:|",
        "| stock fused | 1.00 | 1.00 |",
        "| b0_x_none | 2.00 | 2.00 |",
        "| b0_x_hq | 4.00 (80%) | 4.00 |",
    ]


def test_a_file_of_several_kinds_makes_a_table_for_each(tmp_path):
    for name, train in (("a", False), ("b", True)):
        save(tmp_path / f"{name}.csv", 128, train=train)
    rows = [(tmp_path / f"{name}.csv").read_text().splitlines() for name in ("a", "b")]
    both = tmp_path / "both.csv"
    both.write_text("\n".join([*rows[0], *rows[1][1:]]) + "\n")
    tables = make_tables([both]).split("\n\n**")
    assert len(tables) == 2 and "inference" in tables[0] and "train" in tables[1]
    assert all("| b0_x_hq | 4.00" in table for table in tables)


def test_without_baselines_ratios_are_over_the_unmerged_model(tmp_path):
    results = [
        Result((64, 96), "b0_x_none", False, 1, [2.0]),
        Result((64, 96), "b0_x_hq", False, 1, [1.6], limits=Limits("b0_x_none", 1.25, 2.0, 1.3)),
    ]
    compare(results)
    save_csv(tmp_path / "a.csv", results, Settings(shapes=((64, 96),)), MACHINE)
    rows = make_tables([tmp_path / "a.csv"]).splitlines()
    assert rows[0].endswith("speed-up over b0_x_none**")
    assert rows[-2:] == ["| b0_x_none | 1.00 |", "| b0_x_hq | 1.25 (96%) |"]


def test_a_second_run_of_one_size_has_a_table_of_its_own(tmp_path):
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.csv", 128 if name == "c" else 96)
    tables = make_tables([tmp_path / f"{name}.csv" for name in ("a", "b", "c")]).split("\n\n**")
    assert [table.partition("**\n")[0].endswith("(b)") for table in tables] == [False, True]
    assert "| 64 x 96 | 64 x 128 |" in tables[0] and "128" not in tables[1]


def test_another_allocator_makes_another_table(tmp_path):
    results = [
        Result((64, 96), "stock fused", True, 1, [2.0]),
        Result((64, 96), "a", False, 1, [1]),
    ]
    compare(results)
    settings = Settings(shapes=((64, 96),))
    for name, allocator in (("a", ""), ("b", "MALLOC_TRIM_THRESHOLD_=1")):
        save_csv(tmp_path / f"{name}.csv", results, settings, {**MACHINE, "allocator": allocator})
    text = make_tables([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert text.count("speed-up over stock fused**") == 2
    assert text.count("MALLOC_TRIM_THRESHOLD_=1; Some CPU") == 1


def test_training_shows_memory_and_a_model_that_did_not_run_says_why(tmp_path):
    save(tmp_path / "a.csv", 96, train=True, note="out of memory")
    rows = make_tables([tmp_path / "a.csv"]).splitlines()
    assert rows[-2:] == ["| b0_x_none | 2.00, 10 MiB |", "| b0_x_hq | out of memory |"]


def test_the_tables_stand_between_the_markers(tmp_path, capsys):
    save(tmp_path / "results/deeper/a.csv", 96)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    words = ["--results", str(tmp_path / "results"), "--out", str(page)]
    assert main(["tables", *words]) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n**b0_x") and text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text
    assert main(["tables", *words]) == 0
    assert "up to date" in capsys.readouterr().out and page.read_text() == text


@pytest.mark.parametrize(
    ("page", "table", "sentence"),
    [
        ("no markers", True, "needs the lines <!-- tables: begin -->"),
        (f"{END} {BEGIN}", True, "needs the lines <!-- tables: begin -->"),
        (f"{BEGIN} {END}", False, "is no CSV of tools/benchmark.py."),
        (f"{BEGIN} {END}", None, "There are no CSV files in"),
    ],
)
def test_a_mistake_is_one_sentence(page, table, sentence, tmp_path, capsys):
    (tmp_path / "page.md").write_text(page)
    if table:
        save(tmp_path / "a.csv", 96)
    elif table is False:
        with (tmp_path / "a.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["name"], ["1"]])
    assert main(["tables", "--results", str(tmp_path), "--out", str(tmp_path / "page.md")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1
    assert (tmp_path / "page.md").read_text() == page


def test_the_committed_tables_follow_from_the_committed_files():
    files = sorted((ROOT / "benchmarks/results").rglob("*.csv"))
    page = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    between = page.partition(BEGIN)[2].partition(END)[0]
    assert between.strip() == make_tables(files)
