"""``python -m mmtokmerge.merging.cost_table``: what each preset computes, and its limit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .arch import MIT_ARCHS, MiTArch, read_arch
from .cost import PARTS, StageCost, encoder_cost, total_macs
from .settings import PRESETS, read_merging

EPILOG = """\
GMACs of the encoder for one image. 'limit' is the speed-up over 'none' if time went by MACs alone.
Memory traffic, norms and launches come on top, and merging can win more than the limit where the
attention it shortens is bound by memory.
"""


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m mmtokmerge.merging.cost_table",
        description="What each preset of Segformer++ computes, part by part.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arch", default="b5", choices=MIT_ARCHS, help="default: %(default)s")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(1024, 1024),
        metavar=("H", "W"),
        help="image in pixels (default: 1024 1024)",
    )
    args = parser.parse_args(arguments)
    if min(args.size) < 1:
        parser.error(f"--size {args.size[0]} {args.size[1]}: both must be at least 1")
    print(render(read_arch(args.arch), (args.size[0], args.size[1])))


if __name__ == "__main__":
    main()
