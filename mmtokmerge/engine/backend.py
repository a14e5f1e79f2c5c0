"""File writes that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

ATOMIC_BACKEND = "mmtokmerge_atomic"


class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend, except that a killed write leaves the old file as it was.

    Bytes go to a temporary file beside the target, are flushed to the disk, and take the target's
    name in one step.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to ``filepath``, replacing what stands there only when all is written."""
        target = Path(filepath)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, _default_mode())
            os.replace(partial, target)
        except BaseException:
            os.unlink(partial)
            raise

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write text to ``filepath``, whole or not at all."""
        self.put(obj.encode(encoding), filepath)


def _default_mode() -> int:
    """The permissions that ``open`` would give: mkstemp's own are for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


register_backend(ATOMIC_BACKEND, AtomicLocalBackend, force=True)
