"""Two models tested on the same images, and the intervals of their differences."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from mmtokmerge.engine import test_options
from mmtokmerge.engine.config import load_config
from mmtokmerge.engine.first_step import until_first_step
from mmtokmerge.engine.launch import build_runner
from mmtokmerge.errors import InputError
from mmtokmerge.evaluation.intervals import Difference, Ratios, differences, keeping_results
from mmtokmerge.reporting.console import make_console
from mmtokmerge.reporting.files import write_json
from mmtokmerge.reporting.tables import rich_table


def test_and_compare(cfg: Config, config: str, checkpoint: str) -> list[Difference]:
    """Test a config's model and a second one, and show how the metrics with intervals differ.

    Writes ``compare.json`` into the config's work_dir.

    Args:
        cfg: The first config, with its weights.
        config: The second model's config; it is tested on the first one's test set.
        checkpoint: The path of the model's weights.

    Raises:
        InputError: No metric of the test has an interval.
    """
    other = load_config(config)
    test_options.use_checkpoint(other, checkpoint)
    other.launcher, other.work_dir = cfg.launcher, str(Path(cfg.work_dir) / "compared")
    for key in ("test_dataloader", "test_evaluator", "test_cfg", "default_scope"):
        other[key] = cfg.get(key)  # the same images, whatever was overridden
    runner = build_runner(cfg, ("test",))
    first = _test(runner)
    second = _test(build_runner(other, ("test",)))
    if not is_main_process():
        return []
    if not set(first) & set(second):
        raise InputError(
            "--compare has no interval to show: mIoU, mIoU_small, PCK and mean_error have one, and "
            f"{cfg.filename} evaluates none of them"
        )
    found = differences(first, second)
    show(found, Path(config).stem)
    write_json(
        Path(cfg.work_dir) / "compare.json",
        dict(
            config=config,
            checkpoint=checkpoint,
            confidence=0.95,
            differences=[{**vars(each), "difference": each.value} for each in found],
        ),
    )
    return found


def show(found: list[Difference], name: str) -> None:
    """Print the differences as a table."""
    rows = [
        (
            each.metric,
            f"{each.first:.4g}",
            f"{each.second:.4g}",
            str(each),
            "no" if each.holds_zero else "yes",
        )
        for each in found
    ]
    heads = ("metric", "this model", name, "difference [95% interval]", "told apart")
    title = f"over {found[0].num_images} images or instances, paired bootstrap"
    make_console().print(rich_table(heads, rows, title))


def _test(runner: Runner) -> dict[str, Ratios]:
    with until_first_step(runner), keeping_results(runner.test_evaluator) as kept:
        runner.test()
    return kept
