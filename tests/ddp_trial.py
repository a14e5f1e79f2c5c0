"""Trains every family's smallest config for two steps in one of two processes; prints what failed.

Run by test_ddp_families.py, once for each process: ``ddp_trial.py RANK PORT CHECKPOINT``.
``DistributedDataParallel`` stops in the second step where a parameter had no gradient in the first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.utils import register_all_modules
from torch.nn.parallel import DistributedDataParallel

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests" / "reference"))

# The folders of the helpers must be on the path before.
from pose_helpers import synthetic_batch  # noqa: E402
from run_vit_configs import make_batch, narrow_model  # noqa: E402

from mmtokmerge.layers.reducers.base import ThresholdReducer  # noqa: E402
from mmtokmerge.pose import import_mmpose  # noqa: E402

PLAIN = (
    "algm/segmenter_vit-t_camvid_algm",
    "algm/setr_vit-t_camvid_algm",
    "algm/setr-mla_vit-l_ade20k_algm",
    "algm/setr-pup_vit-l_ade20k_none",
    "algm/segvit_vit-t_camvid_algm",
    "algm/upernet_vit-b_ade20k_algm",
    "cts/segmenter_vit-t_camvid_oracle",
    "cts/segmenter_vit-b-linear_ade20k_none",
    "cts/segmenter_deit-b_ade20k_none",
    "cts/segmenter_beit-b_ade20k_none",
)
CONVOLUTIONAL = ("segformerpp/b0_camvid_plus", "segformerpp/b0_camvid_hq")
POLICY = ("cts/policynet_camvid",)
POSE = ("segformerpp/b0_mouse_plus",)


def build(name: str) -> tuple[Any, tuple[Any, Any]]:
    """A family's model, narrow where it is a ViT, and two images with what the loss needs."""
    cfg = Config.fromfile(REPO / "configs" / f"{name}.py")
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        if name in PLAIN:
            model = MODELS.build(narrow_model(cfg.model))
        else:
            for part in ("backbone", "network"):
                cfg.model.get(part, {}).pop("init_cfg", None)
            model = MODELS.build(cfg.model)
        model.init_weights()
    for module in model.modules():
        if isinstance(module, ThresholdReducer) and module.auto:
            module.threshold = 0.0
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if name in POSE:
        return model, synthetic_batch(model.head.out_channels, (64, 64), batch=2)
    if name in POLICY:
        images, samples = make_batch(2)
        for sample in samples:  # one label for each superpatch of 2x2 patches
            label = sample.gt_sem_seg.data[:, 16::32, 16::32]
            sample.gt_sem_seg = PixelData(data=label)
        return model, (images, samples)
    return model, make_batch(cfg.model.decode_head.num_classes)


def main() -> None:
    """Train each family in turn; every process goes through all of them."""
    rank, port = int(sys.argv[1]), sys.argv[2]
    register_all_modules(init_default_scope=False)
    import_mmpose()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    failed = {}
    for name in (*PLAIN, *CONVOLUTIONAL, *POLICY, *POSE):
        torch.manual_seed(rank)
        model, (images, samples) = build(name)
        wrapped = DistributedDataParallel(model.train())
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        try:
            for _ in range(2):
                found = wrapped(images, samples, mode="loss")
                loss, _ = model.parse_losses(found)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        except RuntimeError as error:
            without = [
                key for key, p in model.named_parameters() if p.requires_grad and p.grad is None
            ]
            failed[name] = f"{error} {without}"
        sums = torch.stack([p.detach().sum() for p in model.parameters()])
        both = [torch.zeros_like(sums) for _ in range(2)]
        dist.all_gather(both, sums)
        if not torch.equal(*both):
            failed.setdefault(name, "the processes have other weights")
    if rank == 0:
        print(json.dumps(failed))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
