"""Mixed precision where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmtokmerge.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """Trains in bfloat16 autocast on the CPU, where mmengine's ``AmpOptimWrapper`` refuses to.

    bfloat16 has float32's range, so there is no loss scale.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocasts the forward pass; also holds back gradient sync while accumulating."""
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield
