"""What a file is by its first bytes, whatever its name says, for the sentence that refuses it."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from mmtokmerge.errors import InputError

_PAGE = re.compile(rb"<(!doctype|html|head|body|!--|\?xml|title|meta)", re.IGNORECASE)
_ANSWER = re.compile(rb"<[A-Za-z][\w.]*[ >]")
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip-compressed: unpack it first"),
    (b"BZh", "bzip2-compressed: unpack it first"),
    (b"\xfd7zXZ", "xz-compressed: unpack it first"),
    (b"(\xb5/\xfd", "zstd-compressed: unpack it first"),
    (b"\x89HDF\r\n", "HDF5, as Keras writes: only PyTorch's checkpoints are read"),
    (b"GGUF", "GGUF, as llama.cpp writes: only PyTorch's checkpoints are read"),
    (b"\x93NUMPY", "a NumPy array: only PyTorch's checkpoints are read"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
)
"""How files begin that are put in a checkpoint's place."""


def is_safetensors(path: str) -> bool:
    """Whether a file is one of safetensors: 8 bytes of length, then that much JSON."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start = file.read(2)
    return 2 <= length <= Path(path).stat().st_size - 8 and start[:1] == b"{"


def refuse_other_kinds(path: str) -> None:
    """Raise InputError for a file that is known to be something else than a checkpoint.

    Raises:
        InputError: It is empty, a web page, a pointer, an archive, another runtime's model.
    """
    with open(path, "rb") as file:
        start = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise InputError(f"The checkpoint {path} is an empty file.")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path} is a git-lfs pointer, not the checkpoint itself: `git lfs pull` fetches it."
        )
    if _PAGE.match(start):
        raise InputError(
            f"{path} is a web page, not a checkpoint: the download got a page in its place."
        )
    if _ANSWER.match(start):
        raise InputError(
            f"{path} is a server's answer in XML, not a checkpoint: the download failed."
        )
    if start[:1] in b"{[" and _is_json(path):
        hint = ", an index of shards: name a whole file" if b'"weight_map"' in start else ""
        raise InputError(f"{path} is JSON, not a checkpoint{hint}.")
    for magic, what in MAGIC:
        if start.startswith(magic):
            raise InputError(f"{path} is {what}.")
    if start.startswith(b"PK\x03\x04"):
        _refuse_archive(path)
    elif start[:1] == b"\x08" and b"pytorch" in start[:64]:
        raise InputError(
            f"{path} is an ONNX model: `mmtokmerge test CONFIG model.onnx` runs those."
        )
    elif len(start) > 262 and start[257:262] == b"ustar":
        raise InputError(f"{path} is a tar archive: unpack it first.")


def _is_json(path: str) -> bool:
    try:
        json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _refuse_archive(path: str) -> None:
    """torch's checkpoints are zip files of a certain kind; others say what they are."""
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError):
        return  # cut off, which torch says too
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise InputError(
            f"{path} is a TorchScript model, which would be run, not weights: save its "
            "state_dict() instead."
        )
    if any(name.endswith((".npy",)) for name in names):
        raise InputError(f"{path} is a NumPy archive: only PyTorch's checkpoints are read.")
    if any("archive_format" in name or name.startswith("models/") for name in inner):
        raise InputError(f"{path} is a program of torch.export, not weights.")
    if "data.pkl" not in inner:
        raise InputError(f"{path} is a zip archive: unpack it first.")
