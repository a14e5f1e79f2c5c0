"""The plain Vision Transformer, with tokens shared (CTS) and merged (ALGM) where a config says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import constant_init, kaiming_init, trunc_normal_
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmtokmerge.errors import InputError
from mmtokmerge.layers import PatchEmbed, RelativePositions, TokenFeatures, ViTLayer
from mmtokmerge.layers.layout import to_map
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.grid import pair
from mmtokmerge.merging.superpatch_sharing import superpatch_rows
from mmtokmerge.models.backbones.position_embedding import (
    PositionEmbedding,
    read_pos_embed,
    without_distillation,
)
from mmtokmerge.models.backbones.vit_options import (
    VIT_ARCHS,
    build_reducers,
    check_unpadded,
    read_arch,
    read_out_indices,
)
from mmtokmerge.models.policies import TokenSharing
from mmtokmerge.models.reducers import Reducer, ThresholdReducer
from mmtokmerge.registry import MODELS

OUT_TYPES = ("map", "tokens")


@dataclass(frozen=True, eq=False)
class Observation:
    """What :meth:`VisionTransformer.observing` reports of one layer.

    Args:
        layer: Layer, counted from 1.
        tokens: ``(B, M, C)`` after the attention's residual, before anything merges there; those
            of patches alone, without class and distillation token.
        before: What stood together before, from the patches to the M rows.
        after: What stands together once the reducers between attention and MLP have acted.
        hw: The grid of the patches.
    """

    layer: int
    tokens: Tensor
    before: TokenAssignment
    after: TokenAssignment
    hw: tuple[int, int]


@MODELS.register_module()
class VisionTransformer(BaseModule):
    """Plain ViT with the state dict of mmseg's ``VisionTransformer``, and its features.

    Args:
        arch: 't', 's', 'b' or 'l', or a dict with ``embed_dims``, ``num_layers``, ``num_heads``.
        img_size: Image that the position embeddings are kept for, an int or (h, w), in pixels;
            they are interpolated for other sizes.
        patch_size: Side of a patch in pixels.
        reducers: What merges tokens, configs of :class:`mmtokmerge.ConditionalLocalPooling`,
            :class:`mmtokmerge.GlobalBipartiteMerging` or :class:`mmtokmerge.ToMe`; those of one
            place in a layer act in the order of the list.
        sharing: Lets superpatches share a token before the first layer (CTS): a dict with
            ``policy`` and ``num_shared`` or ``threshold``, see
            :class:`mmtokmerge.models.policies.TokenSharing`. ``reducers`` may act besides.
        proportional: Merged tokens weigh by the log of what they stand for in the attention's
            softmax (ToMe); ALGM and CTS leave it off.
        calibration: Checkpoint whose thresholds are read when training starts, for reducers with
            ``threshold='auto'``.
        in_channels: Channels of the image.
        mlp_ratio: Hidden channels of the MLP over C.
        out_indices: Layers, counted from 0, whose output is returned; -1 is the last.
        out_type: 'map' returns unmerged maps ``(B, C, h, w)``; 'tokens' returns
            :class:`mmtokmerge.layers.TokenFeatures` for a head that takes tokens.
        qkv_bias: Whether the attention's projections have a bias.
        drop_rate: Dropout of embeddings, projections and MLP.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last layer; grows linearly from 0.
        with_cls_token: Whether a class token goes through the layers.
        with_dist_token: Whether a distillation token goes through the layers behind the class
            token, as in a distilled DeiT; both are kept apart from sharing and merging.
        norm_cfg: mmcv's config of the norms.
        act_cfg: mmcv's config of the MLP's activation.
        patch_bias: Whether the patch embedding has a bias; mmseg leaves it out by default.
        patch_norm: A norm after the patch embedding.
        final_norm: A norm after the last layer.
        interpolate_mode: Of the position embeddings.
        fused_attention: Use fused attention kernels, see :func:`mmtokmerge.layers.attend`; False
            spells the softmax out.
        unpadded_attention: Where the images of a batch keep different numbers of tokens, attend
            among each image's own tokens by their numbers ``(B,)``, see
            :func:`mmtokmerge.layers.attend_unpadded`, not with a bias ``(B, 1, 1, M)`` that hides
            the padding and excludes flash attention. It acts in the layers after the first that
            shares or reduces by threshold, at batch sizes above 1, and gives the same features but
            for rounding. Off until ``benchmarks/unpadded_gpu.py`` has measured it on a GPU; on a
            CPU, in fp32 and in training it takes the images one after the other.
        with_cp: Recompute each layer in the backward pass to save memory.
        init_cfg: MMEngine's initialisation; 'Pretrained' resizes position embeddings.

    Raises:
        TypeError: If a setting has the wrong type.
        ValueError: If a setting is unknown, out of range or would do nothing.
    """

    archs: ClassVar[Mapping[str, Mapping[str, int]]] = VIT_ARCHS

    def __init__(
        self,
        arch: str | Mapping[str, int] = "b",
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        reducers: Sequence[Mapping[str, Any]] = (),
        sharing: Mapping[str, Any] | None = None,
        proportional: bool = False,
        calibration: str | None = None,
        in_channels: int = 3,
        mlp_ratio: int = 4,
        out_indices: int | Sequence[int] = -1,
        out_type: str = "map",
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        with_cls_token: bool = True,
        with_dist_token: bool = False,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        patch_bias: bool = True,
        patch_norm: bool = False,
        final_norm: bool = False,
        interpolate_mode: str = "bicubic",
        fused_attention: bool = True,
        unpadded_attention: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.arch = read_arch(arch, self.archs)
        self.embed_dims, depth = self.arch["embed_dims"], self.arch["num_layers"]
        self.patch_size = patch_size
        self.img_size = pair(img_size, "img_size")
        self.with_cls_token = with_cls_token
        self.with_dist_token = with_dist_token
        if with_dist_token and not with_cls_token:
            raise InputError("with_dist_token=True needs with_cls_token=True, as in DeiT")
        self.num_prefix = int(with_cls_token) + int(with_dist_token)
        self.with_cp = with_cp
        self.out_indices = read_out_indices(out_indices, depth)
        if out_type not in OUT_TYPES:
            raise InputError(f"out_type={out_type!r} is unknown, allowed are 'map' and 'tokens'")
        self.out_type = out_type
        norm_cfg = dict(norm_cfg) if norm_cfg is not None else dict(type="LN")
        act_cfg = dict(act_cfg) if act_cfg is not None else dict(type="GELU")

        def norm() -> nn.Module:
            return build_norm_layer(dict(norm_cfg), self.embed_dims)[1]

        self.patch_embed = PatchEmbed(
            in_channels, self.embed_dims, patch_size, patch_bias, norm() if patch_norm else None
        )
        grid = (self.img_size[0] // patch_size, self.img_size[1] // patch_size)
        if min(grid) < 1:
            raise InputError(f"img_size={img_size} is smaller than patch_size={patch_size}")
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        if with_dist_token:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        self._build_positions(grid, interpolate_mode)
        self.drop_after_pos = nn.Dropout(drop_rate)
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.layers = ModuleList(
            self._build_layer(
                grid,
                embed_dims=self.embed_dims,
                num_heads=self.arch["num_heads"],
                feedforward_channels=mlp_ratio * self.embed_dims,
                qkv_bias=qkv_bias,
                drop=drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=rate,
                norm_layer=lambda _: norm(),
                activation=lambda: build_activation_layer(dict(act_cfg)),
                fused=fused_attention,
            )
            for rate in rates
        )
        self.ln1 = norm() if final_norm else None
        self.reducers = build_reducers(reducers, depth)
        self.sharing = None if sharing is None else TokenSharing.from_config(sharing, patch_size)
        if proportional and not (sharing or any(reducer.reduce for reducer in self.reducers)):
            raise InputError(
                "proportional=True does nothing without sharing or a reducer that reduces"
            )
        self.proportional = proportional
        if unpadded_attention:
            check_unpadded(self.reducers, self.sharing, proportional)
        self.unpadded_attention = unpadded_attention
        self.calibration = calibration
        if calibration is not None and not self._auto():
            raise InputError("calibration does nothing: no reducer has threshold='auto'")
        self.last_assignment: TokenAssignment | None = None
        self.last_sharing: TokenAssignment | None = None
        self._reducing = True
        self._observers: list[Callable[[Observation], None]] = []

    def init_weights(self) -> None:
        """Initialise as mmseg's ``VisionTransformer`` does, or from ``init_cfg``."""
        if isinstance(self.init_cfg, dict) and self.init_cfg.get("type") == "Pretrained":
            self._load_pretrained(self.init_cfg["checkpoint"])
        elif self.init_cfg is not None:
            super().init_weights()
        else:
            self._init_from_scratch()
        if self.calibration is not None:
            self._load_thresholds(self.calibration)

    def forward(self, x: Tensor) -> tuple[Tensor | TokenFeatures, ...]:
        """Encode images ``(B, 3, H, W)`` of any size.

        Returns:
            For each of ``out_indices`` a channels-last map ``(B, C, ceil(H / p), ceil(W / p))``
            with patches of side p, or a :class:`TokenFeatures`.
        """
        tokens, state, hw = self._embed(x)
        self.last_sharing = state
        beside = self._beside(state, tokens, hw)
        outs = []
        for index, layer in enumerate(self.layers):
            tokens, qkv = self._run(layer.attend, tokens, *beside)
            before = state
            tokens, state = self._reduce(index, "between", tokens, qkv, state, hw, before)
            tokens = self._run(layer.feed, tokens)
            tokens, state = self._reduce(index, "after", tokens, qkv, state, hw, before)
            if state is not before:
                beside = self._beside(state, tokens, hw)
            if index in self.out_indices:
                last = index == len(self.layers) - 1
                out = self.ln1(tokens) if last and self.ln1 is not None else tokens
                outs.append(self._output(out, state, hw))
        self.last_assignment = _or_identity(state, hw, tokens)
        return tuple(outs)

    @contextmanager
    def no_reduction(self) -> Iterator[None]:
        """While open, nothing is shared and no reducer acts: the baseline of the same weights."""
        reducing, self._reducing = self._reducing, False
        try:
            yield
        finally:
            self._reducing = reducing

    @contextmanager
    def observing(self, observer: Callable[[Observation], None]) -> Iterator[None]:
        """While open, ``observer`` is called with each layer's :class:`Observation`."""
        self._observers.append(observer)
        try:
            yield
        finally:
            self._observers.remove(observer)

    def _embed(self, x: Tensor) -> tuple[Tensor, TokenAssignment | None, tuple[int, int]]:
        """Images to the tokens of the first layer, what shares one among them, and the grid."""
        patches, hw = self.patch_embed(x)
        ahead, position = self._positions(hw)
        sharing = self.sharing if self._reducing else None
        state = None if sharing is None else sharing(x, hw, self.patch_size)
        if position is not None:
            patches = patches + position
        if state is not None:
            patches = self._share(x, patches, position, state, hw)
        if self.num_prefix:
            own = [self.cls_token, self.dist_token] if self.with_dist_token else [self.cls_token]
            head = torch.cat(own, dim=1)
            head = head if ahead is None else head + ahead
            patches = torch.cat([head.expand(len(x), -1, -1), patches], dim=1)
        return self.drop_after_pos(patches), state, hw

    def _build_positions(self, grid: tuple[int, int], interpolate_mode: str) -> None:
        """Make what tells tokens where they stand."""
        length = 1 + int(self.with_dist_token)
        count = length + grid[0] * grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, count, self.embed_dims))
        self.positions = PositionEmbedding(grid, interpolate_mode, length)

    def _build_layer(self, grid: tuple[int, int], **settings: Any) -> nn.Module:
        """Make one layer, with the halves ``attend`` and ``feed``."""
        return ViTLayer(**settings)

    def _positions(self, hw: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        """What is added to the tokens ahead of the patches ``(1, P, C)``, and to the patches."""
        found = self.positions(self.pos_embed, hw)
        return found[:, : self.num_prefix], found[:, self.positions.num_prefix :]

    def _share(
        self,
        x: Tensor,
        patches: Tensor,
        position: Tensor | None,
        state: TokenAssignment,
        hw: tuple[int, int],
    ) -> Tensor:
        """Tokens ``(B, M, C)``: patches that stand alone, and superpatches where 2x2 share one.

        A shared token's position embedding is the mean of the four (CTS).
        """
        shared = self.patch_embed.superpatches(x, hw)
        if position is not None:
            whole = [side // 2 * 2 for side in hw]
            grid = position.unflatten(1, hw)[:, : whole[0], : whole[1]]
            means = grid.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).mean((2, 4))
            shared = shared + means.flatten(1, 2)
        both = torch.cat([patches, shared], dim=1)  # (B, N + S_max, C)
        rows = superpatch_rows(state, hw)
        return TokenAssignment(rows, both.new_zeros(1, both.shape[1])).unmerge(both)

    def _run(self, half: Callable[..., Any], *args: Any) -> Any:
        if self.with_cp and args[0].requires_grad:
            return checkpoint(half, *args, use_reentrant=False)
        return half(*args)

    def _reduce(
        self,
        index: int,
        position: str,
        tokens: Tensor,
        qkv: Tensor,
        state: TokenAssignment | None,
        hw: tuple[int, int],
        before: TokenAssignment | None,
    ) -> tuple[Tensor, TokenAssignment | None]:
        """Let the reducers of one place act on the patch tokens, those ahead of them apart."""
        acting = [
            reducer
            for reducer in self.reducers
            if self._reducing and position == reducer.position and index + 1 in reducer.layers
        ]
        observed = bool(self._observers) and position == "between"
        if not acting and not observed:
            return tokens, state
        first = self.num_prefix
        patches = full = tokens[:, first:]
        for reducer in acting:
            feature = patches if reducer.feature == "X" else _of_attention(qkv, reducer, first)
            if feature.shape[1] != patches.shape[1]:
                raise InputError(
                    f"feature={reducer.feature!r} of {type(reducer).__name__} in layer {index + 1} "
                    "no longer fits: another reducer has merged the tokens in this layer"
                )
            patches, state = reducer(patches, feature, state, hw)
        if acting:
            tokens = torch.cat([tokens[:, :first], patches], dim=1) if first else patches
        if observed:
            stood = _or_identity(before, hw, tokens)
            report = Observation(index + 1, full, stood, _or_identity(state, hw, tokens), hw)
            for observer in list(self._observers):
                observer(report)
        return tokens, state

    def _beside(
        self, state: TokenAssignment | None, tokens: Tensor, hw: tuple[int, int]
    ) -> tuple[Tensor | RelativePositions | None, ...]:
        """What ``attend`` of the layers takes beside the tokens: a bias, or None and lengths."""
        if self.unpadded_attention:
            return None, self._lengths(state, tokens)
        return (self._bias(state, tokens, hw),)

    def _bias(
        self, state: TokenAssignment | None, tokens: Tensor, hw: tuple[int, int]
    ) -> Tensor | RelativePositions | None:
        """What the logits of the layers' attention gain."""
        return self._key_bias(state, tokens)

    def _key_bias(self, state: TokenAssignment | None, tokens: Tensor) -> Tensor | None:
        """``(B, 1, 1, M)`` what the logits of padded or, if proportional, merged tokens gain."""
        if state is None or not (self.proportional or state.padded):
            return None
        sizes = state.sizes.expand(len(tokens), -1)
        sizes = F.pad(sizes, (self.num_prefix, 0), value=1)
        weights = sizes if self.proportional else (sizes > 0)
        return weights.float().log().to(tokens.dtype)[:, None, None]

    def _lengths(self, state: TokenAssignment | None, tokens: Tensor) -> Tensor | None:
        """``(B,)`` int32, tokens of each image that are not padding; None where none are."""
        if state is None or not state.padded:
            return None
        sizes = state.sizes.expand(len(tokens), -1)
        return (sizes > 0).sum(1, dtype=torch.int32) + self.num_prefix

    def _output(
        self, tokens: Tensor, state: TokenAssignment | None, hw: tuple[int, int]
    ) -> Tensor | TokenFeatures:
        patches = tokens[:, self.num_prefix :]
        if self.out_type == "map":
            return to_map(patches if state is None else state.unmerge(patches), hw)
        cls_token = tokens[:, :1] if self.with_cls_token else None
        return TokenFeatures(patches, _or_identity(state, hw, tokens), hw, cls_token)

    def _auto(self) -> list[ThresholdReducer]:
        return [r for r in self.reducers if isinstance(r, ThresholdReducer) and r.auto]

    def _load_thresholds(self, path: str) -> None:
        saved = CheckpointLoader.load_checkpoint(path, map_location="cpu")
        weights = saved.get("state_dict", saved)
        for index, reducer in enumerate(self.reducers):
            if not (isinstance(reducer, ThresholdReducer) and reducer.auto):
                continue
            name = f"reducers.{index}.tau"
            found = [value for key, value in weights.items() if key.endswith(name)]
            if not found or bool(found[0].isnan()):
                raise InputError(
                    f"calibration={path!r} holds no {name}: it must be a checkpoint that "
                    "tools/calibrate_threshold.py wrote for this config"
                )
            reducer.threshold = float(found[0])
            print_log(f"{name} = {float(found[0]):.4f}, from {path}", "current")

    def _load_pretrained(self, path: str) -> None:
        saved = CheckpointLoader.load_checkpoint(path, map_location="cpu")
        weights = dict(saved.get("state_dict", saved))
        weights = {key.removeprefix("backbone."): value for key, value in weights.items()}
        self._fit_published(weights)
        missing, unexpected = self.load_state_dict(weights, strict=False)
        left = [key for key in missing if not key.startswith("reducers.")]
        if left:
            raise InputError(
                f"init_cfg.checkpoint={path!r} does not fit this ViT: "
                f"it lacks {', '.join(left[:5])}"
                + (f" and {len(left) - 5} more" if len(left) > 5 else "")
            )
        if unexpected:
            print_log(f"{path}: not used are {', '.join(sorted(unexpected))}", "current")

    def _fit_published(self, weights: dict[str, Any]) -> None:
        """Change a published checkpoint's weights, in place, where this grid needs others."""
        distilled = weights.pop("dist_token", None) if not self.with_dist_token else None
        if distilled is not None and "pos_embed" in weights:
            weights["pos_embed"] = without_distillation(weights["pos_embed"])
        found, (h, w) = weights.get("pos_embed"), self.positions.grid
        same_number = found is not None and h * w == found.shape[1] - self.positions.num_prefix
        if found is not None and h != w and same_number and math.isqrt(h * w) ** 2 == h * w:
            # As many patches as this grid, but those of a square: pretraining crops are square.
            weights["pos_embed"] = read_pos_embed(found, self.positions)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        key = f"{prefix}pos_embed"
        found, own = state_dict.get(key), self._parameters.get("pos_embed")
        if found is not None and own is not None and found.shape[1] != own.shape[1]:
            state_dict[key] = read_pos_embed(found, self.positions)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _init_from_scratch(self) -> None:
        for name in ("pos_embed", "cls_token", "dist_token"):
            if hasattr(self, name):
                trunc_normal_(getattr(self, name), std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None and "ffn" in name:
                    nn.init.normal_(module.bias, mean=0.0, std=1e-6)
                elif module.bias is not None:
                    nn.init.constant_(module.bias, 0)
            elif isinstance(module, nn.Conv2d):
                kaiming_init(module, mode="fan_in", bias=0.0)
            elif isinstance(module, nn.LayerNorm):
                constant_init(module, val=1.0, bias=0.0)


def _of_attention(qkv: Tensor, reducer: Reducer, first: int) -> Tensor:
    """Queries, keys or values ``(B, M, d)``, the mean over the heads, of the patches."""
    return qkv["QKV".index(reducer.feature)].mean(1)[:, first:]


def _or_identity(
    state: TokenAssignment | None, hw: tuple[int, int], tokens: Tensor
) -> TokenAssignment:
    return TokenAssignment.identity(hw[0] * hw[1], tokens.device) if state is None else state
