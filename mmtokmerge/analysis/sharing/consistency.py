"""What a vote for one class in each shared token's pixels does to the mIoU (CTS, table 7a)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from torch import Tensor

from mmtokmerge.analysis.sharing.majority_vote import majority_vote, shared_regions
from mmtokmerge.analysis.sharing.models import Loaded, evaluated_miou
from mmtokmerge.errors import InputError
from mmtokmerge.measure.samples import Samples
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.trace import trace


@dataclass(frozen=True)
class Consistency:
    """One model with and without the vote.

    Args:
        model: The name of the model.
        reduction: Percent of the patches that sharing saves as tokens, the mean over the images.
        default: mIoU in percent as predicted.
        one_class: mIoU in percent after the vote.
        changed: Percent of all pixels whose class the vote changes.
    """

    model: str
    reduction: float
    default: float
    one_class: float
    changed: float

    @property
    def difference(self) -> float:
        """Percentage points of mIoU that the vote adds."""
        return self.one_class - self.default

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {**asdict(self), "difference": self.difference}


def check_votable(loaded: Loaded) -> None:
    """Raise InputError unless the model shares tokens and predicts whole images."""
    if loaded.sharing is None:
        raise InputError(
            f"The backbone of {loaded.cfg.filename} has no sharing, so no pixels share a token."
        )
    mode = (getattr(loaded.model, "test_cfg", None) or {}).get("mode", "whole")
    if mode != "whole":
        raise InputError(
            f"model.test_cfg.mode of {loaded.cfg.filename} is {mode!r}, but the vote needs "
            "'whole': windows overlap, and each shares tokens of its own. Add --cfg-options "
            "model.test_cfg.mode=whole."
        )


@torch.no_grad()
def measure_consistency(
    loaded: Loaded,
    samples: Samples,
    evaluator: ConfigDict | Sequence[ConfigDict],
    advance: Callable[[], None] = lambda: None,
    seed: int = 0,
) -> Consistency:
    """Evaluate a model's predictions as they are, and with a vote in each shared superpatch.

    Args:
        loaded: The model.
        samples: The images.
        evaluator: Config of the evaluator; one of its metrics gives 'mIoU'.
        advance: Called after each image.
        seed: Random seed for what a policy draws.

    Raises:
        InputError: If the model cannot be voted on, or the evaluator gives no mIoU.
    """
    check_votable(loaded)
    torch.manual_seed(seed)
    evaluators = [Evaluator(evaluator) for _ in range(2)]
    reductions, changed, pixels = [], 0, 0
    for each in evaluators:
        each.dataset_meta = samples.metainfo
    for batch in samples:
        with trace(loaded.model) as merges:
            (sample,) = loaded.model.test_step(batch)
        evaluators[0].process([sample], batch)
        sharing = merges.sharing
        before = sample.pred_sem_seg.data[0]
        after = before if sharing is None else vote(loaded.model, sample, sharing)
        tokens = 1.0 if sharing is None else int((sharing.sizes > 0).sum()) / sharing.num_tokens
        reductions.append(100 * (1 - tokens))
        changed += int((after != before).sum())
        pixels += before.numel()
        sample.set_data({"pred_sem_seg": PixelData(data=after[None])})
        evaluators[1].process([sample], batch)
        advance()
    default, one_class = (evaluated_miou(each, len(samples)) for each in evaluators)
    return Consistency(
        loaded.name, fmean(reductions), default, one_class, 100 * changed / max(pixels, 1)
    )


def vote(model: Any, sample: Any, sharing: TokenAssignment) -> Tensor:
    """The prediction ``(H, W)`` of an image, one class for each shared superpatch.

    Args:
        model: The segmentor.
        sample: What ``test_step`` returned for the image.
        sharing: Which patches shared a token in it.

    Raises:
        InputError: If the test pipeline flipped the image.
    """
    meta = sample.metainfo
    if meta.get("flip"):
        raise InputError("The vote needs a test pipeline that does not flip images.")
    left, right, top, bottom = meta.get("img_padding_size", meta.get("padding_size", (0,) * 4))
    height, width = meta["img_shape"][:2]
    patch = model.backbone.patch_size
    hw = -(-(height + top + bottom) // patch), -(-(width + left + right) // patch)
    prediction = sample.pred_sem_seg.data[0]
    regions = shared_regions(sharing, hw, (patch, patch), (height, width), prediction.shape)
    return majority_vote(prediction, regions.to(prediction.device))
