"""Importing other packages without what they say of parts that are not used here."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO, cast


class _Hushed:
    """A stream that drops what is written while it is hushed, and hands it on afterwards.

    A logger that is made meanwhile keeps the stream for good.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.hushed = True

    def write(self, text: str) -> int:
        return len(text) if self.hushed else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def quiet_imports() -> Iterator[None]:
    """While open, what is printed and warned of is dropped; errors are not."""
    stream = _Hushed(sys.stdout)
    try:
        with warnings.catch_warnings(), redirect_stdout(cast(TextIO, stream)):
            warnings.simplefilter("ignore")
            yield
    finally:
        stream.hushed = False


def ignore_known_warnings() -> None:
    """Leave out what mmseg's losses warn of in every model that is built.

    The default that they warn of is mmseg's own, which our configs keep on purpose; a model that is
    loaded to predict has no use for a loss. ``train`` does not call this: there it is still said.
    """
    warnings.filterwarnings("ignore", message="Default ``avg_non_ignore``")
