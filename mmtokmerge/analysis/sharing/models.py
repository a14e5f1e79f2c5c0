"""Models that share tokens by CTS: loaded with their policy's weights, their S, their tokens."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from torch import Tensor

from mmtokmerge.analysis.plain_vit import PATCHES
from mmtokmerge.engine.loading import load_model, read_config
from mmtokmerge.errors import InputError
from mmtokmerge.measure.evaluate import METRIC
from mmtokmerge.merging.superpatch_sharing import count_shared
from mmtokmerge.merging.trace import trace
from mmtokmerge.models.backbones import VisionTransformer

SHARED, OUTPUT = "after sharing", "output"


@dataclass(frozen=True)
class Loaded:
    """A model of the command line.

    Args:
        name: The config's, numbered where several have the same.
        cfg: The model's config, overridden.
        checkpoint: Path of its weights.
        model: The segmentor in eval mode.
    """

    name: str
    cfg: Config
    checkpoint: str
    model: Any

    @property
    def sharing(self) -> Any:
        """The backbone's token sharing, None where it has none."""
        return getattr(self.model.backbone, "sharing", None)

    def num_shared(self, hw: tuple[int, int]) -> int:
        """S on a grid of ``hw`` patches, 0 without sharing.

        Raises:
            InputError: If the model shares by a threshold: S then depends on the image.
        """
        if self.sharing is None:
            return 0
        if self.sharing.num_shared is None:
            raise InputError(
                f"{self.name} shares by sharing.threshold={self.sharing.threshold}, so it has no "
                "setting S: give models with sharing.num_shared."
            )
        return count_shared(self.sharing.num_shared, hw)


def load_models(args: Namespace, pairs: Sequence[Sequence[str]]) -> list[Loaded]:
    """Load each CONFIG CHECKPOINT with ``args.policy`` as its policy network's weights.

    Raises:
        InputError: If a config, a checkpoint or the policy's is wrong, or ``args.policy`` is given
            and no config has a policy network.
    """
    stems = [Path(config).stem for config, _ in pairs]
    configs = [read_config(Namespace(config=c, cfg_options=args.cfg_options)) for c, _ in pairs]
    asking = [network for cfg in configs if (network := network_policy(cfg)) is not None]
    if args.policy is not None:
        if not asking:
            raise InputError(
                f"--policy {args.policy} does nothing: no config has a model.backbone.sharing "
                "with a mmtokmerge.NetworkPolicy."
            )
        for network in asking:
            network["checkpoint"] = args.policy
    loaded = []
    for index, ((_, checkpoint), stem, cfg) in enumerate(zip(pairs, stems, configs)):
        name = stem if stems.count(stem) == 1 else f"{stem} #{stems[: index + 1].count(stem)}"
        model = load_model(
            cfg, checkpoint, args.device, backbone=VisionTransformer, uncalibrated=True
        ).model
        loaded.append(Loaded(name, cfg, checkpoint, model))
        if loaded[-1].sharing is not None:
            loaded[-1].sharing.policy.check()
    return loaded


def network_policy(cfg: Config) -> dict[str, Any] | None:
    """The config of the model's NetworkPolicy, None where it has another policy or none."""
    sharing = cfg.get("model", {}).get("backbone", {}).get("sharing") or {}
    policy = sharing.get("policy") or {}
    return policy if policy.get("type", "").split(".")[-1] == "NetworkPolicy" else None


def check_same_data(models: Sequence[Loaded]) -> None:
    """Raise InputError unless all configs test on the same data with the same pipeline."""
    first, *others = models
    for other in others:
        for key in ("test_dataloader.dataset", "test_evaluator"):
            if _get(first.cfg, key) != _get(other.cfg, key):
                raise InputError(
                    f"{key} of {other.cfg.filename} is not that of {first.cfg.filename}: models "
                    "are compared on the same images, prepared and evaluated the same way."
                )


def check_evaluator(loaded: Loaded) -> None:
    """Raise InputError unless the config says how to evaluate."""
    if "test_evaluator" not in loaded.cfg:
        raise InputError(f"The config {loaded.cfg.filename} has no test_evaluator.")


def patch_grid(model: Any, image: Tensor) -> tuple[int, int]:
    """Rows and columns of a backbone's patches of images ``(B, C, H, W)``."""
    patch = model.backbone.patch_size
    return -(-image.shape[2] // patch), -(-image.shape[3] // patch)


def evaluated_miou(evaluator: Evaluator, count: int) -> float:
    """The mIoU, in percent, of the ``count`` images that an evaluator has processed.

    Raises:
        InputError: If none of its metrics gives one.
    """
    metrics = evaluator.evaluate(count)
    if METRIC not in metrics:
        found = ", ".join(metrics) or "nothing"
        raise InputError(f"The config's test_evaluator gives no {METRIC}, but {found}.")
    return float(metrics[METRIC])


@contextmanager
def count_shared_tokens(backbone: Any) -> Iterator[Mapping[str, int]]:
    """Count the tokens of the one image that is run while it is open, sharing on or off.

    Yields:
        A dict that is filled when the context ends: 'patches', 'after sharing' and 'output', which
        is less where reducers merge further.
    """
    counts: dict[str, int] = {}
    with trace(backbone) as merges:
        yield counts
    whole, shared = merges.assignment, merges.sharing
    if whole is None:
        return
    counts[PATCHES] = whole.num_tokens
    counts[SHARED] = whole.num_tokens if shared is None else int((shared.sizes > 0).sum())
    counts[OUTPUT] = int((whole.sizes > 0).sum())


def _get(cfg: Config, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part) or {}
    return node
