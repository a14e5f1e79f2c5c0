"""Convert published SegFormer and ViT weights into the layout that this project's models load."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtokmerge.errors import InputError

if TYPE_CHECKING:
    from mmtokmerge.models.weights import SegFormerWeights, ViTWeights

EXAMPLES = """\
sources (found by their keys; --from insists on one):
  nvlabs   NVlabs's checkpoints: mit_b0.pth, segformer.b0.512x512.ade.160k.pth
  hf       Hugging Face's: model.safetensors, pytorch_model.bin, or the folder that holds one
  mmseg    MMSegmentation's; they load as they are, this cuts the backbone out of one
and for the plain ViT, whose backbone alone is converted:
  timm        timm's ViT and DeiT, AugReg's and Facebook's *.pth among them
  mmpretrain  MMPretrain's ViT and DeiT
  hf-vit      Hugging Face's ViT
  mmseg-vit   MMSegmentation's; they load as they are, this cuts the backbone out of one

examples:
  python tools/convert_weights.py mit_b2.pth weights/mit_b2.pth
  python tools/train.py configs/segformerpp/b2_cityscapes_hq.py \\
      --cfg-options model.backbone.init_cfg.checkpoint=weights/mit_b2.pth

  python tools/convert_weights.py segformer-b0-finetuned-ade-512-512/ weights/b0_ade.pth
  python tools/test.py configs/segformerpp/b0_ade20k_hq.py weights/b0_ade.pth \\
      --cfg-options model.decode_head.projection=linear

  python tools/convert_weights.py segformer_mit-b5.pth weights/mit_b5.pth --to backbone

  python tools/convert_weights.py vit_large_patch16_384/ pretrain/vit_large_p16_384.pth
  python tools/train.py configs/algm/setr_vit-l_ade20k_none.py

The published heads project each scale by a linear layer, mmseg's by a convolution with norm and
activation: a converted head needs projection='linear' and the channels that the summary names.
A weight that is missing, unknown or of another size is an error, and DST is then left as it was.
Files are read without running code from them. See docs/weights.md.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("src", type=Path, metavar="SRC", help="the published weights")
    parser.add_argument("dst", type=Path, metavar="DST", help="the checkpoint to write (*.pth)")
    parser.add_argument(
        "--to",
        choices=("backbone", "segmentor"),
        help="what to write: the backbone alone, for init_cfg, or a whole model, for test.py\n"
        "(default: segmentor where SRC has SegFormer's decode head)",
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=("auto", "nvlabs", "hf", "mmseg", "timm", "mmpretrain", "hf-vit", "mmseg-vit"),
        default="auto",
        help="whose keys SRC has (default: auto)",
    )


def run(args: argparse.Namespace) -> None:
    """Convert, save and print what was converted.

    Raises:
        InputError: SRC cannot be read or converted, or DST cannot be written.
    """
    if args.dst.is_dir():
        raise InputError(f"DST is a folder, {args.dst}: name the file to write.")
    if args.dst.exists() and args.src.exists() and args.dst.samefile(args.src):
        raise InputError(f"DST is SRC, {args.src}: name another file to write.")
    state, classes, grid = read_weights(args.src)

    from mmtokmerge.models.weights import convert

    try:
        weights = convert(state, args.source, args.to, grid)
    except InputError as error:
        raise InputError(f"{args.src}: {error}.") from error
    meta = {**classes, "source": weights.source, "arch": weights.arch}
    write_checkpoint({"meta": meta, "state_dict": weights.state_dict}, args.dst)
    show_summary(weights, args.dst)


