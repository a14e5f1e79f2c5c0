"""The same mIoU from one set of weights in our model and in other packages' models, by preset.

A head whose projections are linear, as other packages have it, is first made of one of mmseg's and
trained for a while:

    python benchmarks/host_quality.py linear-head CHECKPOINT work_dirs/linear_head.pth
    mmtokmerge train b0_camvid_none --work-dir work_dirs/b0_camvid_linear --cfg-options \
        load_from=work_dirs/linear_head.pth model.decode_head.projection=linear \
        train_cfg.max_iters=400 train_cfg.val_interval=400 optim_wrapper.optimizer.lr=2e-4 \
        param_scheduler.1.end=400

    python benchmarks/host_quality.py compare b0_camvid_none \
        work_dirs/b0_camvid_linear/iter_400.pth --shape 352 480 --out OUT.csv

transformers' `SegformerForSemanticSegmentation` and segmentation_models_pytorch's `Segformer` get
the weights tensor by tensor and merge by `mmtokmerge.apply`. Images are resized to the shape, whose
sides segmentation_models_pytorch wants to be multiples of 32; logits of all are upsampled alike
(segmentation_models_pytorch's own last upsampling aligns corners and is left out). mmseg does not
import beside transformers 5, so the package is borrowed from `make test-hosts`'s environment:

    mkdir borrowed
    ln -s $PWD/.venv-hosts/lib/python3.11/site-packages/segmentation_models_pytorch* borrowed
    PYTHONPATH=borrowed python benchmarks/host_quality.py compare ...
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.evaluator import Evaluator
from rich.console import Console
from torch import Tensor, nn

import mmtokmerge
from mmtokmerge.analysis.rates.model import load_mit
from mmtokmerge.analysis.rates.run import resize_test
from mmtokmerge.commands.convert import write_checkpoint
from mmtokmerge.commands.main import guard
from mmtokmerge.engine.loading import read_config
from mmtokmerge.measure.samples import Samples
from mmtokmerge.models.overrides import merging_as
from mmtokmerge.models.weights.formats import FORMATS, WeightFormat
from mmtokmerge.models.weights.rename import rename
from mmtokmerge.models.weights.safe_load import load_weights_only
from mmtokmerge.models.weights.state_dicts import state_dict_of
from mmtokmerge.reporting.console import progress_bar
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text

HEADS = ("package", "version", "merging", "height", "width", "images", "own_miou", "host_miou")
MERGINGS = ("none", "hq", "fast", "n2d", "plus")
SMP_NAMES = (
    ("encoder.", ""),
    *((f"decoder.mlp_stage.{i}.linear.", f"decode_head.linear_c{4 - i}.proj.") for i in range(4)),
    ("decoder.fuse_stage.0.", "decode_head.linear_fuse.conv."),
    ("decoder.fuse_stage.1.", "decode_head.linear_fuse.bn."),
    ("segmentation_head.0.", "decode_head.linear_pred."),
)


def fold_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A segmentor's weights with each scale's norm folded into its convolution.

    What is left out is the ReLU behind it, so the head must be trained for a while.
    """
    out = {key: value.float() for key, value in state.items() if value.is_floating_point()}
    for scale in range(4):
        name = f"decode_head.convs.{scale}."
        norm = {key: out.pop(f"{name}bn.{key}") for key in ("weight", "bias")}
        mean, var = (out.pop(f"{name}bn.running_{key}") for key in ("mean", "var"))
        gain = norm["weight"] / (var + 1e-5).sqrt()
        out[f"{name}conv.weight"] = out[f"{name}conv.weight"] * gain[:, None, None, None]
        out[f"{name}conv.bias"] = norm["bias"] - mean * gain
    return out


def give_weights(
    own: Mapping[str, Tensor], host: nn.Module, source: WeightFormat, named: Callable[[str], str]
) -> None:
    """Load a segmentor's weights of ours into a host, by the table that converts the other way.

    The table is applied to tensors that number the host's values, so what stands where is found
    without a second table.

    Args:
        own: Our state dict.
        host: Its model.
        source: The table from the host's names to ours.
        named: The table's name of a host's key, or '' where the table has none for it.
    """
    state = {key: value for key, value in host.state_dict().items() if value.is_floating_point()}
    known = {key: named(key) for key in state if named(key)}
    numbers, count = {}, 0
    for key in known:
        size = state[key].numel()
        ids = torch.arange(count, count + size, dtype=torch.float64)
        numbers[known[key]] = ids.view(state[key].shape)
        count += size
    values = torch.full((count,), torch.nan)
    for key, ids in rename(numbers, source).weights.items():
        values[ids.long().flatten()] = own[key].float().flatten()
    if values.isnan().any():
        raise ValueError("some of the host's values got none of ours")
    start = 0
    for key in known:
        size = state[key].numel()
        state[key].copy_(values[start : start + size].view(state[key].shape))
        start += size
    for module in host.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # as ours


def transformers_model(own: Mapping[str, Tensor], classes: int) -> nn.Module:
    """transformers' SegFormer-B0 with our weights."""
    import transformers

    config = transformers.SegformerConfig(num_labels=classes)
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    if hasattr(model.segformer, "stages"):
        raise SystemExit("transformers 5 names its modules otherwise than its files: use 4.57")
    give_weights(own, model, FORMATS["hf"], lambda key: key)
    return model


