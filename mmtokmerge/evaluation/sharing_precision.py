"""How often a superpatch that a policy picks holds a single class (CTS, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from mmtokmerge.errors import InputError
from mmtokmerge.merging.superpatch_sharing import fraction_of
from mmtokmerge.registry import METRICS


@METRICS.register_module()
class SharingPrecision(BaseMetric):
    """Precision of the S highest-scoring superpatches of each image, and accuracy, in percent.

    Precision is pooled over the set: right picks over picks. Superpatches that lie half outside
    the grid of patches, which never share, and ignored ones take no part. Beside the network's
    precision stand those of a random choice (the share of superpatches that hold one class) and of
    the best possible one (every right superpatch first), which the same labels allow.

    Args:
        num_shared: S, an int, or a fraction of the whole superpatches of each image.
        patch_size: Side of a patch in pixels; the image's size decides which cells are whole.
        ignore_index: Label that takes no part.
        collect_device: MMEngine's.
        prefix: MMEngine's.

    Raises:
        ValueError: If ``num_shared`` is neither an int from 1 up nor a fraction up to 1.
    """

    def __init__(
        self,
        num_shared: int | float = 0.4,
        patch_size: int = 16,
        ignore_index: int = 255,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        is_int = isinstance(num_shared, int) and not isinstance(num_shared, bool)
        is_fraction = isinstance(num_shared, float) and 0 < num_shared <= 1
        if not (is_fraction or (is_int and num_shared >= 1)):
            raise InputError(
                f"num_shared={num_shared!r} must be an int from 1 up, or a fraction of the "
                "superpatches, above 0 and at most 1"
            )
        self.num_shared = num_shared
        self.patch_size = patch_size
        self.ignore_index = ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count right picks of each sample's ``sharing_scores`` against its ``gt_sem_seg``."""
        for sample in data_samples:
            scores = sample["sharing_scores"]["data"][0].float().cpu()  # (Hs, Ws)
            labels = sample["gt_sem_seg"]["data"][0].cpu()
            if scores.shape != labels.shape:
                raise InputError(
                    f"scores of {tuple(scores.shape)} superpatches do not fit labels of "
                    f"{tuple(labels.shape)} of {sample.get('img_path')}: the test pipeline needs "
                    "mmtokmerge.GenerateSharingTargets with the policy's cell"
                )
            cells = tuple(-(-side // (2 * self.patch_size)) for side in sample["img_shape"][:2])
            if tuple(scores.shape) != cells:
                raise InputError(
                    f"SharingPrecision with patch_size={self.patch_size} expects {cells[0]}x"
                    f"{cells[1]} superpatches of {sample.get('img_path')}, got "
                    f"{scores.shape[0]}x{scores.shape[1]}: a superpatch is 2x2 patches, the "
                    "policy's cell"
                )
            rows, columns = (-(-side // self.patch_size) // 2 for side in sample["img_shape"][:2])
            scores, labels = scores[:rows, :columns].flatten(), labels[:rows, :columns].flatten()
            self.results.append(self._count(scores, labels))

    def _count(self, scores: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        whole = len(scores)
        number = self.num_shared
        wanted = fraction_of(number, whole) if isinstance(number, float) else number
        picks = scores.topk(min(wanted, whole)).indices
        counted = labels != self.ignore_index
        share = (labels == 1) & counted
        picked = int(counted[picks].sum())
        single, total = int(share.sum()), int(counted.sum())
        return dict(
            picked=picked,
            right=int(share[picks].sum()),
            oracle=min(single, picked),
            by_chance=picked * single / total if total else 0.0,
            single=single,
            total=total,
            correct=int((((scores > 0.5) == share) & counted).sum()),
        )

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """``precision``, ``precision_random``, ``precision_oracle``, ``accuracy``, ``single``."""
        sums = {key: sum(result[key] for result in results) for key in results[0]}
        picked, total = max(sums["picked"], 1), max(sums["total"], 1)
        return {
            "precision": round(100 * sums["right"] / picked, 2),
            "precision_random": round(100 * sums["by_chance"] / picked, 2),
            "precision_oracle": round(100 * sums["oracle"] / picked, 2),
            "accuracy": round(100 * sums["correct"] / total, 2),
            "single": round(100 * sums["single"] / total, 2),
        }
