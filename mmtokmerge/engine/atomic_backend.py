"""mmengine's local file backend with writes that are whole or not there."""

from __future__ import annotations

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mmtokmerge.reporting.files import replace_file

ATOMIC_BACKEND = "mmtokmerge_atomic"


class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend, except that a killed write leaves the old file as it was."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to ``filepath``, replacing what stands there only when all is written."""
        replace_file(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write text to ``filepath``, whole or not at all."""
        replace_file(filepath, obj.encode(encoding))


register_backend(ATOMIC_BACKEND, AtomicLocalBackend, force=True)
