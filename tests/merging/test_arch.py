"""The sizes of B0 to B5, and what a config may say instead of a name."""

from __future__ import annotations

from typing import Any

import pytest

from mmtokmerge.merging.segformer.arch import MIT_ARCHS, read_arch

LAYERS = {
    "b0": (2, 2, 2, 2),
    "b1": (2, 2, 2, 2),
    "b2": (3, 4, 6, 3),
    "b3": (3, 4, 18, 3),
    "b4": (3, 8, 27, 3),
    "b5": (3, 6, 40, 3),
}


def test_published_sizes() -> None:
    assert set(MIT_ARCHS) == set(LAYERS)
    for name, layers in LAYERS.items():
        arch = read_arch(name)
        assert arch.num_layers == layers
        assert arch.channels == ((32, 64, 160, 256) if name == "b0" else (64, 128, 320, 512))
        assert arch.num_heads == (1, 2, 5, 8)
        assert arch.sr_ratios == (8, 4, 2, 1)


@pytest.mark.parametrize(
    ("size", "grids"),
    [
        ((1024, 1024), [(256, 256), (128, 128), (64, 64), (32, 32)]),
        ((360, 480), [(90, 120), (45, 60), (23, 30), (12, 15)]),
        ((97, 161), [(25, 41), (13, 21), (7, 11), (4, 6)]),
        ((17, 9), [(5, 3), (3, 2), (2, 1), (1, 1)]),
    ],
)
def test_grids(size: tuple[int, int], grids: list[tuple[int, int]]) -> None:
    """Each stage rounds up: ceil(side / 4), then halves of that."""
    assert read_arch("b0").grids(*size) == grids


@pytest.mark.parametrize(
    ("arch", "error", "message"),
    [
        ("b6", ValueError, "arch='b6'.*b0.*b5"),
        ("", ValueError, "arch=''.*b0"),
        (0, TypeError, "arch.*0"),
        (None, TypeError, "arch.*None"),
        (dict(embed_dims=32), ValueError, "num_layers"),
        (dict(num_layers=[2, 2, 2, 2]), ValueError, "embed_dims"),
        (dict(embed_dims=32, num_layers=[2, 2, 2]), ValueError, r"num_layers.*four.*\(2, 2, 2\)"),
        (dict(embed_dims=32, num_layers=2), TypeError, "num_layers.*2"),
        (dict(embed_dims=0, num_layers=[2] * 4), (TypeError, ValueError), "embed_dims.*0"),
        (dict(embed_dims="32", num_layers=[2] * 4), TypeError, "embed_dims.*'32'"),
        (dict(embed_dims=32, num_layers=[2] * 4, depth=3), ValueError, "'depth'.*num_layers"),
        (dict(embed_dims=32, num_layers=[2] * 4, qkv_bias=1), TypeError, "qkv_bias.*1"),
        (dict(embed_dims=32, num_layers=[2] * 4, sr_ratios=[8, 4, 2]), ValueError, "sr_ratios"),
        (dict(embed_dims=32, num_layers=[2] * 4, mlp_ratio=[4] * 4), TypeError, "mlp_ratio"),
    ],
)
def test_wrong_archs_are_one_sentence(arch: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        read_arch(arch)
