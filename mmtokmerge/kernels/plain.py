"""When a module's weights may be read, and its output's memory reused: a module is called unless.

Other people wrap, hook, prune, quantize, freeze and checkpoint modules. Each of these changes the
module's class, gives it hooks or another ``forward``; a module without any of them does what its
class says, so a faster kernel may do it in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from mmtokmerge.kernels.linear import linear
from mmtokmerge.kernels.recording import is_recorded

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
ELEMENTWISE = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity),
    *(nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid),
    *(nn.Softplus, nn.Softsign, nn.Tanh),
)
_ACTIVATIONS = (
    "transformers.activations",
    *(f"mmcv.cnn.bricks.{name}" for name in ("activation", "hsigmoid", "hswish", "swish")),
)
"""Modules all of whose classes are such activations."""
_KNOWN = ("torch", "mmtokmerge", "mmcv", "mmengine")
_TRACKER = "torch.utils.module_tracker"
_GLOBAL_HOOKS = tuple(
    name for name in (f"_global{each}" for each in _HOOKS) if hasattr(torch_module, name)
)


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is exactly one of ``kinds``: no hook, no subclass, no other ``forward``."""
    kind: Any = type(module)
    return (
        kind in kinds
        and _is_own(kind, kind.forward)
        and not is_patched(module)
        and not has_hooks(module)
        and not has_global_hooks()
    )


@cache
def _is_own(kind: Any, forward: Any) -> bool:
    """Whether a class's ``forward`` is the one that its module, or a parent's, defines."""
    if hasattr(forward, "__wrapped__"):
        return False
    made_in = getattr(getattr(forward, "__code__", None), "co_filename", None)
    files = {getattr(sys.modules.get(base.__module__), "__file__", None) for base in kind.__mro__}
    return made_in is not None and made_in in files


def is_pointwise(module: Any) -> bool:
    """Whether a module is a plain linear layer, or a 1x1 convolution that is one."""
    if is_plain(module, nn.Linear):
        return True
    return (
        is_plain(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride == (1, 1)
        and module.padding in ((0, 0), "valid", "same")
        and module.groups == 1
    )


def is_elementwise(module: nn.Module) -> bool:
    """Whether a module is a plain activation of known classes, which looks at numbers one by one.

    Others may look at channels or at the whole map, and must be given it in its own layout.
    """
    kind = type(module)
    return is_plain(module, kind) and (kind in ELEMENTWISE or kind.__module__ in _ACTIVATIONS)


def is_patched(module: nn.Module) -> bool:
    """Whether the instance has another ``forward`` than its class.

    transformers 4 leaves the class's own ``forward`` on modules whose outputs it has recorded.
    """
    own = module.__dict__.get("forward")
    if own is None:
        return False
    same = getattr(own, "__func__", None) is getattr(type(module), "forward", None)
    return not (same and getattr(own, "__self__", None) is module)


def has_hooks(module: Any) -> bool:
    """Whether something is called before or after the module, forward or backward."""
    found = module.__dict__.get  # asked for every module of every layer: no loop
    return bool(
        found("_forward_hooks")
        or found("_forward_pre_hooks")
        or found("_backward_hooks")
        or found("_backward_pre_hooks")
    )


def has_global_hooks() -> bool:
    """Whether something is called around every module of the process.

    torch's own tracker, which counters of operations use, only notes which module runs.
    """
    for name in _GLOBAL_HOOKS:
        for hook in getattr(torch_module, name).values():
            if getattr(hook, "__module__", None) != _TRACKER:
                return True
    return False


def call_linear(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``, by the fastest exact kernel where it is a plain :class:`torch.nn.Linear`."""
    if not x.is_cuda and is_plain(module, nn.Linear):  # on a card torch's own is the fastest
        plain = cast(nn.Linear, module)
        return linear(x, plain.weight, plain.bias)
    out: Tensor = module(x)
    return out


def reuses_memory(modules: Iterable[nn.Module], x: Tensor) -> bool:
    """Whether what these modules return may be overwritten: nobody could have kept it.

    That is eagerly, without gradients, and where each module does what its class says: of torch's
    or this package's own classes, without a hook and with its class's ``forward``. On a GPU it wins
    nothing, and looking would take longer than the launch of a kernel.

    Args:
        modules: All modules that can have returned it, or a tensor that shares its memory.
        x: A tensor on the same device.
    """
    if x.is_cuda or torch.is_grad_enabled() or is_recorded() or has_global_hooks():
        return False
    return not any(
        has_hooks(module) or "forward" in module.__dict__ or not _is_known(cast(Any, type(module)))
        for module in modules
    )


@cache
def _is_known(kind: Any) -> bool:
    """Whether a class returns what it makes and keeps none of it."""
    return kind.__module__.split(".")[0] in _KNOWN
