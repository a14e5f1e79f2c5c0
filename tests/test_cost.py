"""Costs: hand-worked equations, and counts against torch's own counter on the real encoder."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmtokmerge.commands.main import main
from mmtokmerge.merging import PRESETS, read_merging
from mmtokmerge.merging.segformer import cost, cost_table
from mmtokmerge.merging.segformer.arch import MIT_ARCHS

BOTH = [dict(r_q=0.5, q_stride=2, r_kv=0.5, kv_stride=(2, 4))] * 4
N1D = [dict(q_mode="n1d", q_stride=3, kv_mode="n1d", kv_stride=2, proportional=True)] * 4
LOCAL = [
    dict(r_q=0.9, q_stride=4, r_kv=0.5, kv_stride=(2, 4), match="local", reuse=2),
    dict(q_mode="n2d", unmerge="bilinear", r_kv=0.9, kv_stride=4, match="local"),
    dict(r_q=0.7, q_stride=(3, 2), reuse=4, destination="centre"),
    dict(r_q=0.5, match="local", reuse=9),
]
SIZES = [(61, 97), (64, 64), (17, 9), (1, 1)]


OWN = ["both", "n1d", "local"]


def test_equations_worked_by_hand():
    n, d = 4096, 32
    assert cost.vanilla_attention(n, d) == 536870912  # 4096^2 * 32
    assert cost.spatial_reduction_attention(n, d, 8) == 8388608  # the above / 64
    assert cost.reduction_factor(0.5) == 2
    assert cost.reduction_factor(0.8) == pytest.approx(5)
    assert cost.token_merging_attention(n, d, 0.5) == 268435456  # 1/4 + 1/4
    # R = 2, both rates 1/2: 1 / (2 * 2 * 4) + (1 + 16) / (4 * 16) = 4/64 + 17/64
    assert cost.segformerpp_attention(n, d, 2, 0.5, 0.5) == 536870912 * 21 / 64
    # R = 1, queries merged alone: 1 / 5 + 2 / 4
    assert cost.segformerpp_attention(1, 1, 1, 0.8, 0) == pytest.approx(0.7)


@pytest.mark.parametrize("rate", [-0.1, 1])
def test_a_rate_outside_0_to_1_is_an_error(rate):
    with pytest.raises(ValueError, match=f"rate={rate} must be at least 0 and below 1"):
        cost.reduction_factor(rate)


def test_one_stage_worked_by_hand():
    # B0 'hq' at 64 x 64, stage 1: 16 x 16 tokens of 32 channels in 2 layers, keys on 2 x 2, of
    # which int(4 * 0.6) = 2 merge into the single destination.
    stage = cost.encoder_cost(MIT_ARCHS["b0"], read_merging("hq"), (64, 64))[0]
    assert (stage.grid, stage.reduced_grid, stage.queries, stage.keys) == ((16, 16), (2, 2), 256, 2)
    assert stage.patch_embedding == 256 * 3 * 32 * 49
    assert stage.spatial_reduction == 2 * 4 * 32 * 32 * 64
    # With one head the output projection acts on the 2 values, not on the 256 queries.
    assert stage.projections == 2 * (256 * 32 * 32 + 3 * 2 * 32 * 32)
    assert stage.matching == 2 * 4 * 1 * 32
    assert stage.attention == 2 * 2 * 256 * 2 * 32
    assert stage.mix_ffn == 2 * (2 * 256 * 32 * 128 + 256 * 128 * 9)


def encoder(arch, merging, device):
    """The real encoder, with its attention spelled out for the counter."""
    from mmtokmerge.models.backbones import MiTPlusPlus

    with torch.device(device):
        return MiTPlusPlus(arch, merging, fused_attention=False).eval()


def flops_run(model, size, batch):
    """What torch counts; with gradients, as MixFFN then repeats no halo rows."""
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(batch, 3, *size, device=device))
    return counter.get_total_flops()


@pytest.mark.parametrize("arch", ["b0", "b1", "b2"])
@pytest.mark.parametrize("merging", [*PRESETS, BOTH, N1D, LOCAL], ids=[*PRESETS, *OWN])
def test_counts_are_those_of_the_encoder_on_small_images(arch, merging):
    model = encoder(arch, merging, "meta")
    for size in SIZES if arch == "b0" else SIZES[:1]:
        stages = cost.encoder_cost(MIT_ARCHS[arch], read_merging(merging), size, batch=2)
        assert 2 * cost.total_macs(stages) == flops_run(model, size, 2), size


@pytest.mark.parametrize("size", [(512, 512), (1024, 2048), (1079, 1917)])
@pytest.mark.parametrize("merging", ["none", "hq", "fast", "n2d"])
def test_counts_are_those_of_the_encoder_on_large_images(merging, size):
    stages = cost.encoder_cost(MIT_ARCHS["b0"], read_merging(merging), size)
    assert 2 * cost.total_macs(stages) == flops_run(encoder("b0", merging, "meta"), size, 1)


def test_options_worked_by_hand():
    """B0 at 128 x 128, stage 3: 8 x 8 tokens of 160 channels in 2 layers, four cells of 4 x 4."""
    counts = []
    for options in ({}, dict(reuse=2), dict(match="local"), dict(match="local", reuse=5)):
        merging = read_merging([{}, {}, dict(r_q=0.8, q_stride=4, **options), {}])
        counts.append(cost.encoder_cost(MIT_ARCHS["b0"], merging, (128, 128))[2].matching)
    assert counts == [2 * 64 * 4 * 160, 64 * 4 * 160, 2 * 64 * 9 * 160, 64 * 9 * 160]


def test_downsampling_counts_the_halved_image():
    arch, none = MIT_ARCHS["b0"], read_merging("none")
    halved = cost.encoder_cost(arch, none, (97, 161), downsample=2)
    assert halved == cost.encoder_cost(arch, none, (49, 81))


def test_an_empty_image_is_an_error():
    with pytest.raises(ValueError, match="must be at least 1, got size=\\(0, 64\\)"):
        cost.encoder_cost(MIT_ARCHS["b0"], read_merging("none"), (0, 64))


def test_the_limit_is_a_ratio_of_macs():
    costs = cost_table.preset_costs(MIT_ARCHS["b5"], (1024, 1024))
    limits = cost_table.speedup_limits(costs)
    assert limits["none"] == 1
    assert limits["hq"] == cost.total_macs(costs["none"]) / cost.total_macs(costs["hq"])
    assert 1 < limits["hq"] < limits["n2d"] < limits["fast"]


def test_the_table_names_every_preset_and_part(capsys):
    assert main(["cost", "--arch", "b0", "--size", "64", "64"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in (*PRESETS, "matching", "mix ffn", "limit", "256 x 2"))


def test_the_command_line_refuses_an_empty_image(capsys):
    assert main(["cost", "--size", "0", "64"]) == 1
    assert "--size 0 64: both must be at least 1" in capsys.readouterr().err