def smp_model(own: Mapping[str, Tensor], classes: int) -> nn.Module:
    """segmentation_models_pytorch's SegFormer-B0 with our weights."""
    import segmentation_models_pytorch as smp

    def named(key: str) -> str:
        for theirs, table in SMP_NAMES:
            if key.startswith(theirs):
                return table + key.removeprefix(theirs)
        return ""

    model = smp.create_model("segformer", "mit_b0", None, classes=classes).eval()
    give_weights(own, model, FORMATS["nvlabs"], named)
    return model


def smp_logits(model: Any, x: Tensor) -> Tensor:
    """Logits at a quarter of the size, as ours."""
    logits: Tensor = model.segmentation_head[0](model.decoder(model.encoder(x)))
    return logits


PACKAGES: dict[str, tuple[Callable[..., nn.Module], Callable[..., Tensor]]] = {
    "transformers": (transformers_model, lambda model, x: model(pixel_values=x).logits),
    "segmentation_models_pytorch": (smp_model, smp_logits),
}


def miou(model: Any, samples: Samples, evaluator_cfg: Any, name: str, console: Console) -> float:
    """mIoU in percent of the model as it stands."""
    evaluator = Evaluator(evaluator_cfg)
    evaluator.dataset_meta = samples.metainfo
    with torch.no_grad(), progress_bar(console, name, len(samples)) as advance:
        for batch in samples:
            evaluator.process(model.test_step(batch), batch)
            advance()
    return float(evaluator.evaluate(len(samples))["mIoU"])


def compare(args: argparse.Namespace) -> None:
    """Test our model and each installed package's under each preset, and write a row for each."""
    console, shape = Console(), tuple(args.shape)
    args.cfg_options = {"model.decode_head.projection": "linear"}
    cfg = read_config(args)
    own = load_mit(cfg, args.checkpoint, "cpu")
    resize_test(cfg, shape)
    samples = Samples(cfg, "test")
    rows = list(csv.DictReader(args.out.open())) if args.out.is_file() else []
    found: dict[str, float] = {}
    for package, (build, logits) in PACKAGES.items():
        try:
            installed = version(package.replace("_", "-"))
        except ImportError:
            console.print(f"{package} is not installed here, left out")
            continue
        host = build(own.state_dict(), own.decode_head.num_classes)
        for merging in args.merging:
            if merging not in found:
                with merging_as(own.backbone, merging):
                    found[merging] = miou(own, samples, cfg.test_evaluator, merging, console)
            mmtokmerge.apply(host, merging)
            of_host = HostInside(own, host, logits)
            name = f"{package}, {merging}"
            value = miou(of_host, samples, cfg.test_evaluator, name, console)
            mmtokmerge.remove(host)
            key = {"package": package, "version": installed, "merging": merging}
            key |= {"height": str(shape[0]), "width": str(shape[1])}
            rows = [row for row in rows if any(row[head] != key[head] for head in key)]
            figures = {"own_miou": f"{found[merging]:.4f}", "host_miou": f"{value:.4f}"}
            rows.append({**key, "images": str(len(samples)), **figures})
            lines = [[row[head] for head in HEADS] for row in rows]
            write_bytes(args.out, csv_text(HEADS, lines).encode())
            console.print(f"{name}: ours {found[merging]:.3f}, theirs {value:.3f}")


class HostInside:
    """A segmentor whose images are prepared and whose logits are upsampled by ``own``.

    Args:
        own: Our segmentor.
        host: Another package's model.
        logits: Maps the host and images ``(B, 3, H, W)`` to ``(B, classes, h, w)``.
    """

    def __init__(self, own: Any, host: nn.Module, logits: Callable[..., Tensor]) -> None:
        self.own, self.host, self.logits = own, host, logits

    def test_step(self, batch: Any) -> Any:
        """Predictions as mmseg's evaluators take them."""
        data = self.own.data_preprocessor(batch, False)
        inputs, samples = data["inputs"], data["data_samples"]
        logits = self.logits(self.host, inputs)
        logits = F.interpolate(logits, inputs.shape[2:], mode="bilinear", align_corners=False)
        return self.own.postprocess_result(logits, samples)


def main() -> None:
    """Parse the command line and run one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    head = verbs.add_parser("linear-head", help="write the weights with linear projections")
    head.add_argument("checkpoint")
    head.add_argument("out", type=Path)
    both = verbs.add_parser("compare", help="ours beside other packages' models")
    both.add_argument("config")
    both.add_argument("checkpoint")
    both.add_argument("--shape", type=int, nargs=2, required=True, metavar=("H", "W"))
    both.add_argument("--merging", nargs="+", default=MERGINGS, choices=MERGINGS)
    both.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.verb == "compare":
        compare(args)
        return
    content = load_weights_only(args.checkpoint, map_location="cpu")
    weights = fold_projections(state_dict_of(content, args.checkpoint))
    write_checkpoint({"meta": {}, "state_dict": weights}, args.out)


if __name__ == "__main__":
    sys.exit(guard(main))
