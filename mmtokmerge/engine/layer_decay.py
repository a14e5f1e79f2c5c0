"""Learning rates that fall from a plain ViT's last layer to its first, as large ones are tuned."""

from __future__ import annotations

import re
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmtokmerge.checks import number_in, whole_number
from mmtokmerge.errors import InputError
from mmtokmerge.registry import OPTIM_WRAPPER_CONSTRUCTORS

PLACES = ("pos_embed", "cls_token", "dist_token", "relative_position_bias_table")
_LAYER = re.compile(r"^backbone\.(?:vit\.)?layers\.(\d+)\.")
_EMBED = re.compile(r"^backbone\.(?:vit\.)?(?:patch_embed|pos_embed|cls_token|dist_token)\b")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Multiplies the learning rate by ``decay_rate`` once for each layer behind a parameter's own.

    Layers are those of a plain ViT, the backbone or an adapter's ``vit``; its embedding lies before
    the first, and everything else, adapter and head, learns at the full rate. Biases, norms, scales
    and positions have no weight decay. (As BEiT's and EVA's fine-tuning.)

    ``paramwise_cfg`` takes ``num_layers`` and ``decay_rate``.

    Raises:
        ValueError: One of them is missing, out of range, or the model has other layers.
    """

    def __call__(self, model: nn.Module) -> Any:
        """The optimizer's wrapper of a model."""
        if not self.paramwise_cfg:  # mmengine would put all parameters into one group
            raise InputError(
                "optim_wrapper.paramwise_cfg of LayerDecayConstructor takes num_layers and "
                "decay_rate, got none"
            )
        return super().__call__(model)

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        """Add a group of parameters for each rate, with and without weight decay."""
        config = self.paramwise_cfg
        unknown = set(config) - {"num_layers", "decay_rate"}
        if unknown or len(config) != 2:
            raise InputError(
                "optim_wrapper.paramwise_cfg of LayerDecayConstructor takes num_layers and "
                f"decay_rate, got {sorted(config)}"
            )
        depth = whole_number("num_layers", config["num_layers"], 1)
        rate = float(number_in("decay_rate", config["decay_rate"], 0, 1))
        groups: dict[tuple[int, bool], dict[str, Any]] = {}
        found = set()
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            layer = _LAYER.match(name)
            place = depth + 1 if layer is None else int(layer[1]) + 1
            if layer is not None:
                found.add(int(layer[1]))
            elif _EMBED.match(name):
                place = 0
            decays = parameter.dim() > 1 and not name.endswith(PLACES)
            scale = rate ** (depth + 1 - place)
            group = dict(params=[], lr=self.base_lr * scale, lr_scale=scale)
            if not decays or self.base_wd is not None:
                group["weight_decay"] = self.base_wd if decays else 0.0
            groups.setdefault((place, decays), group)["params"].append(parameter)
        if found != set(range(depth)):
            raise InputError(
                f"optim_wrapper.paramwise_cfg.num_layers={depth}, but the backbone has "
                f"{len(found)} layers of a plain ViT"
            )
        params.extend(groups[key] for key in sorted(groups))
