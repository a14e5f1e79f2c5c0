"""Whether a model's heads fit the data sets that it meets, said before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import nn

from mmtokmerge.errors import InputError

SHARING_TARGETS = "GenerateSharingTargets"
ONE_PERSON_CODECS = ("MSRAHeatmap", "UDPHeatmap", "MegviiHeatmap")


def check_model_fits_data(
    cfg: Config, model: nn.Module, splits: Sequence[str] = ("train", "val", "test")
) -> None:
    """Compare the heads' outputs to the classes or keypoints of the config's data sets.

    A data set that does not say its classes, a type without a description and labels that a step
    replaces are left alone.

    Args:
        cfg: The config.
        model: Built from it; may be wrapped, for several processes or test-time augmentation.
        splits: Which of the data loaders are used: a test need not fit the training data.

    Raises:
        InputError: A head has another number of classes than a data set, a pose head another
            number of channels than its keypoints need, or the codec another size of heatmaps than
            the head gives.
    """
    while not (hasattr(model, "decode_head") or hasattr(model, "head")):
        if not isinstance(getattr(model, "module", None), nn.Module):
            return
        model = model.module
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        dataset = loader.get("dataset") if isinstance(loader, Mapping) else None
        for leaf, steps in _leaves(dataset, []):
            info = _metainfo(leaf, cfg.get("default_scope", "mmseg"))
            name = f"{split}_dataloader's {leaf['type']}"
            if hasattr(model, "decode_head"):
                _check_classes(model, info, steps, name)
            else:
                _check_keypoints(model, info, steps, name, split)
    if hasattr(model, "head"):
        _check_heatmap_size(cfg, model, splits)


def _leaves(
    dataset: Any, steps: list[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    """The data sets inside wrappers, each with the steps of its pipeline and of its wrappers'."""
    if not isinstance(dataset, Mapping):
        return
    own = [step for step in dataset.get("pipeline") or [] if isinstance(step, Mapping)]
    inner = dataset.get("datasets") or dataset.get("dataset")
    if inner is None:
        yield dataset, [*own, *steps]
        return
    for each in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from _leaves(each, [*own, *steps])


def _metainfo(dataset: Mapping[str, Any], scope: str) -> Mapping[str, Any]:
    """What the data set's class and its config say of it, without reading its files."""
    kind = dataset["type"]
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    load = getattr(kind, "_load_metainfo", None)
    return load(dataset.get("metainfo")) if load is not None else {}


def _is_step(step: Mapping[str, Any], name: str) -> bool:
    kind = step.get("type")
    return (kind if isinstance(kind, str) else getattr(kind, "__name__", "")).endswith(name)


def _check_classes(
    model: nn.Module, info: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], name: str
) -> None:
    classes = info.get("classes")
    if not classes or any(_is_step(step, SHARING_TARGETS) for step in steps):
        return
    number = len(classes)
    for key in ("decode_head", "auxiliary_head"):
        heads = getattr(model, key, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            found = getattr(head, "num_classes", number)
            one_score = number == 2 and found == 1 and getattr(head, "out_channels", None) == 1
            if found != number and not one_score:
                raise InputError(
                    f"model.{key}.num_classes is {found}, but {name} has {number} classes (with "
                    "reduce_zero_label id 0 is none of them): set it to that"
                )


def _check_keypoints(
    model: nn.Module,
    info: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    name: str,
    split: str,
) -> None:
    codec = getattr(model.head, "decoder", None)
    channels = getattr(model.head, "out_channels", None)
    number = info.get("num_keypoints")
    if type(codec).__name__ not in ONE_PERSON_CODECS or not channels or not number:
        return
    for step in steps:
        if _is_step(step, "KeypointConverter"):
            number = step["num_keypoints"]
    each = channels_per_keypoint(codec)
    test_cfg = getattr(model, "test_cfg", None) or {}
    picked = test_cfg.get("output_keypoint_indices") if split != "train" else None
    if picked is not None:
        wrong = [index for index in picked if not 0 <= index < channels // each]
        if wrong or len(picked) != number:
            raise InputError(
                f"model.test_cfg.output_keypoint_indices is {list(picked)}, but {name} has {number}"
                f" keypoints and the head those of 0 to {channels // each - 1}"
            )
        if test_cfg.get("flip_test") and channels != each * number:
            raise InputError(
                f"model.test_cfg.flip_test must be False: {name} says how {number} keypoints are "
                f"exchanged by a flip, but model.head.out_channels is {channels}"
            )
    elif channels != each * number:
        raise InputError(
            f"model.head.out_channels is {channels}, but {name} has {number} keypoints, which take "
            f"{each * number} channels"
        )


def channels_per_keypoint(codec: Any) -> int:
    """Heatmaps that a codec has for each keypoint: three for UDP's combined ones, else one."""
    return 3 if getattr(codec, "heatmap_type", None) == "combined" else 1


def _check_heatmap_size(cfg: Config, model: nn.Module, splits: Sequence[str]) -> None:
    codec = getattr(model.head, "decoder", None)
    if type(codec).__name__ not in ONE_PERSON_CODECS:
        return
    given = _heatmap_size(model, codec.input_size)
    sizes = [("model.head.decoder", tuple(codec.input_size), tuple(codec.heatmap_size))]
    for split in splits:
        loader = cfg.get(f"{split}_dataloader") or {}
        for _, steps in _leaves(loader.get("dataset"), []):
            sizes += [s for step in steps for s in _sizes(step, f"{split}_dataloader")]
    for name, taken, size in sizes:
        if taken != tuple(codec.input_size):
            raise InputError(
                f"{name} has input_size {taken}, but model.head.decoder has "
                f"{tuple(codec.input_size)} (width, height)"
            )
        if size != given:
            raise InputError(
                f"{name} has heatmap_size {size}, but the head gives heatmaps of {given} (width, "
                f"height) for images of {taken}"
            )


def _sizes(
    step: Mapping[str, Any], name: str
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Input and heatmap size of a ``GenerateTarget`` with one codec of one person."""
    encoder = step.get("encoder") if _is_step(step, "GenerateTarget") else None
    if isinstance(encoder, Mapping) and encoder.get("type") in ONE_PERSON_CODECS:
        yield f"{name}'s encoder", tuple(encoder["input_size"]), tuple(encoder["heatmap_size"])


def _in_channels(model: nn.Module) -> int:
    """Channels of the images that the encoder takes."""
    parts = getattr(model, "backbone", nn.Identity()).modules()  # an exported file has none
    first = next((m for m in parts if isinstance(m, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _heatmap_size(model: nn.Module, input_size: Sequence[int]) -> tuple[int, int]:
    """Width and height of the head's heatmaps, from one black image; nothing of the model stays."""
    width, height = input_size
    parameter = next(model.parameters(), torch.zeros(()))
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng():
            image = parameter.new_zeros(1, _in_channels(model), height, width)
            heatmaps = model.eval().head(model.extract_feat(image))
    finally:
        for module, training in modes.items():
            module.training = training
    return heatmaps.shape[-1], heatmaps.shape[-2]
