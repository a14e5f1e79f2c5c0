"""What each preset computes, part by part, and the speed-up that this would allow, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from mmtokmerge.merging.segformer.arch import MiTArch
from mmtokmerge.merging.segformer.cost import PARTS, StageCost, encoder_cost, total_macs
from mmtokmerge.merging.segformer.presets import PRESETS, read_merging


def preset_costs(arch: MiTArch, size: tuple[int, int]) -> dict[str, list[StageCost]]:
    """The cost of every preset for an image ``(H, W)``."""
    return {name: encoder_cost(arch, read_merging(name), size) for name in PRESETS}


def speedup_limits(costs: dict[str, list[StageCost]]) -> dict[str, float]:
    """MACs of 'none' over MACs of each preset."""
    whole = total_macs(costs["none"])
    return {name: whole / total_macs(stages) for name, stages in costs.items()}


def render(arch: MiTArch, size: tuple[int, int]) -> str:
    """Two tables as text: GMACs by part, and the queries x keys that each stage keeps."""
    costs = preset_costs(arch, size)
    limits = speedup_limits(costs)
    parts = [["preset", *(part.replace("_", " ") for part in PARTS), "total", "limit"]]
    tokens = [["preset", *(f"stage {number}" for number in range(1, 5))]]
    for name, stages in costs.items():
        sums = [sum(getattr(stage, part) for stage in stages) for part in PARTS]
        gmacs = [f"{value / 1e9:.2f}" for value in (*sums, total_macs(stages))]
        parts.append([name, *gmacs, f"{limits[name]:.2f}"])
        tokens.append([name, *(f"{stage.queries} x {stage.keys}" for stage in stages)])
    return (
        f"GMACs by part, image {size[0]} x {size[1]} (h x w)\n{_columns(parts)}\n\n"
        f"queries x keys in each attention\n{_columns(tokens)}"
    )


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:])]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)
