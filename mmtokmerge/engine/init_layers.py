"""The layers that an ``init_cfg`` names: MMEngine passes over a name that it does not find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from mmtokmerge.checks import did_you_mean
from mmtokmerge.errors import InputError


def check_init_layers(model: nn.Module) -> None:
    """Look up the ``layer`` of every ``init_cfg`` in a model.

    A default names layers that one model has and another has not, so a name is known if torch, the
    registry or the model has a class of it.

    Raises:
        InputError: There is no such class, so nothing would be initialised.
    """
    kinds = [kind for kind in vars(nn).values() if isinstance(kind, type)]
    known = {base.__name__ for kind in kinds for base in kind.__mro__}  # _BatchNorm too
    known |= {base.__name__ for module in model.modules() for base in type(module).__mro__}
    for path, module in model.named_modules():
        for name in _layers(getattr(module, "init_cfg", None)):
            if isinstance(name, str) and (name in known or MODELS.get(name) is not None):
                continue
            place = f"{path}.init_cfg.layer" if path else "init_cfg.layer"
            hint = did_you_mean(name, known)
            raise InputError(f"{place}={name!r} is no class of torch.nn or of this model{hint}")


def _layers(init_cfg: Any) -> Iterator[Any]:
    """Every name of a layer in an ``init_cfg``, its overrides included."""
    if isinstance(init_cfg, (list, tuple)):
        for each in init_cfg:
            yield from _layers(each)
    elif isinstance(init_cfg, Mapping):
        layer = init_cfg.get("layer")
        if layer is not None:
            yield from layer if isinstance(layer, (list, tuple)) else (layer,)
        yield from _layers(init_cfg.get("override"))
