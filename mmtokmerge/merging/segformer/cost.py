"""What merging costs and saves: equations 3 to 7 of Segformer++, and exact operation counts.

The equations say how attention grows with the number of tokens. The counts say what the encoder
runs: 1 MAC is one multiplication with its addition, 2 FLOPs. Norms, activations, softmax,
interpolation and the means over groups grow linearly with the tokens and are not counted, as in
:class:`torch.utils.flop_counter.FlopCounterMode`, against which the counts are tested.

``mmtokmerge cost --arch b5 --size 1024 1024`` prints a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmtokmerge.merging.matcher import Matcher, StageMerging
from mmtokmerge.merging.segformer.arch import MiTArch

PARTS = (
    "patch_embedding",
    "spatial_reduction",
    "projections",
    "matching",
    "attention",
    "mix_ffn",
)


def vanilla_attention(n: float, d: float) -> float:
    """Equation 3: attention among N tokens of D channels, ``N^2 D``."""
    return n**2 * d


def spatial_reduction_attention(n: float, d: float, r: float) -> float:
    """Equation 4: keys and values reduced by a convolution of stride R, ``N^2 D / R^2``."""
    return n**2 * d / r**2


def reduction_factor(rate: float) -> float:
    """Equation 5: the factor lambda that a rate divides the number of tokens by, ``1 / (1 - r)``.

    Raises:
        ValueError: If not ``0 <= rate < 1``.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate!r} must be at least 0 and below 1")
    return 1 / (1 - rate)


def token_merging_attention(n: float, d: float, rate: float) -> float:
    """Equation 6: queries, keys and values merged by one matching of halves.

    ``(lambda^-2 + 1/4) N^2 D``.
    """
    return (reduction_factor(rate) ** -2 + 0.25) * n**2 * d


def segformerpp_attention(n: float, d: float, r: float, rate_q: float, rate_kv: float) -> float:
    """Equation 7: queries merged, keys and values reduced by stride R and then merged.

    ``(1 / (lambda_kv lambda_q R^2) + (1 + R^4) / (4 R^4)) N^2 D``. Both matchings are counted, as
    in the paper, also where a rate is 0; :func:`encoder_cost` counts what runs.
    """
    merged = 1 / (reduction_factor(rate_kv) * reduction_factor(rate_q) * r**2)
    return (merged + 0.25 * (1 + r**4) / r**4) * n**2 * d


@dataclass(frozen=True)
class StageCost:
    """Tokens and MACs of one stage, all its layers and the whole batch.

    Args:
        grid: Tokens ``(h, w)`` of the stage.
        reduced_grid: Keys ``(h, w)`` after spatial reduction.
        queries: Queries kept, of ``h * w``.
        keys: Keys and values kept, of the reduced grid.
        patch_embedding: MACs of the strided convolution in front.
        spatial_reduction: MACs of the keys' strided convolutions.
        projections: MACs of q, k, v and output projections, on merged tokens; with one head the
            output projection acts on the values.
        matching: MACs of the similarities with the destinations.
        attention: MACs of ``Q K^T`` and of the product with V.
        mix_ffn: MACs of the two linear layers and the depthwise convolution.
    """

    grid: tuple[int, int]
    reduced_grid: tuple[int, int]
    queries: int
    keys: int
    patch_embedding: int
    spatial_reduction: int
    projections: int
    matching: int
    attention: int
    mix_ffn: int

    @property
    def macs(self) -> int:
        """MACs of all parts."""
        return sum(getattr(self, part) for part in PARTS)


def encoder_cost(
    arch: MiTArch,
    merging: Sequence[StageMerging],
    size: tuple[int, int],
    *,
    batch: int = 1,
    in_channels: int = 3,
    downsample: int = 1,
) -> list[StageCost]:
    """Count the operations of MiT++ for each of its four stages.

    Args:
        arch: Sizes of the encoder.
        merging: What each stage merges, from :func:`mmtokmerge.merging.read_merging`.
        size: Image ``(H, W)`` in pixels.
        batch: Images.
        in_channels: Channels of the image.
        downsample: 2 where the encoder halves the image first.

    Raises:
        ValueError: If a side of the image or the batch is below 1.
    """
    if min(*size, batch) < 1:
        raise ValueError(f"size and batch must be at least 1, got size={size} and batch={batch}")
    height, width = (-(-side // downsample) for side in size)
    stages = []
    for index, grid in enumerate(arch.grids(height, width)):
        stages.append(_stage(arch, index, grid, merging[index], batch, in_channels))
        in_channels = arch.channels[index]
    return stages


def total_macs(stages: Sequence[StageCost]) -> int:
    """MACs of the encoder, 1 MAC = 2 FLOPs."""
    return sum(stage.macs for stage in stages)


def _stage(
    arch: MiTArch,
    index: int,
    grid: tuple[int, int],
    merging: StageMerging,
    batch: int,
    in_channels: int,
) -> StageCost:
    channels, ratio = arch.channels[index], arch.sr_ratios[index]
    layers = batch * arch.num_layers[index]
    matchings = batch * -(-arch.num_layers[index] // merging.reuse)
    tokens = grid[0] * grid[1]
    reduced_grid = arch.reduced(index, grid)
    reduced = reduced_grid[0] * reduced_grid[1]
    queries, query_comparisons = _kept(merging.q, grid)
    keys, key_comparisons = _kept(merging.kv, reduced_grid)
    outputs = keys if arch.num_heads[index] == 1 else queries
    hidden = arch.mlp_ratio * channels
    return StageCost(
        grid,
        reduced_grid,
        queries,
        keys,
        patch_embedding=batch * tokens * in_channels * channels * arch.patch_sizes[index] ** 2,
        spatial_reduction=layers * reduced * (channels * ratio) ** 2 if ratio > 1 else 0,
        projections=layers * (queries + 2 * keys + outputs) * channels**2,
        matching=matchings * (query_comparisons + key_comparisons) * channels,
        attention=layers * 2 * queries * keys * channels,
        mix_ffn=layers * tokens * hidden * (2 * channels + 9),
    )


def _kept(matcher: Matcher | None, grid: tuple[int, int]) -> tuple[int, int]:
    """How many tokens of a grid are kept, and how many cosines choose them."""
    if matcher is None:
        return grid[0] * grid[1], 0
    return matcher.num_groups(grid), matcher.num_comparisons(grid)