def read_weights(
    path: Path,
) -> tuple[dict[str, Any], dict[str, Any], tuple[int, int] | None]:
    """The state dict, the names of the classes and the grid of positions that a file tells.

    A file, or a Hugging Face folder that holds one.

    Raises:
        InputError: There is no such file, it is damaged, would run code, or holds no weights.
    """
    from mmtokmerge.models.weights.grids import grid_of
    from mmtokmerge.models.weights.safe_load import load_weights_only
    from mmtokmerge.models.weights.state_dicts import state_dict_of

    if path.is_dir():
        path = find_weights(path)
    content = load_weights_only(str(path), map_location="cpu")
    state = state_dict_of(content, str(path))
    meta = content.get("meta") if state is not content else None
    meta = meta if isinstance(meta, dict) else {}
    named = {key: meta[key] for key in ("dataset_meta", "CLASSES", "PALETTE") if key in meta}
    bare = {key.removeprefix("module."): value for key, value in state.items()}
    if len(bare) < len(state):
        raise InputError(f"{path} holds some weights twice, with and without 'module.' in front.")
    return bare, named, grid_of(content)


def find_weights(folder: Path) -> Path:
    """The file of weights in a Hugging Face folder."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} holds neither model.safetensors nor pytorch_model.bin.")


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write ``checkpoint`` whole or not at all."""
    import torch

    from mmtokmerge.reporting.files import write_bytes

    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_bytes(path, buffer.getvalue())


def show_summary(weights: SegFormerWeights | ViTWeights, path: Path) -> None:
    """Print what was converted, and the settings that its model needs."""
    from rich.console import Console
    from rich.table import Table

    from mmtokmerge.models.weights import ViTWeights

    is_vit = isinstance(weights, ViTWeights)
    options = vit_options(weights) if is_vit else config_options(weights)
    table = Table(show_header=False, title="Converted weights", title_justify="left")
    table.add_row("source", weights.source)
    if is_vit:
        table.add_row("architecture", describe_vit(weights))
    else:
        table.add_row("architecture", f"mmtokmerge.MiTPlusPlus, arch '{weights.arch}'")
        table.add_row("decode head", describe_head(weights))
    table.add_row("parameters", f"{weights.parameters:,}, every one loaded into the model")
    dropped = [describe_dropped(kind, keys, is_vit) for kind, keys in weights.dropped.items()]
    table.add_row("left out", "\n".join(dropped) or "nothing")
    table.add_row("written to", str(path))
    table.add_row("--cfg-options", "\n".join(options) or "none needed")
    Console(soft_wrap=True).print(table, markup=False)


def describe_dropped(kind: str, keys: list[str], names: bool) -> str:
    """What was left out: how many keys and, where they are few, which."""
    listed = f" ({', '.join(keys)})" if names and len(keys) <= 4 else ""
    return f"{kind}: {len(keys)} keys{listed}"


def describe_vit(weights: ViTWeights) -> str:
    """A plain ViT in words."""
    end = "with" if weights.final_norm else "without"
    height, width = weights.img_size
    return (
        f"mmtokmerge.VisionTransformer, arch '{weights.arch}', patches of {weights.patch_size}, "
        f"positions of {height}x{width} pixels, {end} final norm"
    )


def vit_options(weights: ViTWeights) -> list[str]:
    """The settings of the backbone that differ from those of the configs."""
    options = []
    if weights.patch_size != 16:
        options.append(f"model.backbone.patch_size={weights.patch_size}")
    if not weights.final_norm:
        options.append("model.backbone.final_norm=False")
    if weights.distilled:
        options.append("model.backbone.with_dist_token=True")
    if weights.norm_eps is not None:
        options.append("model.backbone.norm_cfg.type=LN")
        options.append(f"model.backbone.norm_cfg.eps={weights.norm_eps}")
    return options


def describe_head(weights: SegFormerWeights) -> str:
    """The decode head in words."""
    if weights.head is None:
        return "none"
    head = weights.head
    sizes = f"{head['channels']} channels, {head['num_classes']} classes"
    return f"{head['projection']} projection, {sizes}"


def config_options(weights: SegFormerWeights) -> list[str]:
    """The settings of the model that the weights were made for, as ``--cfg-options`` has them."""
    options = []
    if weights.head is not None:
        options = [
            f"model.decode_head.{key}={weights.head[key]}"
            for key in ("projection", "channels", "num_classes")
        ]
    if weights.norm_eps is not None:
        options.append("model.backbone.norm_cfg.type=LN")
        options.append(f"model.backbone.norm_cfg.eps={weights.norm_eps}")
    return options
