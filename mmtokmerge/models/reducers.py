"""The reducers of a plain ViT, registered; a config lists them in ``reducers``."""

from __future__ import annotations

import inspect

from mmtokmerge.layers import reducers
from mmtokmerge.registry import MODELS

for _name in reducers.__all__:
    _reducer = getattr(reducers, _name)
    if not inspect.isabstract(_reducer):
        MODELS.register_module(module=_reducer)
