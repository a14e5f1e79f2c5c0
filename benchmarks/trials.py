"""Short trainings that the scripts beside it compare: their runners and their tests."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mmtokmerge.engine.launch import build_runner, prepare, prepare_training
from mmtokmerge.evaluation.intervals import Ratios, keeping_results
from mmtokmerge.reporting.console import progress_bar


def train_or_compare(
    doc: str | None,
    train: Callable[[Namespace], None],
    compare: Callable[[Namespace], None],
    add_arguments: Callable[[ArgumentParser, str], None],
    help_texts: tuple[str, str],
) -> None:
    """Parse a script's command line, and run its ``train`` or its ``compare``.

    Args:
        doc: The script's docstring.
        train: Trains its trials.
        compare: Tests them, and writes where ``--out`` says.
        add_arguments: Adds the arguments of a verb, by its name, to its parser.
        help_texts: What ``--help`` says of the two.
    """
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = {"train": train, "compare": compare}
    for verb, text in zip(runs, help_texts, strict=True):
        part = verbs.add_parser(verb, help=text)
        add_arguments(part, verb)
        if verb == "compare":
            part.add_argument("--out", type=Path, required=True, help="without suffix")
    args = parser.parse_args()
    runs[args.verb](args)


def folder_of(work_dirs: str, name: str) -> Path:
    """Where a trial's checkpoints are."""
    return Path(work_dirs) / "".join(c if c.isalnum() else "_" for c in name)


def trial_runner(
    config: str,
    folder: Path,
    iterations: int,
    lr: float,
    amp: bool = False,
    settings: dict[str, Any] | None = None,
) -> Any:
    """A runner of a short training: warm-up of a tenth, at most 50 iterations, then poly to zero.

    It resumes where the trial was stopped.
    """
    warmup = min(50, iterations // 10)
    schedule = {
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": iterations + 1,  # tested by the comparison alone
        "optim_wrapper.optimizer.lr": lr,
        "param_scheduler.0.end": warmup,
        "param_scheduler.1.begin": warmup,
        "param_scheduler.1.end": iterations,
        "default_hooks.checkpoint.interval": 50,
        "default_hooks.checkpoint.max_keep_ckpts": 1,
        "default_hooks.checkpoint.save_best": None,
    }
    for loader in ("train", "val", "test"):
        schedule |= {
            f"{loader}_dataloader.num_workers": 0,
            f"{loader}_dataloader.persistent_workers": False,
        }
    cfg = prepare(
        Namespace(
            config=config,
            cfg_options=schedule | (settings or {}),
            launcher="none",
            work_dir=str(folder),
        )
    )
    prepare_training(cfg, resume=True, amp=amp)
    return build_runner(cfg)


def test(runner: Any, name: str, console: Console) -> dict[str, Ratios]:
    """What each test image adds to the metrics."""
    loader, evaluator = runner.test_dataloader, runner.build_evaluator(runner.cfg.test_evaluator)
    loader = runner.build_dataloader(loader)
    evaluator.dataset_meta = loader.dataset.metainfo
    with progress_bar(console, name, len(loader)) as advance:
        for batch in loader:
            evaluator.process(runner.model.test_step(batch), batch)
            advance()
    with keeping_results(evaluator) as kept:
        evaluator.evaluate(len(loader.dataset))
    return kept


def spread(row: Sequence[str], at: int) -> str:
    """A difference and its interval, from three cells of a row."""
    return f"{row[at]} [{row[at + 1]}, {row[at + 2]}]" if row[at] else ""
