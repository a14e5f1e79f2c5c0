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
        help="precision of the weights; fp16 is OpenVINO's, int8 is calibrated on images of the\n"
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
        "--keypoints",
        action="store_true",
        help="pose: return keypoints (x, y in pixels of the input) and scores instead of heatmaps",
    )
    parser.add_argument(
        "--no-scatter",
        action="store_true",
        help="sum groups by a product, for runtimes without a scatter that adds, such as TensorRT",
    )
    parser.add_argument(
        "--check",
        type=int,
        metavar="N",
        help="also compare N images of the config's test set, by the share of equal labels or\n"
        "keypoints; a file on which fewer agree than 99.9%% (fp32), 99%% (fp16) or 90%% (int8) is\n"
        "not written",
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
    from mmtokmerge.measure.export_check import Check, calibration_images
    from mmtokmerge.measure.token_caps import cap_tokens
    from mmtokmerge.models.whole_network import WholeNetwork
    from mmtokmerge.reporting.console import make_console

    if not args.static and (args.shape is not None or args.batch_size != 1):
        raise InputError("--shape and --batch-size go with --static; --range sets the sizes else")
    if args.check is not None and (args.normalise or args.labels):
        raise InputError(
            "--check compares what normalised images give: not with --normalise, --labels"
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
    network = WholeNetwork(model, args.normalise, args.labels, args.keypoints).eval()
    height, width = args.shape or _crop(cfg)
    if not args.static:
        height, width = (min(max(side, sizes.smallest), sizes.largest) for side in (height, width))
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(args.batch_size, 3, height, width, generator=generator)
    if args.normalise:
        example = (example * 50 + 128).clamp(0, 255)
    out = args.out or Path(args.config).stem + FORMATS[args.format]
    console = make_console()
    check = None
    if args.check is not None:
        check = Check(cfg, model, network, args.check, sizes, example.shape, console)
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
        check=check,
        scatter=not args.no_scatter,
    )
    console.print(str(report), markup=False)
    if check is not None:
        console.print(
            f"  {check.number} images of the test set: {check.what} agree on {check.share:.3%}"
        )


def describe(cfg: Any, model: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What a file says of itself: task, preset, classes, palette, normalisation."""
    from mmseg.registry import DATASETS

    from mmtokmerge.measure.token_caps import threshold_reducers

    caps = [each.max_tokens for each in threshold_reducers(model) if each.max_tokens is not None]
    head = getattr(model, "decode_head", None)
    told: dict[str, Any] = dict(
        task="pose" if head is None else "segmentation",
        config=Path(args.config).stem,
        merging=_plain(cfg.model.backbone.get("merging", cfg.model.backbone.get("reducers"))),
        normalise=args.normalise,
        labels=args.labels,
        keypoints=args.keypoints,
        max_tokens=caps or None,
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


def _range(given: Any) -> dict[str, int]:
    return {} if given is None else dict(smallest=given[0], largest=given[1])


def _crop(cfg: Any) -> tuple[int, int]:
    codec = (cfg.model.get("head") or {}).get("decoder") or {}
    if "input_size" in codec:  # of pose, width and height
        return int(codec["input_size"][1]), int(codec["input_size"][0])
    size = (cfg.model.get("data_preprocessor") or {}).get("size") or (512, 512)
    return int(size[0]), int(size[1])


def _plain(value: Any) -> Any:
    """JSON values of a config's."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
