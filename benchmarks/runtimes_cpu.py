"""Runtimes beside each other: eager torch, onnxruntime and OpenVINO, with and without merging.

    python benchmarks/runtimes_cpu.py --size 1024 --out benchmarks/runtimes/cpu.csv
    python benchmarks/runtimes_cpu.py --size 1024 --models none fast plus \
        --ways openvino-fp32 openvino-bf16 openvino-int8 --out benchmarks/runtimes/int8.csv
    python benchmarks/runtimes_cpu.py --arch vit-s --size 512 --models none algm cts \
        --ways openvino-fp32 onnxruntime-fp32 --out benchmarks/runtimes/vit.csv

The whole SegFormer for 19 classes, or Segmenter for 150 (vit-t, vit-s, vit-b), random weights,
batch 1, files for one size. ALGM keeps half of the patches after CLAP and a third after GBM, by
rate, or by threshold with max_tokens; CTS shares 103 of 256 superpatches, its policy network in the
file. All of one size are timed in turn, round by round. A speed-up is a ratio of medians over
mmseg's own model with fused attention: in eager torch, in the same runtime and precision, and in
OpenVINO in fp32, which is what a person would take on a CPU without merging.
"""

from __future__ import annotations

import argparse
import copy
import csv
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmtokmerge.benchmark.baselines import stock_model
from mmtokmerge.deploy import Sizes, export, load_exported
from mmtokmerge.engine.config import load_config
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.measure.timing import interleave, wall_timer
from mmtokmerge.models.whole_network import WholeNetwork
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text

HEADS = (
    *("arch", "size", "model", "runtime", "compute", "over_openvino_fp32_stock"),
    *("over_same_runtime_stock", "over_eager_stock", "rounds", "threads", "processor", "versions"),
)
STOCK = "stock"
KEYS = [dict(r_kv=0.6, kv_stride=2, proportional=True)] * 2 + [{}] * 2
MODELS_TIMED: dict[str, Any] = {
    "none": "none",
    "hq": "hq",
    "fast": "fast",
    "plus": "plus",
    "keys 0.6, proportional": KEYS,
}
CLAP, GBM = "mmtokmerge.ConditionalLocalPooling", "mmtokmerge.GlobalBipartiteMerging"
RATES = [
    dict(type="mmtokmerge.LocalMergingByRate", layer=1, keep=1 / 2),
    dict(type="mmtokmerge.GlobalMergingByRate", layer=5, keep=1 / 3),
]
THRESHOLDS = [
    dict(type=CLAP, layer=1, threshold=0.9, max_tokens=1 / 2),
    dict(type=GBM, layer=5, threshold=0.9, max_tokens=1 / 3),
]
VITS_TIMED: dict[str, Any] = {"algm": RATES, "algm, max_tokens": THRESHOLDS, "cts": []}
WAYS = (
    *("torch-fp32", "torch-bf16", "onnxruntime-fp32", "onnxruntime-int8"),
    *("openvino-fp32", "openvino-bf16", "openvino-int8"),
)
USUAL = [way for way in WAYS if not way.endswith("int8")]


def networks(arch: str) -> dict[str, nn.Module]:
    """mmseg's network with fused attention, and ours with every setting, of the same weights."""
    if arch.startswith("vit"):
        return vits(arch)
    cfg = load_config(f"{arch}_cityscapes_none")
    init_default_scope("mmseg")
    cfg.model.backbone.pop("init_cfg", None)
    cfg.model.decode_head.norm_cfg = dict(type="BN")
    torch.manual_seed(0)
    stock = MODELS.build(stock_model(cfg.model, "stock fused"))
    found = {STOCK: WholeNetwork(stock).eval()}
    for name, merging in MODELS_TIMED.items():
        cfg.model.backbone.merging = merging
        model = MODELS.build(cfg.model)
        model.load_state_dict(stock.state_dict())
        found[name] = WholeNetwork(model).eval()
    return found


