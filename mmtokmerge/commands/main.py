"""From ``mmtokmerge VERB ...`` to the verb's module; what goes wrong ends in one sentence."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from mmtokmerge import __version__
from mmtokmerge.errors import InputError

TRACEBACK_ENV = "MMTOKMERGE_TRACEBACK"
INTERRUPTED = 130
"""Exit status of a command that Ctrl-C stopped, as shells have it."""
NO_READER = 141
"""Exit status where what reads the output has closed it, as shells have it of SIGPIPE."""
DISK_ERRORS = (errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EROFS)

VERBS = {
    "train": "train",
    "test": "test",
    "predict": "predict",
    "benchmark": "benchmark",
    "export": "export",
    "convert": "convert",
    "calibrate": "calibrate",
    "search-rates": "search_rates",
    "search-threshold": "search_threshold",
    "analyze": "analyze",
    "visualize": "visualize",
    "check": "check",
    "cost": "cost",
    "tables": "tables",
    "demo": "demo",
    "data": "data",
    "config": "config",
}
"""Each verb and its module in this folder, in the order of ``mmtokmerge --help``."""
TOOLS = {
    "train.py": "train",
    "test.py": "test",
    "predict.py": "predict",
    "benchmark.py": "benchmark",
    "export.py": "export",
    "convert_weights.py": "convert",
    "calibrate_threshold.py": "calibrate",
    "search_rates.py": "search-rates",
    "search_threshold.py": "search-threshold",
    "analyze_sharing.py": "analyze",
    "analyze_similarity.py": "analyze similarity",
    "visualize_tokens.py": "visualize",
    "demo.py": "demo",
    "dataset_converters/demo_streets.py": "data demo_streets",
    "dataset_converters/stick_figures.py": "data stick_figures",
    "dataset_converters/camvid.py": "data camvid",
    "dataset_converters/jbd.py": "data jbd",
}
"""The scripts in ``tools/``, and the verb that each of them is."""


def console() -> int:
    """The console script ``mmtokmerge``."""
    return main(sys.argv[1:])


def run_script(path: str) -> int:
    """A script of ``tools/``, given its own path."""
    tail = Path(path).resolve()
    name = tail.name if tail.parent.name == "tools" else f"{tail.parent.name}/{tail.name}"
    return main([*TOOLS[name].split(), *sys.argv[1:]], program=f"python tools/{name}")


def main(arguments: Sequence[str], program: str | None = None) -> int:
    """Run ``VERB ...`` and return the exit status.

    Args:
        arguments: The verb and its words.
        program: What its help calls it; ``mmtokmerge VERB`` if None.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"mmtokmerge {__version__}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"error: there is no verb {verb!r}, but {', '.join(VERBS)}.", file=sys.stderr)
        return 2
    return guard(lambda: _run_verb(verb, rest, program))


def _run_verb(verb: str, words: Sequence[str], program: str | None) -> object:
    args = make_parser(verb, program).parse_args(words)
    return import_module(f"mmtokmerge.commands.{VERBS[verb]}").run(args)


def make_parser(verb: str, program: str | None = None) -> argparse.ArgumentParser:
    """A verb's command line; the scripts' names in its examples become ``program``."""
    module = import_module(f"mmtokmerge.commands.{VERBS[verb]}")
    examples = getattr(module, "EXAMPLES", "")
    if program is None:
        examples = re.sub(
            r"python tools/([\w/]+\.py)", lambda found: f"mmtokmerge {TOOLS[found[1]]}", examples
        )
    parser = argparse.ArgumentParser(
        prog=program or f"mmtokmerge {verb}",
        description=module.__doc__,
        epilog=examples or None,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def overview() -> str:
    """All verbs, a line each."""
    lines = [
        "usage: mmtokmerge VERB ...        (mmtokmerge VERB --help explains one)",
        "",
        "Token merging for dense prediction with transformers.",
        "",
    ]
    for verb, name in VERBS.items():
        doc = import_module(f"mmtokmerge.commands.{name}").__doc__ or ""
        lines.append(f"  {verb:<18}{doc.strip().splitlines()[0]}")
    return "\n".join(lines)


def guard(action: Callable[[], object]) -> int:
    """Run an action and return its exit status; a person's mistake becomes one sentence.

    Set ``MMTOKMERGE_TRACEBACK=1`` to see where it came from.
    """
    try:
        status = action()
    except InputError as error:
        _show_traceback()
        return _fail(sentence_of(error))
    except KeyboardInterrupt:
        _show_traceback()
        return _fail("stopped by Ctrl-C; what was finished is kept.", INTERRUPTED)
    except BrokenPipeError:  # who read has enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except OSError as error:
        if type(error).__name__ == "UnidentifiedImageError":  # Pillow's, of a host's own loaders
            _show_traceback()
            what = str(error).strip().splitlines()[-1].rpartition("Error: ")[2]
            return _fail(
                f"a picture or label of the data set is empty, cut off or none ({what}); "
                "mmtokmerge.LoadImage and LoadSegAnnotations name the file."
            )
        if error.filename is None and error.errno not in DISK_ERRORS:
            raise
        _show_traceback()
        where = f"{error.filename}: " if error.filename else "cannot write: "
        return _fail(f"{where}{error.strerror or error}.")
    return status if isinstance(status, int) else 0


def sentence_of(error: InputError) -> str:
    """The sentence of an error, also where a data-loader worker or a registry wrapped it."""
    last = re.split(r"\bInputError: ", str(error))[-1]
    last = re.sub(r"^class `\w+` in \S+: ", "", last)
    return last.strip()


def _show_traceback() -> None:
    if os.environ.get(TRACEBACK_ENV) == "1":
        traceback.print_exc()


def _fail(sentence: str, status: int = 1) -> int:
    sys.stdout.flush()  # what was said before stands before the error
    print(f"error: {sentence}", file=sys.stderr)
    return status
