"""The terminal: a console that suits files too, and progress of long work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

WIDTH_OF_FILES = 120


def make_console() -> Console:
    """A console that does not wrap tables at 80 columns where its output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_FILES)


@contextmanager
def progress_bar(
    console: Console, words: str, total: int, unit: str = "images"
) -> Iterator[Callable[[], None]]:
    """A bar of ``total`` steps that vanishes when done; gives what is called after each step.

    Where output goes to a file, a line says what is begun, and now and then how far it is.
    """
    if not console.is_terminal:
        console.print(f"{words}: {total} {unit}")
        yield _Lines(console, words, total)
        return
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(words, total=total)
        yield lambda: progress.advance(bar)


class _Lines:
    """Says how far a long work is, a line every ten seconds at most."""

    EVERY_S = 10.0

    def __init__(self, console: Console, words: str, total: int) -> None:
        self.console, self.words, self.total = console, words, total
        self.done = 0
        self.begun = self.said = time.monotonic()

    def __call__(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.said < self.EVERY_S or self.done >= self.total:
            return
        self.said = now
        left = (now - self.begun) / self.done * (self.total - self.done)
        self.console.print(f"{self.words}: {self.done} of {self.total}, about {left:.0f} s left")
