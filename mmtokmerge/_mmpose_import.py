"""Import MMPose on machines where it does not import by itself, and leave no trace of how.

Two of its needs are compiled and often missing or unusable: ``mmcv.ops``, which ``edpose_head``
imports unguarded, and the mask routines of ``xtcocotools``, whose wheel is built for numpy 1.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from mmtokmerge.errors import InputError
from mmtokmerge.quiet import quiet_imports

OPERATORS = "mmcv.ops"
MASKS = "xtcocotools._mask"


def import_mmpose() -> ModuleType:
    """Import MMPose, its models, codecs, datasets and metrics registered; return ``mmpose``.

    Call it instead of ``import mmpose``; a second call costs nothing. Where operators are compiled
    they are used; ``sys.modules`` holds no stand-in afterwards, also when the import fails.

    Raises:
        ImportError: MMPose, or a package that it needs, is not installed.
    """
    with ExitStack() as stack:
        if importlib.util.find_spec("mmcv._ext") is None:
            stack.enter_context(_stand_in(OPERATORS, _placeholder_operators()))
        if not _imports(MASKS):
            masks = importlib.import_module("pycocotools._mask")
            stack.enter_context(_stand_in(MASKS, masks))
        stack.enter_context(quiet_imports())  # of packages for tasks that are not used
        importlib.import_module("mmpose.utils").register_all_modules(init_default_scope=False)
    return sys.modules["mmpose"]


@contextmanager
def _stand_in(name: str, module: ModuleType) -> Iterator[None]:
    """Let ``module`` answer to ``name`` inside the block, unless ``name`` is already imported."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


def _imports(name: str) -> bool:
    """Whether ``name`` imports, or its package is absent and the import of MMPose should say so."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return True
    try:
        importlib.import_module(name)
    except (ImportError, ValueError):  # ValueError: built for another numpy
        return False
    return True


def _placeholder_operators() -> ModuleType:
    """A ``mmcv.ops`` with the one name that MMPose imports unguarded; any other name is missing."""
    from torch import nn

    class MultiScaleDeformableAttention(nn.Module):
        """Stands for the compiled operator; building it is an error."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise InputError(
                "MultiScaleDeformableAttention needs MMCV's compiled operators, which are not "
                "installed here; `mmtokmerge check` tells how to get them"
            )

    def missing(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModuleNotFoundError(f"no compiled operator {name}: MMCV was installed without them")

    module = ModuleType(OPERATORS, _placeholder_operators.__doc__)
    vars(module)["MultiScaleDeformableAttention"] = MultiScaleDeformableAttention
    vars(module)["__getattr__"] = missing
    return module
