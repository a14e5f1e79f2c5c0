"""When a kernel may be launched without torch's operator around it, which takes longer than it."""

from __future__ import annotations

import torch
from torch import Tensor


def is_direct(x: Tensor) -> bool:
    """Whether nobody but the device needs to know: no gradients, compiler, counter or fake tensor.

    An operator's way through torch takes some 20 us of a CPU, and at inference a layer has several
    kernels that are done in less.
    """
    return (
        type(x) is Tensor
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )
