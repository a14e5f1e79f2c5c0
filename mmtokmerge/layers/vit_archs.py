"""Sizes of plain ViTs by name."""

from __future__ import annotations

VIT_ARCHS = {
    "t": dict(embed_dims=192, num_layers=12, num_heads=3),
    "s": dict(embed_dims=384, num_layers=12, num_heads=6),
    "b": dict(embed_dims=768, num_layers=12, num_heads=12),
    "l": dict(embed_dims=1024, num_layers=24, num_heads=16),
}
