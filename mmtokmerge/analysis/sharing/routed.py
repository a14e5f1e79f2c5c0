"""A data set whose images are processed by one of several models each (CTS, table 7b)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import Evaluator

from mmtokmerge.analysis.sharing.models import (
    Loaded,
    evaluated_miou,
    network_policy,
    patch_grid,
)
from mmtokmerge.analysis.sharing.routing import count_shareable, route, token_reduction
from mmtokmerge.errors import InputError
from mmtokmerge.measure.inputs import network_inputs
from mmtokmerge.measure.samples import Samples
from mmtokmerge.models.policies import PolicyInput


@dataclass
class Routed:
    """What each model was given, and what all together reached.

    Args:
        reductions: For each model, percent of tokens saved on each image of the set.
        chosen: For each image the index of the model that processed it.
        shareable: S* of each image.
        miou: mIoU of all images by their chosen models, in percent.
        alone: mIoU of each model over all images; empty where that was not asked for.
    """

    reductions: list[list[float]]
    chosen: list[int] = field(default_factory=list)
    shareable: list[float] = field(default_factory=list)
    miou: float = 0.0
    alone: list[float] = field(default_factory=list)

    @property
    def combined_reduction(self) -> float:
        """Mean of the tokens saved on each image by its chosen model, in percent."""
        return fmean(self.reductions[model][image] for image, model in enumerate(self.chosen))


def find_policy(models: Sequence[Loaded]) -> Loaded:
    """The first model with a policy network, which looks at every image.

    Raises:
        InputError: If there is none, or two models share equally much, so that one never works.
    """
    deciding = [each for each in models if network_policy(each.cfg) is not None]
    if not deciding:
        raise InputError(
            "route needs a --model whose model.backbone.sharing.policy is a "
            "mmtokmerge.NetworkPolicy: its scores say how many superpatches may share."
        )
    settings = [0 if each.sharing is None else each.sharing.num_shared for each in models]
    for index, setting in enumerate(settings):
        if setting is not None and setting in settings[:index]:
            raise InputError(
                f"{models[index].name} has the same num_shared={setting} as another --model: no "
                "image would go to it."
            )
    return deciding[0]


@torch.no_grad()
def route_images(
    models: Sequence[Loaded],
    samples: Samples,
    evaluator: ConfigDict | Sequence[ConfigDict],
    threshold: float,
    alone: bool = False,
    advance: Callable[[], None] = lambda: None,
    seed: int = 0,
) -> Routed:
    """Let the model with the highest setting S below S* process each image.

    Args:
        models: At least one has a policy network, the first of which scores all images.
        samples: The images.
        evaluator: Config of the evaluator; one of its metrics gives 'mIoU'.
        threshold: Superpatches with a higher score count for S*.
        alone: Also evaluate each model on all images.
        advance: Called after each image.
        seed: Random seed for what a policy draws.

    Raises:
        InputError: If no model has a policy network, a model has no fixed S, two have the same, or
            the evaluator gives no mIoU.
    """
    judge = find_policy(models)
    torch.manual_seed(seed)
    combined, *each_alone = (Evaluator(evaluator) for _ in range(1 + alone * len(models)))
    for one in (combined, *each_alone):
        one.dataset_meta = samples.metainfo
    found = Routed([[] for _ in models])
    for batch in samples:
        shareable, hw = judge_image(judge, batch, threshold)
        settings = [model.num_shared(hw) for model in models]
        choice = route(settings, shareable)
        found.chosen.append(choice)
        found.shareable.append(shareable)
        for reductions, setting in zip(found.reductions, settings):
            reductions.append(token_reduction(setting, hw))
        for index, model in enumerate(models):
            if index == choice or alone:
                predicted = model.model.test_step(batch)
                if index == choice:
                    combined.process(predicted, batch)
                if alone:
                    each_alone[index].process(predicted, batch)
        advance()
    found.miou = evaluated_miou(combined, len(samples))
    found.alone = [evaluated_miou(one, len(samples)) for one in each_alone]
    return found


def judge_image(
    judge: Loaded, batch: dict[str, Any], threshold: float
) -> tuple[float, tuple[int, int]]:
    """S* of an image by a model's policy, the mean over its windows if any, and the grid."""
    counts = []
    for image in network_inputs(judge.model, batch):
        hw = patch_grid(judge.model, image)
        patch = judge.model.backbone.patch_size
        inputs = PolicyInput(image, hw, patch, judge.sharing.normalisation)
        counts.append(int(count_shareable(judge.sharing.policy(inputs), hw, threshold)))
    return fmean(counts), hw
