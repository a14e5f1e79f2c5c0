"""ViT-Adapter (Chen et al. 2023): maps of four scales from any plain ViT, merging included."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmtokmerge.checks import boolean, number_in, one_of, whole_number
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.layers.adapter import Extractor, Injector, Interaction, SpatialPrior
from mmtokmerge.layers.deformable_attention import DeformableAttention, centres
from mmtokmerge.layers.images import check_images
from mmtokmerge.layers.layout import to_map
from mmtokmerge.models.backbones.deformable_operator import use_compiled
from mmtokmerge.models.backbones.vision_transformer import VisionTransformer
from mmtokmerge.models.weights.pretrained import initialise
from mmtokmerge.registry import MODELS


@MODELS.register_module()
class ViTAdapter(BaseModule):
    """A plain ViT and a convolutional branch that exchange features several times.

    The layers are dealt out to interactions. Each injects the branch's maps into the patches, runs
    its layers, and extracts from the patches into the maps. Injector and extractor meet every patch
    (ALGM, table 7: in EVA tokens merge in layers 1, 11, 21 and 31, the first of each interaction,
    so they are whole again between them): merging ends with an interaction and begins again in the
    next, where a reducer names one of its layers.

    Modules but ``vit`` are named as in the published checkpoints.

    Args:
        vit: Config of a plain ViT, :class:`mmtokmerge.VisionTransformer`, ``BEiT`` or ``EVA``, with
            patches of 16 pixels and without ``sharing``; its ``reducers`` merge.
        interactions: First and last layer of each interaction, counted from 0, or how many of equal
            length there are.
        stem_channels: First channels of the spatial prior.
        num_heads: Heads of the deformable attention.
        num_points: Points of the deformable attention in each map.
        value_ratio: Channels of its values over C.
        ffn_ratio: Hidden channels of the extractors' FFN over C.
        extra_extractors: Whether the last interaction extracts twice more.
        add_vit_features: Whether the patches after each interaction are added to the four maps.
        init_values: What the injectors' scales begin with.
        drop_path_rate: Stochastic depth of the extractors.
        norm_cfg: mmcv's config of the maps' norms; SyncBN in the papers.
        with_cp: Recompute injectors and extractors in the backward pass to save memory.
        init_cfg: MMEngine's initialisation.

    Raises:
        TypeError: If a setting has the wrong type.
        ValueError: If a setting is unknown, out of range or would do nothing.
    """

    def __init__(
        self,
        vit: Mapping[str, Any],
        interactions: int | Sequence[Sequence[int]] = 4,
        stem_channels: int = 64,
        num_heads: int = 16,
        num_points: int = 4,
        value_ratio: float = 0.5,
        ffn_ratio: float = 0.25,
        extra_extractors: bool = True,
        add_vit_features: bool = True,
        init_values: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: Mapping[str, Any] | None = None,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not isinstance(vit, Mapping):
            raise InputTypeError(f"vit must be the config of a plain ViT, got {vit!r}")
        found = MODELS.build(dict(vit))
        if not isinstance(found, VisionTransformer):
            raise InputError(f"vit must be one of mmtokmerge's plain ViTs, got {vit.get('type')!r}")
        for name, wrong in (("sharing", found.sharing), ("final_norm", found.ln1)):
            if wrong is not None:
                raise InputError(f"vit.{name} does not go with an adapter, which needs all patches")
        if found.patch_size != 16:
            raise InputError(f"vit.patch_size must be 16, got {found.patch_size}")
        if found.out_indices != (len(found.layers) - 1,):
            raise InputError("vit.out_indices does nothing: the adapter makes the maps")
        whole_number("stem_channels", stem_channels, 1)
        for name, number in (("value_ratio", value_ratio), ("ffn_ratio", ffn_ratio)):
            if number_in(name, number, 0, 64) == 0:
                raise InputError(f"{name} must be above 0, got {number}")
        number_in("drop_path_rate", drop_path_rate, 0, 1, below=True)
        for name, flag in (
            ("extra_extractors", extra_extractors),
            ("add_vit_features", add_vit_features),
            ("with_cp", with_cp),
        ):
            boolean(name, flag)
        self.vit = found
        self.with_cp = with_cp
        self.add_vit_features = add_vit_features
        self.ranges = read_interactions(interactions, len(found.layers))
        if add_vit_features and len(self.ranges) != 4:
            raise InputError(
                f"add_vit_features=True needs 4 interactions, one a map, got {len(self.ranges)}"
            )
        use_compiled()
        channels = self.embed_dims = found.embed_dims
        settings = dict(norm_cfg) if norm_cfg is not None else dict(type="SyncBN")
        one_of("norm_cfg.type", settings.get("type"), ("SyncBN", "BN", "GN"))

        def map_norm(width: int) -> nn.Module:
            made: nn.Module = build_norm_layer(dict(settings), width)[1]
            return made

        layer_norm = partial(nn.LayerNorm, eps=1e-6)
        attention: dict[str, Any] = dict(
            num_heads=num_heads, num_points=num_points, value_ratio=value_ratio
        )

        def extractor() -> Extractor:
            own = dict(ffn_ratio=ffn_ratio, drop_path=drop_path_rate)
            return Extractor(channels, layer_norm, **attention, **own)

        self.level_embed = nn.Parameter(torch.zeros(3, channels))
        self.spm = SpatialPrior(stem_channels, channels, map_norm, found.in_channels)
        last = len(self.ranges) - 1
        self.interactions = nn.ModuleList(
            Interaction(
                Injector(channels, layer_norm, init_values, **attention),
                extractor(),
                [extractor(), extractor()] if extra_extractors and index == last else (),
            )
            for index in range(len(self.ranges))
        )
        self.up = nn.ConvTranspose2d(channels, channels, 2, 2)
        for number in range(1, 5):
            setattr(self, f"norm{number}", map_norm(channels))

    def init_weights(self) -> None:
        """The ViT's as its own ``init_cfg`` says, the adapter's at random, or ``init_cfg``."""
        self.vit.init_weights()
        initialise(self, self.init_cfg, self._init_adapter)

    def _init_adapter(self) -> None:
        nn.init.normal_(self.level_embed)
        for part in (self.spm, self.interactions, self.up):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                    nn.init.zeros_(module.bias)
                elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                    fan = math.prod(module.kernel_size) * module.out_channels // module.groups
                    nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images ``(B, 3, H, W)`` to maps ``(B, C, h, w)`` of 1/4, 1/8, 1/16 and 1/32."""
        check_images(x, self.vit.in_channels)
        first, *rest = self.spm(x)
        shapes = [(each.shape[2], each.shape[3]) for each in rest]
        maps = torch.cat(
            [
                each.flatten(2).transpose(1, 2) + self.level_embed[level]
                for level, each in enumerate(rest)
            ],
            dim=1,
        )
        tokens, flow = self.vit.embed(x)
        grid, ahead = flow.grid, self.vit.num_prefix
        of_patches = centres(grid, x.device, torch.float32)
        of_maps = torch.cat([centres(shape, x.device, torch.float32) for shape in shapes])
        of_vit = []
        for interaction, layers in zip(self.interactions, self.ranges, strict=True):
            patches = self._run(interaction.injector, tokens[:, ahead:], of_patches, maps, shapes)
            tokens = torch.cat([tokens[:, :ahead], patches], dim=1) if ahead else patches
            flow = self.vit.reduction(grid, None)
            for _, passed in self.vit.through(tokens, flow, layers):
                tokens = passed
            flow.finish(tokens)
            tokens = flow.spread(tokens)
            patches = tokens[:, ahead:]
            for extractor in (interaction.extractor, *(interaction.extra_extractors or ())):
                maps = self._run(extractor, maps, of_maps, shapes, patches, grid)
            of_vit.append(patches)
        parts = maps.transpose(1, 2).split([h * w for h, w in shapes], dim=2)
        levels = [part.unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]
        up = self.up(levels[0])[..., : first.shape[2], : first.shape[3]]
        levels = [first + up, *levels]
        if self.add_vit_features:
            levels = [
                level + F.interpolate(to_map(own, grid), level.shape[2:], mode="bilinear")
                for level, own in zip(levels, of_vit, strict=True)
            ]
        return tuple(getattr(self, f"norm{n}")(level) for n, level in enumerate(levels, 1))

    def _run(self, module: nn.Module, *args: Any) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            out: Tensor = checkpoint(module, *args, use_reentrant=False)
            return out
        return module(*args)


def plain_vit_of(backbone: Any) -> Any:
    """The ViT that an adapter holds, or the backbone itself."""
    return backbone.vit if isinstance(backbone, ViTAdapter) else backbone


def read_interactions(setting: Any, depth: int) -> list[range]:
    """The layers of each interaction, counted from 0.

    Raises:
        TypeError: It is neither a number nor pairs of numbers.
        ValueError: The pairs do not cover the layers in their order.
    """
    if isinstance(setting, int) and not isinstance(setting, bool):
        whole_number("interactions", setting, 1)
        if depth % setting:
            raise InputError(f"interactions={setting} must divide the ViT's {depth} layers")
        step = depth // setting
        return [range(start, start + step) for start in range(0, depth, step)]
    if not isinstance(setting, (list, tuple)) or any(
        not isinstance(each, (list, tuple)) or len(each) != 2 for each in setting
    ):
        raise InputTypeError(
            f"interactions must be a number, or pairs such as (0, 2), got {setting!r}"
        )
    ranges = [range(first, last + 1) for first, last in setting]
    if [index for each in ranges for index in each] != list(range(depth)) or not all(ranges):
        raise InputError(
            f"interactions={setting!r} must be pairs of the first and last of all {depth} layers"
        )
    return ranges
