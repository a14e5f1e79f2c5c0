"""Which encoders by others take part, and how their models are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mmengine.config import ConfigDict

from mmtokmerge.benchmark.baselines import mit_settings, type_name, with_encoder
from mmtokmerge.errors import InputError
from mmtokmerge.merging import StageMerging
from mmtokmerge.merging.matcher import BipartiteMatcher, Matcher
from mmtokmerge.merging.segformer.presets import PRESETS, read_merging

# Word of --peers, and the package that it needs.
PEERS = {"huggingface": "transformers", "tomesd": "tomesd", "tomesd-stock": "tomesd"}
INSTALL = {"transformers": "'transformers<5'", "tomesd": "--no-deps tomesd"}


def read_peers(words: Sequence[str]) -> list[str]:
    """Read ``--peers``.

    Raises:
        InputError: If a name is unknown or its package is not installed.
    """
    for word in words:
        if word not in PEERS:
            raise InputError(f"--peers {word!r} is unknown, allowed are {', '.join(PEERS)}.")
        package = PEERS[word]
        if find_spec(package) is None:
            raise InputError(
                f"--peers {word} needs the package {package}, which is not installed: "
                f"pip install {INSTALL[package]}"
            )
    return [word for word in PEERS if word in words]


def peer_models(
    peers: Sequence[str], configs: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[tuple[str, ConfigDict]]:
    """Name and config of each peer's model.

    Args:
        peers: The peers, from :func:`read_peers`.
        configs: Name and ``model`` of each config; peers follow the first one's network, and tomesd
            merges as each of the others of the same size does.

    Raises:
        InputError: If the first config has no MiT++, or no config merges as tomesd can.
    """
    first = configs[0][1]
    if peers and type_name(first["backbone"]) != "MiTPlusPlus":
        raise InputError(
            f"--peers {' '.join(peers)} run SegFormer's encoder, so the first config needs the "
            f"backbone mmtokmerge.MiTPlusPlus, but it has {type_name(first['backbone'])}."
        )
    models = []
    if "huggingface" in peers:
        from mmtokmerge.benchmark.peers.huggingface import HuggingFaceMiT

        backbone = dict(type=HuggingFaceMiT, **mit_settings(first["backbone"]))
        models.append(("huggingface", with_encoder(first, backbone)))
    for word in ("tomesd", "tomesd-stock"):
        if word in peers:
            models += _tomesd_models(configs, word)
    return models


def _tomesd_models(
    configs: Sequence[tuple[str, Mapping[str, Any]]],
    word: str,
) -> list[tuple[str, ConfigDict]]:
    from mmtokmerge.benchmark.peers.tomesd import TomesdMixVisionTransformer

    first = configs[0][1]
    settings = mit_settings(first["backbone"])
    models: dict[str, ConfigDict] = {}
    for name, model in configs:
        backbone = model["backbone"]
        if type_name(backbone) != "MiTPlusPlus" or mit_settings(backbone) != settings:
            continue
        merging = read_merging(backbone.get("merging", "none"), backbone.get("proportional"))
        if not _merges_plainly(merging) or backbone.get("downsample", 1) != 1:
            continue
        presets = [word for word in PRESETS if read_merging(word) == merging]
        fused = word == "tomesd"
        encoder = dict(type=TomesdMixVisionTransformer, merging=merging, fused=fused, **settings)
        models[f"{word} {presets[0] if presets else name}"] = with_encoder(first, encoder)
    if not models:
        raise InputError(
            f"--peers {word} merges by rate as the presets hq and fast do, but no config merges "
            "so: add one."
        )
    return list(models.items())


def _merges_plainly(merging: Sequence[StageMerging]) -> bool:
    """Whether stages merge by rate with no option beyond the paper, and one at least merges."""
    return any(stage != StageMerging() for stage in merging) and all(
        stage == StageMerging(_plain(stage.q), _plain(stage.kv)) for stage in merging
    )


def _plain(matcher: Matcher | None) -> Matcher | None:
    bipartite = isinstance(matcher, BipartiteMatcher)
    return BipartiteMatcher(matcher.rate, matcher.stride) if bipartite else None
