"""How fast models of other packages are with merging applied, over the same as they come.

    python benchmarks/apply_cpu.py --out benchmarks/hosts/apply_cpu.csv                 # of .venv
    .venv-hosts/bin/python benchmarks/apply_cpu.py --out benchmarks/hosts/apply_cpu.csv  # newest

Random weights, fp32, batch 1, whole models. All of one model and size are timed in turn, round by
round; a speed-up is a ratio of medians. Rows are added to the file as they are measured; those that
stand there for the same package's version are not measured again.
"""

from __future__ import annotations

import argparse
import copy
import csv
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mmtokmerge
from mmtokmerge.measure.timing import interleave, wall_timer
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text

HEADS = (
    *("package", "version", "model", "height", "width", "setting"),
    *("speedup", "over_sdpa", "rounds", "threads", "torch"),
)
KEYS = [dict(r_kv=0.6, kv_stride=2, proportional=True)] * 2 + [{}] * 2
PRESETS: dict[str, dict[str, Any]] = {
    **{name: dict(merging=name) for name in ("none", "hq", "fast", "plus")},
    "hq, proportional": dict(merging="hq", proportional=True),
    "fast, proportional": dict(merging="fast", proportional=True),
    "keys 0.6, proportional": dict(merging=KEYS),
}
KEEP: dict[str, Any] = dict(merging="algm", keep=(1 / 2, 1 / 3))
CALIBRATED = "algm, calibrated"
"""By the threshold that :func:`mmtokmerge.calibrate` finds on the image, of random weights too."""
SEGFORMERS = {
    "b0": dict(depths=[2, 2, 2, 2], hidden_sizes=[32, 64, 160, 256], decoder_hidden_size=256),
    "b2": dict(depths=[3, 4, 6, 3], hidden_sizes=[64, 128, 320, 512], decoder_hidden_size=768),
}
VIT = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)


def segformer(arch: str) -> nn.Module:
    """transformers' SegFormer for 150 classes."""
    import transformers

    config = transformers.SegformerConfig(num_labels=150, **SEGFORMERS[arch])
    return transformers.SegformerForSemanticSegmentation(config)


def dinov2(height: int, width: int) -> nn.Module:
    """timm's DINOv2 ViT-S."""
    import timm

    return timm.create_model("vit_small_patch14_dinov2", img_size=(height, width))


def vitpose(height: int, width: int) -> nn.Module:
    """transformers' ViTPose-B."""
    import transformers

    backbone = transformers.VitPoseBackboneConfig(image_size=[height, width], **VIT)
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17)
    return transformers.VitPoseForPoseEstimation(config)


def eomt(side: int) -> nn.Module:
    """transformers' EoMT-S."""
    import transformers

    config = transformers.EomtConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=side,
        patch_size=16,
        num_blocks=3,
        num_queries=100,
        num_labels=150,
    )
    return transformers.EomtForUniversalSegmentation(config)


Case = tuple[str, str, int, int, Callable[[], nn.Module], dict[str, dict[str, Any]]]


def cases() -> list[Case]:
    """Package, model, height, width, how to build it, and what is applied."""
    plain = {"none": dict(merging="none"), "algm, a half then a third": KEEP}
    found: list[Case] = []
    for arch in SEGFORMERS:
        for side in (512, 1024):
            name = f"SegFormer-{arch.upper()}"
            found.append(("transformers", name, side, side, partial(segformer, arch), PRESETS))
    for side in (518, 1036):
        build = partial(dinov2, side, side)
        by_threshold = {**plain, CALIBRATED: dict(merging="algm")}
        found.append(("timm", "DINOv2 ViT-S", side, side, build, by_threshold))
    for height, width in ((256, 192), (512, 384)):
        build = partial(vitpose, height, width)
        found.append(("transformers", "ViTPose-B", height, width, build, plain))
    for side in (640, 1024):
        build = partial(eomt, side)
        found.append(("transformers", "EoMT-S", side, side, build, plain))
    return found


def with_sdpa(model: nn.Module) -> nn.Module | None:
    """transformers 4's SegFormer with torch's fused attention put in by hand; None for others."""
    import transformers.models.segformer.modeling_segformer as host

    kind = getattr(host, "SegformerEfficientSelfAttention", None)
    if kind is None:
        return None

    class Fused(kind):
        def forward(self, x: Tensor, height: int, width: int, *_: Any) -> tuple[Tensor]:
            reduced = x
            if self.sr_ratio > 1:
                grid = x.transpose(1, 2).reshape(len(x), -1, height, width)
                reduced = self.layer_norm(self.sr(grid).flatten(2).transpose(1, 2))
            q, k, v = (
                layer(each).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)
                for layer, each in ((self.query, x), (self.key, reduced), (self.value, reduced))
            )
            return (F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2),)

    for module in model.modules():
        if type(module) is kind:
            module.__class__ = Fused
    return model


@torch.no_grad()
def measure(case: Case, rounds: int) -> list[dict[str, Any]]:
    """Time one model at one size with every setting."""
    package, name, height, width, build, settings = case
    torch.manual_seed(0)
    host = build().eval()
    # smooth, so that neighbours are alike as in pictures
    x = F.interpolate(torch.randn(1, 3, 24, 24), (height, width), mode="bicubic")
    models: dict[str, nn.Module] = {"as it comes": host}
    fused = with_sdpa(copy.deepcopy(host)) if name.startswith("SegFormer") else None
    if fused is not None:
        models["with SDPA"] = fused
    for setting, options in settings.items():
        models[setting] = copy.deepcopy(host)
        if setting == CALIBRATED:
            options = {**options, "threshold": mmtokmerge.calibrate(models[setting], [x])}
        mmtokmerge.apply(models[setting], **options)
    steps = {key: (lambda model=model: model(x)) for key, model in models.items()}
    for step in steps.values():
        step()
    times = {key: median(taken) for key, taken in interleave(steps, rounds, wall_timer).items()}
    return [
        dict(
            package=package,
            version=version(package),
            model=name,
            height=height,
            width=width,
            setting=setting,
            speedup=round(times["as it comes"] / taken, 3),
            over_sdpa=round(times["with SDPA"] / taken, 3) if fused is not None else "",
            rounds=rounds,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
        )
        for setting, taken in times.items()
    ]


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="CSV")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="models, such as SegFormer-B0")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = list(csv.DictReader(args.out.open())) if args.out.is_file() else []
    done = {
        (r["package"], r["version"], r["model"], int(r["height"]), int(r["width"])) for r in rows
    }
    for case in cases():
        package, name, height, width, *_ = case
        key = (package, version(package), name, height, width)
        if key in done or (args.only and name not in args.only):
            continue
        rows += measure(case, args.rounds)
        write_bytes(args.out, csv_text(HEADS, [[row[h] for h in HEADS] for row in rows]).encode())
        for row in rows[-len(case[-1]) - 2 :]:
            print(*(row[head] for head in HEADS[:8]), flush=True)


if __name__ == "__main__":
    main()
