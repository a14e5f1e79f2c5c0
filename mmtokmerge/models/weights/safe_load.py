"""Loading checkpoints without running code that stands in them."""

from __future__ import annotations

import os
import pickle
import re
from importlib import import_module
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version

from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.file_kinds import is_safetensors, refuse_other_kinds

_KNOWS_SAFE_GLOBALS = hasattr(torch.serialization, "add_safe_globals")
_ADVICE = "" if _KNOWS_SAFE_GLOBALS else "; training checkpoints need PyTorch 2.4 or newer"


def load_weights_only(path: str, map_location: Any = None) -> Any:
    """What ``torch.load`` reads from a local file, tensors and plain values alone.

    Args:
        path: A checkpoint of this project, of mmengine, or a plain state dict.
        map_location: As for ``torch.load``.

    Raises:
        InputError: The file is missing, cut off, not a checkpoint, or would run code.
    """
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder: name the checkpoint in it.")
    if not os.path.isfile(path):
        raise InputError(f"There is no checkpoint at {path}.")
    refuse_other_kinds(path)
    if path.lower().endswith(".safetensors") or is_safetensors(path):
        return load_safetensors(path)
    _allow_training_state()
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(_refusal(path, str(error))) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise InputError(f"The checkpoint {path} is cut off or damaged.") from error


def load_safetensors(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        InputError: The file is damaged, or the package safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(f"Reading {path} needs a package: pip install safetensors") from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read: it is cut off or is not a safetensors file."
        ) from error


def load_weights_safely() -> None:
    """Make every load of this process, and of those it starts, weights-only.

    mmengine's loaders of local files go through :func:`load_weights_only`; anything else that
    calls ``torch.load`` (downloads, other packages) is forced by PyTorch's own switch.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    _allow_training_state()
    CheckpointLoader.register_scheme("", load_from_local, force=True)
    from mmtokmerge.models.weights.hosts import fetch_from_hosts  # which loads through this module

    fetch_from_hosts()


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """mmengine's loader of local files; it prints the name after ``load_from``."""
    return load_weights_only(filename, map_location)


def _history_method(owner: Any, name: str) -> Any:
    """Stands for ``getattr`` in a checkpoint: a HistoryBuffer names its statistics through it."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise pickle.UnpicklingError(f"Unsupported getattr of {name!r} on {owner!r}")
    return getattr(owner, name)


# PyTorch tells what a file may call by these names.
_history_method.__module__ = "builtins"
_history_method.__name__ = _history_method.__qualname__ = "getattr"


def _allow_training_state() -> None:
    """Let the values through that mmengine keeps in a checkpoint: log histories, NumPy scalars."""
    if not _KNOWS_SAFE_GLOBALS:
        return
    core = "numpy._core" if digit_version(np.__version__) >= digit_version("2.0") else "numpy.core"
    multiarray = import_module(f"{core}.multiarray")
    functions = [multiarray._reconstruct, multiarray.scalar]
    kinds = (np.bool_, np.int32, np.int64, np.uint8, np.float32, np.float64, np.str_)
    allowed: list[Any] = [*functions, np.ndarray, np.dtype, HistoryBuffer, _history_method]
    allowed += {type(np.dtype(kind)) for kind in kinds}
    if digit_version(torch.__version__) >= digit_version("2.6"):  # knows NumPy 1's and 2's names
        allowed += [
            (function, f"numpy.{core}.multiarray.{function.__name__}")
            for function in functions
            for core in ("core", "_core")
        ]
    torch.serialization.add_safe_globals(allowed)


def _refusal(path: str, reason: str) -> str:
    """One sentence from PyTorch's paragraphs."""
    for line in reason.splitlines():
        if re.search("unsupported|allowed global|blocked", line, re.IGNORECASE):
            detail = (
                line.split("WeightsUnpickler error: ")[-1].split(" by default. ")[0].strip(". ")
            )
            return (
                f"The checkpoint {path} is refused, since loading it would run code "
                f"that is not known to be safe ({detail}){_ADVICE}."
            )
    return f"The checkpoint {path} is cut off or is not a checkpoint."