def vits(arch: str) -> dict[str, nn.Module]:
    """The same of Segmenter."""
    cfg = load_config(f"configs/algm/segmenter_{arch}_ade20k_none.py")
    init_default_scope("mmseg")
    cfg.model.backbone.pop("init_cfg", None)
    torch.manual_seed(0)
    stock = MODELS.build(stock_model(cfg.model, "stock fused"))
    found = {STOCK: WholeNetwork(stock).eval()}
    for name, reducers in dict(none=[], **VITS_TIMED).items():
        own = copy.deepcopy(cfg.model)
        own.backbone.reducers = reducers
        if name == "cts":
            shared = load_config(f"segmenter_{arch}_ade20k_cts").model
            own.type, own.backbone.sharing = shared.type, shared.backbone.sharing
            policy = own.backbone.sharing.policy
            with tempfile.TemporaryDirectory() as folder:
                policy.checkpoint = f"{folder}/policy.pth"
                torch.save(MODELS.build(policy.network).state_dict(), policy.checkpoint)
                model = MODELS.build(own)
                model.backbone.sharing.policy.check()
        else:
            model = MODELS.build(own)
        model.load_state_dict(stock.state_dict())
        found[name] = WholeNetwork(model).eval()
    return found


@torch.no_grad()
def measure(args: argparse.Namespace, arch: str, size: int) -> list[dict[str, Any]]:
    """Time all networks of one size in all runtimes."""
    rounds = args.rounds
    x = torch.randn(1, 3, size, size)
    steps: dict[tuple[str, str, str], Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, network) in enumerate(networks(arch).items()):
            if name != STOCK and name not in args.models:
                continue
            for way in args.ways:
                runtime, _, compute = way.partition("-")
                if runtime == "torch":
                    half = torch.bfloat16 if compute == "bf16" else None
                    steps[name, runtime, compute] = eager(network, x, half)
                    continue
                suffix = ".onnx" if runtime == "onnxruntime" else ".xml"
                quantized = compute == "int8"
                path = Path(folder) / f"{number}{'-int8' * quantized}{suffix}"
                if not path.is_file():
                    settings = dict(precision="int8", calibration=[x]) if quantized else {}
                    report = export(network, x, path, sizes=Sizes(static=True), **settings)
                    print(f"{path.name}, {name}: differs by {report.worst:.1e}", flush=True)
                exported = load_exported(path, compute="bf16" if compute == "bf16" else "fp32")
                steps[name, runtime, compute] = lambda run=exported.run: run(x)
        for step in steps.values():
            step()
        taken = interleave({"|".join(key): step for key, step in steps.items()}, rounds, wall_timer)
    times = {key: median(taken["|".join(key)]) for key in steps}
    best = times[STOCK, "openvino", "fp32"]
    slowest = times.get((STOCK, "torch", "fp32"))
    machine = describe_machine("cpu")
    versions = " ".join(f"{p} {version(p)}" for p in ("torch", "onnxruntime", "openvino"))
    return [
        dict(
            arch=arch,
            size=size,
            model=name,
            runtime=runtime,
            compute=compute,
            over_openvino_fp32_stock=round(best / time, 3),
            over_same_runtime_stock=round(times[STOCK, runtime, compute] / time, 3),
            over_eager_stock="" if slowest is None else round(slowest / time, 3),
            rounds=rounds,
            threads=torch.get_num_threads(),
            processor=machine.get("cpu", ""),
            versions=versions,
        )
        for (name, runtime, compute), time in times.items()
    ]


def eager(network: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Callable[[], Any]:
    """A step in torch, under autocast where a dtype is given."""

    def step() -> Any:
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            return network(x)

    return step


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*MODELS_TIMED, *VITS_TIMED]
    parser.add_argument("--arch", nargs="+", default=["b0"], help="b0 to b5, vit-t, vit-s, vit-b")
    parser.add_argument("--size", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--out", type=Path, required=True, help="CSV")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=USUAL, help="runtime-precision")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if "openvino-fp32" not in args.ways:
        parser.error("--ways must name openvino-fp32, which all is compared with")
    torch.set_num_threads(args.threads)
    rows = list(csv.DictReader(args.out.open())) if args.out.is_file() else []
    done = {(row["arch"], int(row["size"])) for row in rows}
    for arch in args.arch:
        for size in args.size:
            if (arch, size) in done:
                continue
            found = measure(args, arch, size)
            rows += found
            text = csv_text(HEADS, [[row[head] for head in HEADS] for row in rows])
            write_bytes(args.out, text.encode())
            for row in found:
                print(*(row[head] for head in HEADS[:8]), flush=True)


if __name__ == "__main__":
    main()
