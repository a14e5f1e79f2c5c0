"""How a merged token should turn where positions turn queries and keys: by measurement.

    python benchmarks/rope_positions.py train benchmarks/weights/segmenter_vit-t_streets.pth
    python benchmarks/rope_positions.py compare --out benchmarks/quality/rope_positions

timm's `Eva` with rotary and absolute positions gets the weights of the streets' Segmenter ViT-T,
which knows no rotation, and is trained on for some hundred iterations. Its patches then merge by
`mmtokmerge.apply` with each `rotary`; differences are to no merging, on scenes of the streets that
it was not trained on, with the 95% interval of a paired bootstrap over them.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from rich.console import Console
from timm.models.eva import Eva
from torch import Tensor
from trials import test, train_or_compare, trial_runner

import mmtokmerge
from mmtokmerge.commands.main import guard
from mmtokmerge.evaluation.intervals import paired_difference
from mmtokmerge.models.weights.fit import load_weights
from mmtokmerge.models.weights.safe_load import load_weights_only
from mmtokmerge.models.weights.state_dicts import state_dict_of
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text, markdown_table

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "ALGM, 1/2 and 1/3": ("algm", dict(keep=(1 / 2, 1 / 3))),
    "ALGM, 2/5 and 1/4": ("algm", dict(keep=(2 / 5, 1 / 4))),
    "ToMe, 28 a layer": ("tome", dict(count=28)),
}
HEADS = (
    *("merging", "rotary", "mIoU", "difference", "low", "high", "scenes", "iterations"),
    *("timm", "torch"),
)
LAYER = {
    "norm1": "ln1",
    "attn.qkv": "attn.attn.in_proj_",
    "attn.proj": "attn.attn.out_proj",
    "norm2": "ln2",
    "mlp.fc1": "ffn.layers.0.0",
    "mlp.fc2": "ffn.layers.1",
}


@MODELS.register_module()
class RopeBackbone(BaseModule):
    """timm's EVA-02 at the size of ViT-T, for images of 256x512 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.eva = Eva(
            img_size=(256, 512),
            embed_dim=192,
            depth=12,
            num_heads=3,
            num_classes=0,
            global_pool="token",
            use_abs_pos_emb=True,
            use_rot_pos_emb=True,
        )

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Images ``(B, 3, H, W)`` to the last layer's map ``(B, 192, H / 16, W / 16)``."""
        tokens = self.eva.forward_features(x)[:, 1:]
        return (tokens.transpose(1, 2).unflatten(2, (x.shape[2] // 16, x.shape[3] // 16)),)


def with_rotation(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Segmenter's weights under the names of one whose backbone is :class:`RopeBackbone`."""
    out = {key: value.float() for key, value in state.items() if key.startswith("decode_head.")}
    back = {k.removeprefix("backbone."): v.float() for k, v in state.items()}
    out["backbone.eva.cls_token"], out["backbone.eva.pos_embed"] = (
        back["cls_token"],
        back["pos_embed"],
    )
    for part in ("weight", "bias"):
        out[f"backbone.eva.patch_embed.proj.{part}"] = back[f"patch_embed.projection.{part}"]
        out[f"backbone.eva.norm.{part}"] = back[f"ln1.{part}"]
        for number in range(12):
            for theirs, ours in LAYER.items():
                name = f"{ours}{part}" if ours.endswith("_") else f"{ours}.{part}"
                place = f"backbone.eva.blocks.{number}.{theirs}"
                value = back[f"layers.{number}.{name}"]
                if theirs == "attn.qkv" and part == "bias":  # timm keeps it apart, the keys' fixed
                    q, _, v = value.chunk(3)
                    out[place.replace("qkv", "q_bias")] = q
                    out[place.replace("qkv", "v_bias")] = v
                else:
                    out[f"{place}.{part}"] = value
    return out


def runner_of(args: Namespace) -> Any:
    """A runner of the training and of the test; it resumes where it was stopped."""
    scenes = dict(
        _delete_=True,
        type="mmtokmerge.EndlessStreets",
        sizes=[(512, 1024)],
        num_scenes=args.scenes,
        seed=9,
        pipeline=[dict(type="PackSegInputs")],
    )
    settings = {
        "model.backbone": dict(type="RopeBackbone", _delete_=True),
        "val_dataloader.dataset": scenes,
        "test_dataloader.dataset": scenes,
    }
    return trial_runner(
        "segmenter_vit-t_streets_none",
        Path(args.work_dir),
        args.iterations,
        args.lr,
        amp=True,
        settings=settings,
    )


def train(args: Namespace) -> None:
    """Train on from the weights without rotation."""
    runner = runner_of(args)
    content = load_weights_only(args.checkpoint, map_location="cpu")
    found = runner.model.load_state_dict(
        with_rotation(state_dict_of(content, args.checkpoint)), strict=False
    )
    if found.missing_keys or found.unexpected_keys:
        raise SystemExit(f"the weights do not fit: {found}")
    runner.model._is_init = True  # mmengine would draw the weights anew
    runner.train()


@torch.no_grad()
def compare(args: Namespace) -> None:
    """Test without merging, then each setting with each rotation."""
    console, runner = Console(), runner_of(args)
    load_weights(runner.model, str(Path(args.work_dir) / f"iter_{args.iterations}.pth"))
    runner.model.eval()
    whole = test(runner, "no merging", console)["mIoU"]
    versions = [timm.__version__, torch.__version__]
    counts = [str(args.scenes), str(args.iterations)]
    rows = [["none", "", f"{float(whole.value()):.2f}", "", "", "", *counts, *versions]]
    for name, (merging, options) in SETTINGS.items():
        found = {}
        for how in ("first", "mean"):
            mmtokmerge.apply(runner.model.backbone.eva, merging, **options, rotary=how)
            found[how] = test(runner, f"{name}, {how}", console)["mIoU"]
            mmtokmerge.remove(runner.model.backbone.eva)
        pairs = {"first": (found["first"], whole), "mean": (found["mean"], whole)}
        pairs["mean less first"] = (found["mean"], found["first"])
        for how, (one, other) in pairs.items():
            between = paired_difference("mIoU", one, other)
            figures = [f"{x:.2f}" for x in (between.value, between.low, between.high)]
            rows.append([name, how, f"{float(one.value()):.2f}", *figures, *counts, *versions])
        write_bytes(args.out.with_suffix(".csv"), csv_text(HEADS, rows).encode())
    shown = [[*row[:3], f"{row[3]} [{row[4]}, {row[5]}]" if row[3] else ""] for row in rows]
    heads = ["merging", "rotary", "mIoU", "difference"]
    title = f"EVA-02 of ViT-T's size on {args.scenes} generated streets"
    write_bytes(args.out.with_suffix(".md"), f"{markdown_table(heads, shown, title)}\n".encode())
    console.print(args.out.with_suffix(".md").read_text())


def add_arguments(part: ArgumentParser, verb: str) -> None:
    """Add the arguments of a verb."""
    if verb == "train":
        part.add_argument("checkpoint", help="of segmenter_vit-t_streets_none")
    part.add_argument("--iterations", type=int, default=300)
    part.add_argument("--lr", type=float, default=3e-4)
    part.add_argument("--scenes", type=int, default=40)
    part.add_argument("--work-dir", default="work_dirs/rope_positions")


def main() -> None:
    """Parse the command line and run one of the two."""
    texts = ("train with rotation", "test with each rotation")
    train_or_compare(__doc__, train, compare, add_arguments, texts)


if __name__ == "__main__":
    sys.exit(guard(main))
