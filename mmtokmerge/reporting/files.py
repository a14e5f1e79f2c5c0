"""Files that are whole or not there, and one sentence where one cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmtokmerge.errors import InputError

PARTIAL_SUFFIX = ".partial"
ABANDONED_S = 86400.0
"""A partial file of another machine that nobody has written to for so long was left behind."""


def replace_file(path: str | Path, content: bytes) -> None:
    """Write a file in one step: whoever reads it meets the old content or the new, never a part.

    Bytes go to a temporary file beside the target, are flushed to the disk, and take the target's
    name. What a killed process left behind in the folder is removed.

    Raises:
        OSError: It cannot be written, with the target's name; the old file is as it was, and no
            partial file is left.
    """
    try:
        with partial_file(path) as partial, open(partial, "wb") as file:
            file.write(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def partial_file(path: str | Path) -> Iterator[str]:
    """A temporary file beside a target, which takes the target's name when all has been written.

    Yields:
        Its path. On an error it is removed, and the old file is as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent)
    handle, partial = tempfile.mkstemp(
        prefix=f".{target.name}.{_owner()}.", suffix=PARTIAL_SUFFIX, dir=target.parent
    )
    os.close(handle)
    try:
        yield partial
        handle = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.chmod(partial, _default_mode())
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def remove_abandoned(folder: Path) -> None:
    """Remove partial files in ``folder`` whose process is gone."""
    for partial in folder.glob(f".*{PARTIAL_SUFFIX}"):
        found = re.search(r"\.([\w-]+)-(\d+)\.[^.]*\.partial$", partial.name)
        with contextlib.suppress(OSError):
            here = found is not None and found[1] == _host()
            old = time.time() - partial.stat().st_mtime > ABANDONED_S
            if old or (here and found is not None and not _runs(int(found[2]))):
                partial.unlink()


def _owner() -> str:
    return f"{_host()}-{os.getpid()}"


def _host() -> str:
    return re.sub(r"[^\w-]", "_", socket.gethostname())


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: If it cannot be written.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text; like :func:`write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, indented, with a final newline; like :func:`write_bytes`."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def cannot_write(path: str | Path, error: OSError) -> InputError:
    """The sentence for a file that cannot be written: which, and why."""
    return InputError(f"Cannot write {path}: {error.strerror or error}.")


def _default_mode() -> int:
    """The permissions that ``open`` would give: mkstemp's own are for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def write_image(path: str | Path, pixels: Any, options: Sequence[int] = ()) -> None:
    """Write an image whole or not at all.

    Args:
        path: Its suffix names the format.
        pixels: ``(H, W, 3)`` BGR or ``(H, W)`` gray, as OpenCV has them.
        options: Flags for OpenCV's encoder.

    Raises:
        InputError: No format has this suffix, or it cannot be written.
    """
    import cv2
    import numpy as np

    try:
        encoded, content = cv2.imencode(Path(path).suffix, pixels, list(options))
    except cv2.error:
        encoded, content = False, np.empty(0, np.uint8)
    if not encoded:
        raise InputError(f"{path} must end in a picture format's suffix, such as .png or .jpg.")
    write_bytes(path, content.tobytes())
