"""``mmtokmerge.apply``, ``remove`` and ``calibrate``: merging in a model that another built."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmtokmerge.adapters import (
    mit,
    mit_mmseg,
    mit_smp,
    mit_transformers,
    vit_methods,
    vit_timm,
    vit_transformers,
)
from mmtokmerge.adapters.base import give_all_back, kind_of
from mmtokmerge.adapters.passage import forget_passages
from mmtokmerge.adapters.report import Report
from mmtokmerge.adapters.segformer_heads import change_heads
from mmtokmerge.adapters.vit import Encoder
from mmtokmerge.adapters.vit_methods import ViTPlan, put_in
from mmtokmerge.adapters.vit_settings import Options
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.kernels.modes import in_eval_mode
from mmtokmerge.merging.similarity_statistics import CosineStatistics
from mmtokmerge.merging.trace import trace

KNOWN = (
    "SegFormer and GLPN of transformers 4 and 5",
    "mit_b0 to mit_b5 of segmentation_models_pytorch",
    "MixVisionTransformer of mmseg",
    "VisionTransformer and Eva of timm (ViT, DeiT, DINOv2, DINOv3, EVA-02)",
    "ViT, DeiT, DINOv2, DINOv3, BEiT, DPT, ViTPose and EoMT of transformers 4 and 5",
)


def apply(
    model: nn.Module,
    merging: Any = "hq",
    *,
    proportional: bool | None = None,
    threshold: float | None = None,
    keep: float | Sequence[float] | None = None,
    window: int | tuple[int, int] | None = None,
    count: int | None = None,
    rate: float | None = None,
    layers: Sequence[int] | None = None,
    rotary: str | None = None,
) -> Report:
    """Merge tokens in a model that another package built, in place.

    State dict, ``save_pretrained`` and the outputs' types stay as they are. A model that merging
    was put into before gets the new setting instead.

    Args:
        model: A model of one of the known hosts, or one that holds such an encoder.
        merging: For SegFormer's encoders 'none' (faster exact kernels alone), 'hq', 'fast', 'n2d',
            'plus', or four stage dicts, as :class:`mmtokmerge.MiTPlusPlus` takes them. Of plain
            ViTs 'none', 'algm' (with ``threshold`` or ``keep``), 'tome' or 'pitome' (``count`` or
            ``rate``), 'evit', 'elvit', 'ailurus', 'toma' or 'cubist' (``keep``), 'mpm'.
        proportional: Merged keys weigh by the log of their size. None leaves it as the stages say;
            of plain ViTs it is on for 'tome' and 'pitome' and off for the others.
        threshold: Cosine above which ALGM merges, see :func:`calibrate`.
        keep: ALGM at a fixed rate, whose shapes do not depend on the image: the shares of the
            patches that are left after local and after global merging, such as ``(1/2, 1/3)``. One
            share of 'evit' and 'elvit'.
        window: Patches of ALGM's local windows, 2 for 2x2.
        count: Tokens that ToMe or PiToMe merges in each layer.
        rate: Share of a layer's tokens that they merge in it, at most 0.5.
        layers: Layers, counted from 1: ALGM's local and global one, ToMe's and PiToMe's all, EViT's
            4, 7 and 10 of 12, MPM's two, 1 and 4 of 12; of the others one, after a third of them.
        rotary: Where positions turn queries and keys (EVA-02, DINOv3): a merged token turns as its
            'first' patch, the default, or by its patches' 'mean' position.

    Returns:
        Which layers were changed and how many tokens each keeps; it prints as a table.

    Raises:
        TypeError: No adapter knows the model.
        ValueError: A setting is wrong.
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"mmtokmerge.apply takes a torch.nn.Module, got {model!r}"[:200])
    options = Options(threshold, keep, window, count, rate, layers, proportional, rotary)
    path, found = _encoders(model)[0]
    is_vit = isinstance(found, Encoder)
    if is_vit:
        vit_methods.check(found, merging, options)
    else:
        mit.check(merging, proportional, options.given())
    remove(model)
    try:
        if is_vit:
            _, found = _encoders(model)[0]  # with the host's own layers
            report = vit_methods.apply_to(found, merging, options)
        else:
            report = mit_of(found).apply_to(found, path, merging, proportional)
            change_heads(model, report)
    except BaseException:
        remove(model)
        raise
    for other, _ in _encoders(model)[1:]:
        report.left_alone.append((other, "another encoder: apply merging to it by itself"))
    return report


def remove(model: nn.Module) -> nn.Module:
    """Give the host's modules back; returns ``model``, which is as it was."""
    give_all_back(model)
    forget_passages(model)
    return model


def calibrate(model: nn.Module, images: Any) -> float:
    """Find ALGM's threshold for a plain ViT from images: mean plus standard deviation.

    It is taken over the cosines of all pairs of an image's tokens after the attention of each
    layer, of all layers and images (ALGM, section 3.3). Merging that was applied is taken off.

    Args:
        model: A model that holds a plain ViT; it is run without gradients, in eval mode.
        images: Batches, a tensor ``(B, 3, H, W)`` or a dict of the model's arguments each; or one.

    Returns:
        The threshold, for ``apply(model, 'algm', threshold=...)``.

    Raises:
        TypeError: No adapter knows a plain ViT in the model.
        ValueError: There is no image.
    """
    remove(model)
    encoder = next((each for _, each in _encoders(model) if isinstance(each, Encoder)), None)
    if encoder is None:
        raise InputTypeError("mmtokmerge.calibrate finds a threshold for plain ViTs, not SegFormer")
    if not isinstance(images, (Tensor, Mapping, Iterable)):
        raise InputTypeError(f"images are batches, a tensor or a dict each, got {images!r}"[:200])
    statistics = CosineStatistics()
    batches = [images] if isinstance(images, (Tensor, Mapping)) else images
    try:
        report = Report(encoder.name, "none", ViTPlan(encoder, {}))
        with in_eval_mode(model), torch.no_grad():
            put_in(encoder, {}, False, report, every_layer=True)
            with trace(model, on_layer=lambda seen: statistics.update(seen.tokens)):
                for batch in batches:
                    model(**batch) if isinstance(batch, Mapping) else model(batch)
            remove(model)
    finally:
        remove(model)
    if not statistics.count:
        raise InputError("calibrate saw no pair of tokens: images must hold at least one image")
    found = statistics.mean + statistics.std
    if math.isnan(found):
        raise InputError("calibrate found no threshold: the tokens hold NaN; are the images sound?")
    return found


def mit_of(module: nn.Module) -> Any:
    """The adapter of SegFormer's encoder that knows a module; None for another module."""
    if mit_transformers.is_encoder(module):
        return mit_transformers
    kind = kind_of(module)
    return next((each for each in (mit_mmseg, mit_smp) if kind in each.ENCODERS), None)


def _encoders(model: nn.Module) -> list[tuple[str, Any]]:
    """Path of each encoder in a model, and a plain ViT's :class:`Encoder` or SegFormer's module.

    Raises:
        InputTypeError: There is none that an adapter knows.
    """
    found: list[tuple[str, Any]] = []
    for path, module in model.named_modules():
        if mit_of(module) is not None:
            found.append((path, module))
            continue
        encoder = vit_timm.find(path, module) or vit_transformers.find(path, module, model)
        if encoder is not None:
            found.append((encoder.path, encoder))
    if not found:
        raise InputTypeError(
            f"mmtokmerge.apply knows no encoder in a {type(model).__name__}; known are: "
            + "; ".join(KNOWN)
        )
    return found
