"""Export a trained model to ONNX, OpenVINO or torch, and check the file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmtokmerge.commands.options import add_cfg_options, add_model
from mmtokmerge.errors import InputError

EXAMPLES = """\
examples:
  python tools/export.py b0_demo_fast mmtokmerge/assets/b0_streets.pth --format onnx
  python tools/export.py CONFIG CHECKPOINT --format openvino --precision fp16 --out model.xml
  python tools/export.py CONFIG CHECKPOINT --format openvino --precision int8 --calibration 100
  python tools/export.py CONFIG CHECKPOINT --format onnx --static --shape 1024 1024
  python tools/export.py CONFIG CHECKPOINT --format onnx --normalise --labels
  python tools/export.py CONFIG CHECKPOINT --format onnx --check 20
  python tools/export.py segmenter_vit-t_streets_algm CHECKPOINT --static --cap 0.95
  python tools/test.py CONFIG model.onnx             the config's test, by the exported file

A file takes every batch and size of a range, which stands in its metadata, unless --static. It is
compared with the model at several sizes before the command ends, and not left behind if it differs.
"""
CALIBRATION = 64
"""Training images that int8 and caps are calibrated on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_model(parser, "config of a segmentor or top-down pose estimator, or its name alone")
    parser.add_argument(
        "--format", choices=("onnx", "openvino", "torch"), default="onnx", help="default: onnx"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="default: the config's name with .onnx, .xml or .pt2"
    )
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="with --static: the images' size (default: the config's crop)",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="with --static (default: 1)")
    parser.add_argument("--static", action="store_true", help="for this size and batch alone")
    parser.add_argument(
        "--range",
        type=int,
        nargs=2,
        metavar=("LEAST", "MOST"),
        help="sides in pixels that the file takes (default: 256 4096)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of the weights in the file; fp16 is OpenVINO's, int8 is calibrated on images of the\n"
        "config's training set (default: fp32)",
    )
    parser.add_argument(
        "--calibration",
        type=int,
        metavar="N",
        help="with --precision int8 or --cap: training images that are seen (default: 64)",
    )
    parser.add_argument(
        "--cap",
        type=float,
        metavar="Q",
        help="merging by a threshold: keep at most as many tokens as this quantile of training\n"
        "images keeps, from 0 to 1; an image that needs more merges its next similar tokens,\n"
        "and the file counts them as its second output (needs --static)",
    )
    parser.add_argument(
        "--normalise",
        action="store_true",
        help="take RGB images from 0 to 255 and normalise them in the file",
    )
    parser.add_argument("--labels", action="store_true", help="return label maps instead of logits")
    parser.add_argument(
        "--check",
        type=int,
        metavar="N",
        help="also compare N images of the config's test set, by the share of equal labels",
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Export.

    Raises:
        InputError: An argument is wrong, the model cannot be exported, or the file differs from it.
    """
    import torch

    from mmtokmerge.deploy import Sizes, export
    from mmtokmerge.deploy.export import FORMATS
    from mmtokmerge.engine.loading import load_model, read_config
    from mmtokmerge.models.whole_network import WholeNetwork
    from mmtokmerge.reporting.console import make_console

    if not args.static and (args.shape is not None or args.batch_size != 1):
        raise InputError("--shape and --batch-size go with --static; --range sets the sizes else")
    if args.check is not None and (args.normalise or args.labels):
        raise InputError(
            "--check compares logits of normalised images: not with --normalise, --labels"
        )
    if args.check is not None and args.check < 1:
        raise InputError(f"--check {args.check} must be at least 1.")
    if args.static and args.range is not None:
        raise InputError("--range does not go with --static")
    if args.calibration is not None and args.precision != "int8" and args.cap is None:
        raise InputError("--calibration goes with --precision int8 or --cap")
    if args.cap is not None and not 0 <= args.cap <= 1:
        raise InputError(f"--cap {args.cap} must be a quantile from 0 to 1.")
    if args.cap is not None and not args.static:
        raise InputError("--cap counts tokens of one size, so it needs --static")
    if args.calibration is not None and args.calibration < 1:
        raise InputError(f"--calibration {args.calibration} must be at least 1.")
    sizes = Sizes(static=args.static, **_range(args.range))
    cfg = read_config(args)
    model = load_model(cfg, args.checkpoint).model
    network = WholeNetwork(model, args.normalise, args.labels).eval()
    if args.check is not None and not network.segments:
        raise InputError("--check compares labels of a segmentor; a pose network has none")
    height, width = args.shape or _crop(cfg)
    if not args.static:
        height, width = (min(max(side, sizes.smallest), sizes.largest) for side in (height, width))
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(args.batch_size, 3, height, width, generator=generator)
    if args.normalise:
        example = (example * 50 + 128).clamp(0, 255)
    out = args.out or Path(args.config).stem + FORMATS[args.format]
    console = make_console()
    console.print(f"exporting {Path(args.config).stem} to {out}: a minute or so")
    calibration = None
    if args.precision == "int8":
        calibration = calibration_images(cfg, model, args.calibration, args.normalise, console)
    if args.cap is not None:
        images = calibration_images(cfg, model, args.calibration, False, console)
        fitting = [each for each in images if each.shape[2:] == example.shape[2:]]
        console.print(cap_tokens(model, fitting, args.cap, tuple(example.shape[2:])))
    report = export(
        network,
        example,
        out,
        format=args.format,
        sizes=sizes,
        precision=args.precision,
        metadata=describe(cfg, model, args),
        calibration=calibration,
    )
    console.print(str(report), markup=False)
    if args.check is not None:
        share = check_images(cfg, model, network, out, args.check, console)
        console.print(f"  {args.check} images of the test set: labels agree on {share:.3%}")


def describe(cfg: Any, model: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What a file says of itself: task, preset, classes, palette, normalisation."""
    from mmseg.registry import DATASETS

    head = getattr(model, "decode_head", None)
    told: dict[str, Any] = dict(
        task="pose" if head is None else "segmentation",
        config=Path(args.config).stem,
        merging=_plain(cfg.model.backbone.get("merging", cfg.model.backbone.get("reducers"))),
        normalise=args.normalise,
        labels=args.labels,
        max_tokens=[r.max_tokens for r in thresholds(model) if r.max_tokens is not None] or None,
    )
    preprocessor = model.data_preprocessor
    for name in ("mean", "std"):
        value = getattr(preprocessor, name, None)
        told[name] = None if value is None else [float(each) for each in value.flatten()]
    if head is not None:
        dataset = DATASETS.get(cfg.test_dataloader.dataset.type)
        meta = getattr(dataset, "METAINFO", None) or {}
        told.update(
            num_classes=int(head.out_channels),
            align_corners=bool(head.align_corners),
            threshold=head.threshold,
            classes=list(meta.get("classes") or []),
            palette=[list(map(int, colour)) for colour in meta.get("palette") or []],
        )
    return told


def thresholds(model: Any) -> list[Any]:
    """The reducers of a plain ViT that merge by a threshold."""
    from mmtokmerge.layers.reducers import ThresholdReducer

    reducers = getattr(model.backbone, "reducers", ())
    return [each for each in reducers if isinstance(each, ThresholdReducer)]


def cap_tokens(model: Any, images: Any, quantile: float, shape: tuple[int, int]) -> str:
    """Set ``max_tokens`` of every reducer with a threshold to a quantile of what images keep.

    Args:
        model: A segmentor with a plain ViT.
        images: Normalised images ``(1, 3, H, W)``.
        quantile: Of the images, those that keep no more than the cap.
        shape: Their size.

    Returns:
        What was set, for people.

    Raises:
        InputError: There is no such reducer, or no image of that size.
    """
    import math

    import torch

    from mmtokmerge.merging.trace import trace

    capped = thresholds(model)
    if not capped:
        raise InputError("--cap is for reducers that merge by a threshold, the config has none")
    if not images:
        raise InputError(
            f"--cap found no training image of {shape[0]}x{shape[1]} pixels: give --shape as the "
            "test pipeline and test_cfg make them"
        )
    for reducer in capped:
        reducer.max_tokens = None
    kept: list[list[int]] = []
    with torch.no_grad():
        for image in images:
            with trace(model.backbone) as found:
                model.backbone(image)
            kept.append(
                [event.assignment.num_groups for event in found.events if event.module in capped]
            )
    said, before = [], 0
    for number, reducer in enumerate(capped):
        counts = sorted(each[number] for each in kept)
        most = counts[min(len(counts) - 1, max(0, math.ceil(quantile * len(counts)) - 1))]
        most = max(most, before // 2)  # every other token may merge
        reducer.max_tokens = before = most
        beyond = sum(count > most for count in counts) / len(counts)
        said.append(
            f"  {type(reducer).__name__}: at most {most} tokens; the {len(counts)} images keep "
            f"{counts[0]} to {counts[-1]}, {beyond:.1%} of them more"
        )
    return "\n".join(said)


def calibration_images(
    cfg: Any, model: Any, number: int | None, normalise: bool, console: Any
) -> list[Any]:
    """Batches of the config's training images, as the test pipeline makes them of test images."""
    import torch

    from mmtokmerge.measure.inputs import network_inputs
    from mmtokmerge.measure.samples import Samples
    from mmtokmerge.reporting.console import progress_bar

    total = len(Samples(cfg, "train", labels=False))
    if number is not None and number > total:
        raise InputError(f"--calibration {number} is more than the {total} training images.")
    number = min(CALIBRATION, total) if number is None else number
    samples = Samples(cfg, "train", number, labels=False)
    batches: list[torch.Tensor] = []
    with progress_bar(console, "reading images", len(samples)) as advance:
        for batch in samples:
            for images in network_inputs(model, batch):
                if normalise:  # the file normalises by itself
                    images = images * model.data_preprocessor.std + model.data_preprocessor.mean
                batches.append(images)
            advance()
    return batches[:number]


def check_images(cfg: Any, model: Any, network: Any, path: str, number: int, console: Any) -> float:
    """Share of pixels with the same label, over images of the config's test set."""
    import torch

    from mmtokmerge.deploy import load_exported
    from mmtokmerge.deploy.runtimes import leaves
    from mmtokmerge.measure.inputs import network_inputs
    from mmtokmerge.measure.samples import Samples
    from mmtokmerge.reporting.console import progress_bar

    samples = Samples(cfg, "test", number, labels=False)
    exported = load_exported(path)
    equal = total = 0
    with progress_bar(console, "checking", number) as advance, torch.no_grad():
        for batch in samples:
            for images in network_inputs(model, batch):
                found = network.labels_of(exported(images)[0])
                expected = network.labels_of(leaves(network(images))[0])
                equal += int((found == expected).sum())
                total += expected.numel()
            advance()
    return equal / max(total, 1)


def _range(given: Any) -> dict[str, int]:
    return {} if given is None else dict(smallest=given[0], largest=given[1])


def _crop(cfg: Any) -> tuple[int, int]:
    size = (cfg.model.get("data_preprocessor") or {}).get("size") or (512, 512)
    return int(size[0]), int(size[1])


def _plain(value: Any) -> Any:
    """JSON values of a config's."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
