"""Speed-ups as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmtokmerge.benchmark.options import Settings
from mmtokmerge.benchmark.report import baselines_of, title_of
from mmtokmerge.benchmark.result import Result


def save_plot(path: Path, results: Sequence[Result], settings: Settings, machine: str) -> None:
    """Draw a panel for each baseline with a group of bars for each shape."""
    baselines = baselines_of(results)
    models = list(dict.fromkeys(each.name for each in results if not each.is_baseline))
    found = {(each.shape, each.name): each for each in results}
    size = 3 + 0.5 * len(settings.shapes) * len(models), 0.5 + 2.8 * len(baselines)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"{title_of(settings)}\n{machine}", fontsize=9)
    panels = figure.subplots(len(baselines), squeeze=False, sharex=True)[:, 0]
    for panel, baseline in zip(panels, baselines):
        for index, model in enumerate(models):
            rows = [found[shape, model] for shape in settings.shapes]
            _bars(panel, [row.speedup.get(baseline) for row in rows], index, len(models), model)
        panel.axhline(1, color="0.3", linewidth=0.8, linestyle="--", zorder=0)
        panel.set_ylabel(f"speed-up over {baseline}", fontsize=9)
        panel.margins(y=0.12)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xticks(range(len(settings.shapes)), [f"{h} x {w}" for h, w in settings.shapes])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _bars(
    panel: Axes, heights: Sequence[float | None], index: int, models: int, label: str
) -> None:
    """The bars of one model; no bar where it or the baseline did not run."""
    width = 0.84 / models
    places = [place + (index - (models - 1) / 2) * width for place in range(len(heights))]
    bars = panel.bar(places, [height or 0 for height in heights], 0.92 * width, label=label)
    texts = ["-" if height is None else f"{height:.2f}" for height in heights]
    panel.bar_label(bars, texts, fontsize=7, padding=1)
