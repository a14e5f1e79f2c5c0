"""Where pretrained weights are fetched from: a host, others where it is down, or a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.safe_load import load_weights_only

HOSTS = ("https://download.openmmlab.com", "https://mmassets.onedl.ai")
"""OpenMMLab's host, which is often down, and that of the maintained forks: the same files."""
ENV = "MMTOKMERGE_WEIGHTS"
NAMED = (
    "modelzoo://",
    "torchvision://",
    "open-mmlab://",
    "openmmlab://",
    "mmcls://",
    "mmpretrain://",
)
"""How mmengine is told names of published weights in the place of URLs."""


def places(url: str) -> Iterator[str]:
    """Where the file of a URL may be, in order: folders and URLs.

    Args:
        url: The URL of a checkpoint.

    Yields:
        The folder or host that :data:`ENV` names, the URL itself, and the other hosts of the file.
    """
    known = next((host for host in HOSTS if url.startswith(f"{host}/")), None)
    path = url.removeprefix(known) if known else urlsplit(url).path
    named = os.environ.get(ENV, "").rstrip("/")
    if named:
        is_url = named.startswith(("http://", "https://"))
        yield f"{named}{path}" if is_url else str(Path(named).expanduser() / Path(path).name)
    yield url
    if known:
        yield from (f"{host}{path}" for host in HOSTS if host != known)


def load_from_hosts(filename: str, map_location: Any = None, **_: Any) -> Any:
    """mmengine's loader of URLs: from torch's cache, else from the first place that has the file.

    Of several processes the first fetches, as mmengine does, and the others wait for it.

    Raises:
        InputError: No place has it, or it is no checkpoint.
    """
    if get_rank() != 0:
        barrier()
        return _load(filename, map_location)
    try:
        return _load(filename, map_location)
    finally:
        barrier()


def _load(filename: str, map_location: Any) -> Any:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = Path(urlsplit(filename).path).name
    cached = folder / name
    if cached.is_file():
        return load_weights_only(str(cached), map_location)
    tried = []
    for place in places(filename):
        if not place.startswith(("http://", "https://")):
            if Path(place).is_file():
                return load_weights_only(place, map_location)
            tried.append(f"{place} (no such file)")
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            print_log(f"Downloading {place} to {cached}", "current")
            torch.hub.download_url_to_file(place, str(cached), progress=False)
        except (URLError, OSError) as error:
            tried.append(f"{place} ({error})")
            continue
        try:
            return load_weights_only(str(cached), map_location)
        except InputError:
            cached.unlink()  # a page in its place must not be taken for it next time
            raise
    raise InputError(
        f"{name} could not be fetched from {'; '.join(tried)}. Fetch it by other means and put it "
        f"at {cached}, or set {ENV} to the folder or the host that has it."
    )


def _saying_what_failed(loader: Any) -> Any:
    """A loader of mmengine's whose failure to find or fetch a file is one sentence."""

    def load(filename: str, map_location: Any = None, **kwargs: Any) -> Any:
        try:
            return loader(filename, map_location, **kwargs)
        except KeyError as error:
            raise InputError(f"{filename} names no published weights that are known") from error
        except (URLError, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{filename} could not be fetched ({error}): fetch the file by other means and "
                "name its path"
            ) from error

    return load


def fetch_from_hosts() -> None:
    """Make mmengine fetch every URL of this process through :func:`load_from_hosts`.

    Its other names of published weights, such as ``torchvision://resnet50``, end in a sentence
    where they cannot be found or fetched.
    """
    for scheme in NAMED:
        loader = CheckpointLoader._schemes.get(scheme)
        if loader is not None and loader.__qualname__ != "_saying_what_failed.<locals>.load":
            CheckpointLoader.register_scheme(scheme, _saying_what_failed(loader), force=True)
    for scheme in ("http://", "https://"):
        CheckpointLoader.register_scheme(scheme, load_from_hosts, force=True)
