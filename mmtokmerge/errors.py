"""The errors that a person can act on: one sentence, without a traceback on the command line."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from a person: one sentence naming the key or file, what it was, what is allowed.

    The command-line tools print the sentence alone, without a traceback, and exit with status 1.
    """


class InputTypeError(InputError, TypeError):
    """Bad input of the wrong type; also a :class:`TypeError`."""


class UnreadableInput(InputError):
    """One file among many that is cut off or of no known format: the others may be read."""
