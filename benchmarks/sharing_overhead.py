"""How much of a forward pass token sharing and unsharing take, without the policy (CTS).

    python benchmarks/sharing_overhead.py configs/cts/segmenter_vit-s_ade20k_random.py

Times, in turn with the whole network, what a network without sharing does not do: turning scores
into an assignment, projecting superpatches and picking tokens, and giving the logits of tokens back
to their patches. Prints medians of each over that of the whole.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median

import torch

from mmtokmerge.benchmark.candidates import build_candidates
from mmtokmerge.benchmark.options import Settings
from mmtokmerge.benchmark.steps import make_step, random_images
from mmtokmerge.commands.main import guard
from mmtokmerge.engine.launch import load_config
from mmtokmerge.errors import InputError
from mmtokmerge.measure.timing import interleave, wall_timer


@torch.no_grad()
def main() -> None:
    """Parse the command line, time and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="a config with backbone.sharing")
    parser.add_argument("--shape", type=int, nargs=2, default=(512, 512), metavar=("H", "W"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = Settings(shapes=(tuple(args.shape),))
    configs = [(args.config, load_config(args.config))]
    candidate = build_candidates(configs, (), settings)[0]
    sharing, backbone = candidate.sharing, candidate.model.backbone
    if sharing is None:
        raise InputError(f"{args.config} has no backbone.sharing.")
    images = random_images(candidate, settings, settings.shapes[0], 1)
    tokens, hw = backbone.patch_embed(images)
    position = backbone.positions(backbone.pos_embed, hw)[:, 1:]
    state = sharing(images, hw, backbone.patch_size)
    logits = torch.randn(1, state.num_groups, candidate.model.decode_head.num_classes)
    parts = {
        "policy and assignment": lambda: sharing(images, hw, backbone.patch_size),
        "policy": lambda: policy(sharing, images, hw, backbone.patch_size),
        "shared tokens": lambda: backbone._share(images, tokens, position, state, hw),
        "unsharing": lambda: state.unmerge(logits),
        "network": make_step(candidate, settings, images),
    }
    for step in parts.values():
        wall_timer(step)
    times = {
        name: median(samples) for name, samples in interleave(parts, args.runs, wall_timer).items()
    }
    times["assignment"] = times.pop("policy and assignment") - times.pop("policy")
    whole = times.pop("network")
    for name, spent in times.items():
        print(f"{name}: {spent / whole:.2%} of the network")
    print(f"sharing and unsharing: {sum(times.values()) / whole:.2%}")


def policy(
    sharing: torch.nn.Module, images: torch.Tensor, hw: tuple[int, int], patch_size: int
) -> torch.Tensor:
    """The policy alone."""
    from mmtokmerge.models.policies import PolicyInput

    return sharing.policy(PolicyInput(images, hw, patch_size, sharing.normalisation))


if __name__ == "__main__":
    sys.exit(guard(main))
