"""What torch is asked to do: the operators called and the largest tensor they make."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Watch(TorchDispatchMode):
    """Record the names of the operators inside the block and the most elements of a result."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        for leaf in tree_leaves(result):
            # A broadcast view holds no more memory than what it views.
            if isinstance(leaf, torch.Tensor) and 0 not in leaf.stride():
                self.largest = max(self.largest, leaf.numel())
        return result
