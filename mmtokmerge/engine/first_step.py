"""What goes wrong before the first step has worked is a setting's fault, and said in a sentence.

A config reaches code of torch and mm* that raises whatever it likes at a value of the wrong type or
size: when something is built, or when the first batch meets it. After a step has worked an error is
a fault of the program, and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import Hook

from mmtokmerge.errors import InputError

PASSED = (InputError, OSError, MemoryError, torch.cuda.OutOfMemoryError)
"""Errors that a command has its own sentence for, or that no setting can mend."""
LONGEST = 300


@contextmanager
def building(what: str) -> Iterator[None]:
    """While open, an exception becomes an InputError that says ``what`` was built.

    Args:
        what: Such as 'the model of b0.py'.
    """
    try:
        yield
    except PASSED:
        raise
    except Exception as error:
        raise InputError(f"{what} cannot be built: {words_of(error)}") from error


@contextmanager
def until_first_step(runner: Any) -> Iterator[None]:
    """While open, an exception before the runner's first step has ended becomes an InputError.

    Args:
        runner: mmengine's, about to train or test.
    """
    hook = FirstStep()
    runner.register_hook(hook, priority="VERY_LOW")
    try:
        yield
    except PASSED:
        raise
    except Exception as error:
        if hook.worked:
            raise
        raise InputError(f"The config does not run: {words_of(error)}") from error


class FirstStep(Hook):
    """Knows what runs, and whether it has worked before.

    A training step has worked when it has ended; a validation or test when its metrics are there.
    """

    def __init__(self) -> None:
        self.running = "building"
        self._done: set[str] = set()

    @property
    def worked(self) -> bool:
        """Whether what runs now has worked before."""
        return self.running in self._done

    def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """See the class."""
        self.running = "train"

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """See the class."""
        self._done.add("train")

    def before_val_epoch(self, *args: Any, **kwargs: Any) -> None:
        """See the class."""
        self.running = "val"

    def after_val_epoch(self, *args: Any, **kwargs: Any) -> None:
        """See the class."""
        self._done.add("val")

    def before_test_epoch(self, *args: Any, **kwargs: Any) -> None:
        """See the class."""
        self.running = "test"

    def after_test_epoch(self, *args: Any, **kwargs: Any) -> None:
        """See the class."""
        self._done.add("test")


def words_of(error: BaseException) -> str:
    """An exception's kind and first sentence, and how to see where it came from."""
    text = " ".join(str(error).split())
    if "Original Traceback" in text:  # of a worker process
        text = text.split("Original Traceback")[0] + str(error).strip().splitlines()[-1]
    text = f"{text[:LONGEST]} ..." if len(text) > LONGEST else text
    return f"{type(error).__name__}: {text} (MMTOKMERGE_TRACEBACK=1 shows where)"
