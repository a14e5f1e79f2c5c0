"""timm's ImageNet weights for the part of a network that a backbone keeps."""

from __future__ import annotations

from mmengine.logging import print_log
from torch import nn

from mmtokmerge.errors import InputError
from mmtokmerge.models.weights.hosts import load_from_hosts
from mmtokmerge.models.weights.state_dicts import state_dict_of

INSIDE = "model."
"""What timm puts before the keys of a network whose maps it takes by hooks."""


def load_imagenet(network: nn.Module | None, name: str | None) -> None:
    """Load the weights that timm publishes for ``name`` into its network, which may be cut short.

    Args:
        network: Made by timm, with ``features_only=True`` for example.
        name: timm's name of it.

    Raises:
        InputError: It is no network of timm's, timm publishes no weights for it, they cannot be
            fetched, or they do not fit.
    """
    import timm

    if network is None or name is None:
        raise InputError(
            "pretrained=True takes a backbone of timm (TIMMBackbone with model_name); set "
            "pretrained=False and give backbone.init_cfg"
        )
    found = timm.get_pretrained_cfg(name)
    url = None if found is None else found.url
    if not url:
        raise InputError(f"pretrained=True: timm publishes no file of weights for {name}")
    weights = state_dict_of(load_from_hosts(url, "cpu"), url)
    wanted = network.state_dict()
    taken = {key: weights.get(key.removeprefix(INSIDE)) for key in wanted}
    missing = [key for key, value in taken.items() if value is None]
    if missing:
        raise InputError(f"{url} does not hold {missing[0]} of {name}, nor {len(missing) - 1} more")
    wrong = [key for key, value in wanted.items() if taken[key].shape != value.shape]
    if wrong:
        raise InputError(f"{wrong[0]} of {url} has another shape than {name} has")
    network.load_state_dict(taken)
    print_log(f"{name} begins with ImageNet's weights, from {url}", "current")
