"""mIoU, tokens, FLOPs and speed of models that share more or less (CTS, table 1, figure 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mmtokmerge.analysis.plain_vit import PATCHES
from mmtokmerge.analysis.sharing.models import OUTPUT, SHARED, Loaded
from mmtokmerge.analysis.similarity.labelled import labels_of
from mmtokmerge.errors import InputError
from mmtokmerge.measure.evaluate import Measurement, Setting
from mmtokmerge.measure.inputs import normalised
from mmtokmerge.measure.samples import Samples
from mmtokmerge.models.overrides import NUM_SHARED, merging_as
from mmtokmerge.reporting.tables import signed

Number = int | float


class LabelledSamples(Samples):
    """Samples that keep the labels of the image at hand, for policies that look at them.

    FLOPs and speed are measured on the network alone, which no labels reach otherwise.

    Args:
        *args: Arguments of :class:`mmtokmerge.measure.samples.Samples`.
        model: A segmentor that sees the images whole.
        shape: ``(H, W)`` to which images are resized for FLOPs and speed; None: as they are.
        **kwargs: Arguments of :class:`mmtokmerge.measure.samples.Samples`.
    """

    def __init__(
        self, *args: Any, model: Any, shape: tuple[int, int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.model, self.shape = model, shape
        self.labels: Tensor | None = None
        """``(1, H, W)`` int64 of the image that was given out last."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in super().__iter__():
            image = normalised(self.model, batch)
            labels = labels_of(batch, image.shape[2:])[None].to(image.device)
            if self.shape is not None:
                resized = F.interpolate(labels[None].float(), self.shape, mode="nearest-exact")
                labels = resized[0].long()
            self.labels = labels
            yield batch


def make_samples(
    models: Sequence[Loaded], args: Any, shape: tuple[int, int] | None
) -> Samples | LabelledSamples:
    """The test images of the first model's config, with labels where a policy asks for them.

    Raises:
        InputError: If a policy that asks for labels runs in windows.
    """
    asking = [m for m in models if m.sharing is not None and m.sharing.policy.needs_labels]
    for each in asking:
        if (each.model.test_cfg or {}).get("mode") == "slide" and shape is None:
            raise InputError(
                f"{each.name} shares by labels, which the timing of single windows does not have: "
                "add --cfg-options model.test_cfg.mode=whole, or --shape."
            )
    given = (models[0].cfg, "test", args.num_images, args.seed)
    if not asking:
        return Samples(*given)
    return LabelledSamples(*given, model=asking[0].model, shape=shape)


def make_settings(
    models: Sequence[Loaded], identities: Sequence[str], samples: Samples, sweep: Sequence[Number]
) -> list[Setting]:
    """Each model as it was trained, then with each S of ``sweep`` without training anew.

    Args:
        models: The first is what the others are compared with.
        identities: What each model's results depend on, as text.
        samples: The images, from :func:`make_samples`.
        sweep: S as ints or fractions.

    Raises:
        InputError: If there is a sweep and no model shares tokens.
    """
    if sweep and all(each.sharing is None for each in models):
        raise InputError("--num-shared does nothing: no --model has model.backbone.sharing.")
    settings = []
    for each, identity in zip(models, identities):
        numbers = [None, *(sweep if each.sharing is not None else ())]
        for number in numbers:
            values = {"model": each.name, "num_shared": number, "identity": identity}
            active = partial(_active, each.model.backbone, number, samples)
            settings.append(Setting(values, each.model, active))
    return settings


@contextmanager
def _active(backbone: Any, number: Number | None, samples: Samples) -> Iterator[None]:
    sharing = getattr(backbone, "sharing", None)
    with ExitStack() as stack:
        if sharing is not None and number is not None:
            stack.enter_context(merging_as(backbone, {NUM_SHARED: number}))
        if sharing is not None and isinstance(samples, LabelledSamples):
            stack.enter_context(sharing.given(samples.labels))
        yield


@dataclass(frozen=True)
class Row:
    """A setting beside the first.

    Args:
        found: What was measured.
        first: The first model.
    """

    found: Measurement
    first: Measurement

    @property
    def label(self) -> str:
        """The model, and S where it is not what it was trained with."""
        number = self.found.values["num_shared"]
        return self.found.values["model"] + ("" if number is None else f", S = {number:g}")

    @property
    def kept(self) -> dict[str, float]:
        """Percent of the patches that are tokens after sharing and at the output."""
        tokens = self.found.tokens
        return {place: 100 * tokens[place] / tokens[PATCHES] for place in (SHARED, OUTPUT)}

    def to_json(self) -> dict[str, Any]:
        """What the table shows, as JSON values."""
        kept = self.kept
        return {
            "model": self.found.values["model"],
            "num_shared": self.found.values["num_shared"],
            "miou": self.found.miou,
            "miou_change": round(self.found.miou - self.first.miou, 4),
            "tokens_percent_after_sharing": round(kept[SHARED], 3),
            "tokens_percent_output": round(kept[OUTPUT], 3),
            "gflops": round(self.found.flops / 1e9, 6),
            "gflops_change_percent": round(100 * (self.found.flops / self.first.flops - 1), 3),
            "relative_throughput": round(self.found.speed, 4),
        }


HEADS = (
    "model",
    "mIoU",
    "mIoU\nchange",
    "tokens %\nafter sharing",
    "tokens %\noutput",
    "GFLOPs",
    "GFLOPs\nchange",
    "throughput",
)


def cells(row: Row, record: Mapping[str, Any]) -> list[str]:
    """One line of the table from a row and its JSON values; the first has no changes."""
    compared = row.found is not row.first
    return [
        row.label,
        f"{record['miou']:.2f}",
        signed(record["miou_change"], 2) if compared else "",
        f"{record['tokens_percent_after_sharing']:.1f}",
        f"{record['tokens_percent_output']:.1f}",
        f"{record['gflops']:.2f}",
        f"{signed(record['gflops_change_percent'])}%" if compared else "",
        f"{record['relative_throughput']:.2f}x",
    ]
