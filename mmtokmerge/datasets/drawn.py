"""Data sets that are drawn, not fetched: who lacks one is told the command that draws it."""

from __future__ import annotations

from pathlib import Path

DRAWN = ("demo_streets", "stick_figures")
"""Folders, each named as the command of ``mmtokmerge data`` that draws what belongs into it."""


def how_to_make(path: str) -> str:
    """``; mmtokmerge data ... draws it`` for a path in a drawn data set's folder, '' elsewhere."""
    parts = Path(path).parts
    for name in DRAWN:
        if name in parts:
            folder = Path(*parts[: parts.index(name) + 1])
            return f"; mmtokmerge data {name} --out {folder} draws it"
    return ""
