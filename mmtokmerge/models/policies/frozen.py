"""A network that a policy asks and nobody trains, with weights of its own file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.models.policies.base import Normalisation
from mmtokmerge.models.weights.fit import fit_weights
from mmtokmerge.registry import MODELS


class FrozenNetwork:
    """A model that stays as its checkpoint is: in eval mode, without gradients, in no state dict.

    It is no submodule: whatever trains, saves or averages the model around it leaves it alone. Its
    weights come from a path, not from the checkpoint of the model around it.

    Args:
        config: The network, with a data preprocessor, whose normalisation it is fed in.
        checkpoint: The network's weights, a file or a URL. None builds, but cannot run.
        key: What error sentences call the checkpoint, such as 'sharing.policy.checkpoint'.

    Raises:
        TypeError: If the config is no dict with a type.
    """

    def __init__(self, config: Mapping[str, Any], checkpoint: str | None, key: str) -> None:
        if not isinstance(config, Mapping) or "type" not in config:
            raise InputTypeError(f"the network of {key} must be a dict with type, got {config!r}")
        if checkpoint is not None and not isinstance(checkpoint, str):
            raise InputTypeError(f"{key} must be a path, got {checkpoint!r}")
        with DefaultScope.overwrite_default_scope("mmseg"):
            model = revert_sync_batchnorm(MODELS.build(dict(config)))
        model = model.eval().requires_grad_(False)
        # Depthwise convolutions, which policies are made of, are faster so on CPU and GPU.
        self.model: nn.Module = model.to(memory_format=torch.channels_last)
        self.checkpoint = checkpoint
        self.key = key
        self.normalisation = Normalisation.of(model.data_preprocessor)
        self._loaded = False

    def load(self) -> None:
        """Read the checkpoint, once.

        Raises:
            ValueError: If there is none, it is missing or damaged, or not all of it fits.
        """
        if self._loaded:
            return
        if self.checkpoint is None:
            raise InputError(
                f"{self.key} is None: name the file of the trained network, e.g. with "
                f"--cfg-options model.backbone.{self.key}=WEIGHTS.pth"
            )
        content = self._read(self.checkpoint)
        try:
            fitted = fit_weights(self.model, content, self.checkpoint)
        except InputError as error:
            raise InputError(f"{self.key} does not fit its network: {error}") from error
        self.model.load_state_dict(fitted.weights, strict=False)
        self._loaded = True

    @torch.no_grad()
    def run(self, method: str, images: Tensor) -> Any:
        """Call a method of the network on ``images (B, 3, H, W)`` in its own normalisation."""
        self.load()
        return getattr(self.model, method)(images.contiguous(memory_format=torch.channels_last))

    def _read(self, path: str) -> Any:
        try:
            return CheckpointLoader.load_checkpoint(path, map_location="cpu")
        except InputError as error:
            raise InputError(f"{self.key}={path!r} cannot be loaded: {error}") from error
        except Exception as error:
            raise InputError(f"{self.key}={path!r} cannot be loaded ({error})") from error


class HoldsNetwork:
    """Moves and casts a :class:`FrozenNetwork` with the module that holds it as ``network``."""

    network: FrozenNetwork

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        # A mixin: the class beside it is a Module.
        super()._apply(fn, *args, **kwargs)  # type: ignore[misc]
        self.network.model._apply(fn, *args, **kwargs)
        return self
