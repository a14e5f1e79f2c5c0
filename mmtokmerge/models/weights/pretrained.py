"""Backbones that begin with the weights of a file: ``init_cfg`` of type 'Pretrained'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.model import PretrainedInit, initialize
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.models.weights.fit import fit_weights, say_notes
from mmtokmerge.models.weights.grids import Grid, grid_of
from mmtokmerge.models.weights.state_dicts import is_threshold, state_dict_of

PRETRAINED = ("Pretrained", "PretrainedInit")
Prepare = Callable[[dict[str, Tensor], Grid | None], None]
InitConfig = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


def first_weights(pretrained: str | None, init_cfg: InitConfig) -> InitConfig:
    """One ``init_cfg`` of mmseg's two names for it.

    Raises:
        InputError: Both are given.
        InputTypeError: ``pretrained`` is no path.
    """
    if pretrained is None:
        return init_cfg
    if not isinstance(pretrained, str):
        raise InputTypeError(f"pretrained must be a path, a URL or None, got {pretrained!r}")
    if init_cfg is not None:
        raise InputError(
            f"pretrained={pretrained!r} and init_cfg={init_cfg!r} both name the first weights: "
            "give init_cfg alone"
        )
    return {"type": "Pretrained", "checkpoint": pretrained}


def initialise(
    backbone: nn.Module,
    init_cfg: InitConfig,
    from_scratch: Callable[[], None],
    prepare: Prepare | None = None,
) -> None:
    """Give a backbone its first weights.

    Args:
        backbone: What is initialised.
        init_cfg: mmengine's, a dict or a list of dicts; None initialises from scratch.
        from_scratch: Does that.
        prepare: Changes a published checkpoint's weights, in place, for this backbone.

    Raises:
        InputTypeError: ``init_cfg`` is neither a dict nor a list of dicts.
        InputError: A pretrained checkpoint cannot be read or does not fit.
    """
    if init_cfg is None or (isinstance(init_cfg, (list, tuple)) and not init_cfg):
        from_scratch()
        return
    configs = [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg
    if not isinstance(configs, (list, tuple)) or not all(isinstance(c, Mapping) for c in configs):
        raise InputTypeError(f"init_cfg must be a dict or a list of dicts, got {init_cfg!r}")
    others = [dict(config) for config in configs if config.get("type") not in PRETRAINED]
    if others:
        initialize(backbone, others)
    for config in configs:
        if config.get("type") in PRETRAINED:
            load_pretrained(backbone, config, prepare)


def load_pretrained(
    backbone: nn.Module,
    config: Mapping[str, Any],
    prepare: Prepare | None = None,
    *,
    training: bool = False,
) -> None:
    """Load what a config of type 'Pretrained' names; see :func:`initialise`.

    ``training`` is :func:`mmtokmerge.models.weights.fit.fit_weights`'s.
    """
    path = config.get("checkpoint")
    if not isinstance(path, str) or not path:
        raise InputError(f"init_cfg.checkpoint must be a path or a URL, got {path!r}")
    content = CheckpointLoader.load_checkpoint(path, map_location="cpu")
    weights: Any = content
    prefix, grid = config.get("prefix"), None
    if prefix is not None and not isinstance(prefix, str):
        raise InputTypeError(f"init_cfg.prefix must be a text such as 'backbone.', got {prefix!r}")
    if prefix:
        weights = state_dict_of(content, path)
        prefix = prefix if prefix.endswith(".") else f"{prefix}."
        grid = grid_of(content, prefix)
        weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        if not weights:
            raise InputError(f"init_cfg.prefix={prefix!r}: no key of {path} begins with it.")
    fitted = fit_weights(
        backbone,
        weights,
        path,
        training=training,
        may_lack=is_threshold,
        prepare=prepare,
        grid=grid,
    )
    say_notes(fitted)
    backbone.load_state_dict(fitted.weights, strict=False)


class CheckedPretrained(PretrainedInit):
    """mmengine's initialisation from a file, for modules that do not load by themselves.

    A segmentor, a pose estimator, a head or a neck gets every weight that it has, or the run ends;
    a backbone of another package gets what mmengine gives it, at least half of its weights.
    """

    def __call__(self, module: nn.Module) -> None:
        """Load the file's weights.

        Raises:
            InputError: They do not fit the module.
        """
        config = {"checkpoint": self.checkpoint, "prefix": self.prefix}
        name = type(module).__name__
        if hasattr(module, "backbone"):
            load_pretrained(module, config, training=True)
        elif "Head" in name or "Neck" in name:
            load_pretrained(module, config)
        else:
            found = self._weights()
            own = dict(module.named_parameters())
            fits = sum(key in found and found[key].shape == own[key].shape for key in own)
            if fits < len(own) / 2:
                raise InputError(
                    f"init_cfg.checkpoint {self.checkpoint} has {fits} of the {len(own)} weights "
                    f"of {name}: it is another model's, or its keys need init_cfg.prefix"
                )
            super().__call__(module)

    def _weights(self) -> dict[str, Tensor]:
        """The file's weights under the keys by which mmengine looks for them."""
        content = CheckpointLoader.load_checkpoint(self.checkpoint, map_location="cpu")
        weights = state_dict_of(content, self.checkpoint)
        bare = {key.removeprefix("module."): value for key, value in weights.items()}
        prefix = f"{self.prefix.rstrip('.')}." if self.prefix else ""
        return {k.removeprefix(prefix): v for k, v in bare.items() if k.startswith(prefix)}


def check_pretrained() -> None:
    """Let every ``init_cfg`` of type 'Pretrained' be checked."""
    for name in PRETRAINED:
        WEIGHT_INITIALIZERS.register_module(name=name, module=CheckedPretrained, force=True)


def read_thresholds(path: str, names: Sequence[str]) -> dict[str, float]:
    """The thresholds that ``tools/calibrate_threshold.py`` wrote into a checkpoint.

    Args:
        path: The checkpoint.
        names: The ends of their keys, such as 'reducers.0.tau'.

    Raises:
        InputError: It holds none, or lacks one of them.
    """
    content = CheckpointLoader.load_checkpoint(path, map_location="cpu")
    weights = state_dict_of(content, path)
    found: dict[str, float] = {}
    for name in names:
        values = [value for key, value in weights.items() if key.endswith(name)]
        if not values or bool(values[0].isnan()):
            raise InputError(
                f"calibration={path!r} holds no {name}: it must be a checkpoint that "
                "tools/calibrate_threshold.py wrote for this config"
            )
        found[name] = float(values[0])
    return found
