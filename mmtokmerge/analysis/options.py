"""What the command lines of the analysis tools share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from mmtokmerge.engine.launch import load_config
from mmtokmerge.engine.safe_load import install as load_weights_safely


def make_parser(description: str | None, examples: str) -> argparse.ArgumentParser:
    """A parser with a config, a checkpoint and what chooses images and device."""
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("config", help="config of a segmentation model with mmtokmerge.VisionTransformer")
    add("checkpoint", help="its weights: a file, or a URL")
    add("--num-images", type=int, metavar="N", help="images drawn at random (default: all)")
    add("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override settings of the config: dotted keys, lists as 'key=[a,b]' without spaces",
    )
    return parser


def prepare(args: argparse.Namespace) -> Config:
    """Read the config, load weights safely, and keep mmengine's warnings of each metric quiet."""
    load_weights_safely()
    MMLogger.get_current_instance().setLevel("ERROR")
    return load_config(args.config, args.cfg_options)


@contextmanager
def progress_bar(console: Console, words: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of ``total`` steps that vanishes when done; gives what is called after each step.

    Where output goes to a file, a line says what is begun.
    """
    if not console.is_terminal:
        console.print(f"{words}: {total} images")
        yield lambda: None
        return
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(words, total=total)
        yield lambda: progress.advance(bar)
