"""The plain Vision Transformer, with tokens shared (CTS) and merged (ALGM) where a config says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmtokmerge.checks import boolean, number_in, one_of, whole_number
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.attention import for_changing_lengths
from mmtokmerge.kernels.recording import is_jit_traced
from mmtokmerge.layers import PatchEmbed, RelativePositions, TokenFeatures, ViTLayer
from mmtokmerge.layers.images import check_images
from mmtokmerge.layers.layout import hold_grid
from mmtokmerge.layers.reducers import ThresholdReducer
from mmtokmerge.layers.token_reduction import TokenReduction, or_identity
from mmtokmerge.layers.vit_archs import VIT_ARCHS
from mmtokmerge.merging import TokenAssignment
from mmtokmerge.merging.grid import pair
from mmtokmerge.merging.superpatch_sharing import superpatch_rows
from mmtokmerge.merging.trace import SHARED, is_traced, report
from mmtokmerge.models.backbones.position_embedding import PositionEmbedding
from mmtokmerge.models.backbones.position_loading import FitsPositions
from mmtokmerge.models.backbones.vit_init import init_vit
from mmtokmerge.models.backbones.vit_options import (
    build_reducers,
    check_unpadded,
    read_arch,
    read_out_indices,
)
from mmtokmerge.models.policies import TokenSharing
from mmtokmerge.models.weights.grids import remember_grid
from mmtokmerge.models.weights.pretrained import first_weights, initialise, read_thresholds
from mmtokmerge.registry import MODELS

OUT_TYPES = ("map", "tokens")


@MODELS.register_module()
class VisionTransformer(FitsPositions, BaseModule):
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
        interpolate_mode: How position embeddings are interpolated.
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
        pretrained: mmseg's older name for ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
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
        pretrained: str | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg=first_weights(pretrained, init_cfg))
        for name, rate in (
            ("drop_rate", drop_rate),
            ("attn_drop_rate", attn_drop_rate),
            ("drop_path_rate", drop_path_rate),
        ):
            number_in(name, rate, 0, 1, below=True)
        for name, value in (("patch_size", patch_size), ("in_channels", in_channels)):
            whole_number(name, value, 1)
        if number_in("mlp_ratio", mlp_ratio, 0, 1024) <= 0:
            raise InputError(f"mlp_ratio must be above 0, got {mlp_ratio!r}")
        for name, flag in (
            ("with_cp", with_cp),
            ("with_cls_token", with_cls_token),
            ("with_dist_token", with_dist_token),
            ("qkv_bias", qkv_bias),
            ("patch_bias", patch_bias),
            ("patch_norm", patch_norm),
            ("final_norm", final_norm),
            ("unpadded_attention", unpadded_attention),
            ("proportional", proportional),
            ("fused_attention", fused_attention),
        ):
            boolean(name, flag)
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
        self.out_type = one_of("out_type", out_type, OUT_TYPES)
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
        self.grid = grid
        remember_grid(self)
        # Without a class token it stays in the state dict, as in mmseg, but is not trained: DDP
        # stops where a parameter gets no gradient.
        cls_token = torch.zeros(1, 1, self.embed_dims)
        self.cls_token = nn.Parameter(cls_token, requires_grad=with_cls_token)
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
                feedforward_channels=int(mlp_ratio * self.embed_dims),
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
        self.reducers = build_reducers(reducers, depth, grid)
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
        self.in_channels = in_channels
        self.merges = True
        """False while :func:`mmtokmerge.models.overrides.without_merging` is open."""

    def init_weights(self) -> None:
        """Initialise as mmseg's ``VisionTransformer`` does, or from ``init_cfg``."""
        initialise(self, self.init_cfg, lambda: init_vit(self), self._fit_published)
        if self.calibration is not None:
            reducers = {f"reducers.{i}.tau": self.reducers[i] for i in self._auto()}
            for name, tau in read_thresholds(self.calibration, list(reducers)).items():
                reducers[name].threshold = tau
                print_log(f"{name} = {tau:.4f}, from {self.calibration}", "current")

    def forward(self, x: Tensor) -> tuple[Tensor | TokenFeatures, ...]:
        """Encode images ``(B, 3, H, W)`` of any size.

        Returns:
            For each of ``out_indices`` a channels-last map ``(B, C, ceil(H / p), ceil(W / p))``
            with patches of side p, or a :class:`TokenFeatures`.
        """
        check_images(x, self.in_channels)
        tokens, flow = self.embed(x)
        outs = []
        for index, passed in self.through(tokens, flow, range(len(self.layers))):
            tokens = passed
            if index in self.out_indices:
                last = index == len(self.layers) - 1
                out = self.ln1(tokens) if last and self.ln1 is not None else tokens
                outs.append(self._output(out, flow))
        flow.finish(tokens)
        return tuple(outs)

    def through(
        self, tokens: Tensor, flow: TokenReduction, indices: Iterable[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Run some layers, counted from 0, after one another; each and its tokens as they come."""
        attn_inputs = self._attn_inputs(flow, tokens)
        for index in indices:
            step = flow.at(index + 1)
            with for_changing_lengths(tokens, flow.changes_lengths):
                tokens = self._run(self.layers[index], tokens, *attn_inputs, step)
            if flow.advance(step):
                attn_inputs = self._attn_inputs(flow, tokens)
            yield index, tokens

    def reduction(self, hw: tuple[int, int], shared: TokenAssignment | None) -> TokenReduction:
        """What carries merging through the layers, from a grid of patches on."""
        reducers = self.reducers if self.merges else ()
        return TokenReduction(self, hw, reducers, self.num_prefix, shared, self.proportional)

    def embed(self, x: Tensor) -> tuple[Tensor, TokenReduction]:
        """Images to the tokens of the first layer, and what carries their merging on."""
        patches, hw = self.patch_embed(x)
        if is_jit_traced():
            patches, hw = hold_grid(patches, hw)
        ahead, position = self._positions(hw)
        sharing = self.sharing if self.merges else None
        shared = None if sharing is None else sharing(x, hw, self.patch_size)
        if sharing is not None and is_traced():
            report(sharing, SHARED, or_identity(shared, hw, patches), hw, layer=0)
        if position is not None:
            patches = patches + position
        if shared is not None:
            patches = self._share(x, patches, position, shared, hw)
        if self.num_prefix:
            own = [self.cls_token, self.dist_token] if self.with_dist_token else [self.cls_token]
            head = torch.cat(own, dim=1)
            head = head if ahead is None else head + ahead
            patches = torch.cat([head.expand(x.shape[0], -1, -1), patches], dim=1)
        return self.drop_after_pos(patches), self.reduction(hw, shared)

    def _build_positions(self, grid: tuple[int, int], interpolate_mode: str) -> None:
        """Make what tells tokens where they stand."""
        length = 1 + int(self.with_dist_token)
        count = length + grid[0] * grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, count, self.embed_dims))
        self.positions = PositionEmbedding(grid, interpolate_mode, length)

    def _build_layer(self, grid: tuple[int, int], **settings: Any) -> nn.Module:
        """Make one layer, which takes tokens, what its attention takes, and a reduction."""
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
        shared: TokenAssignment,
        hw: tuple[int, int],
    ) -> Tensor:
        """Tokens ``(B, M, C)``: patches that stand alone, and superpatches where 2x2 share one.

        A shared token's position embedding is the mean of the four (CTS).
        """
        superpatches = self.patch_embed.superpatches(x, hw)
        if position is not None:
            whole = [side // 2 * 2 for side in hw]
            grid = position.unflatten(1, hw)[:, : whole[0], : whole[1]]
            means = grid.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).mean((2, 4))
            superpatches = superpatches + means.flatten(1, 2)
        both = torch.cat([patches, superpatches], dim=1)  # (B, N + S_max, C)
        rows = superpatch_rows(shared, hw)
        return TokenAssignment(rows, both.new_zeros(1, both.shape[1])).unmerge(both)

    def _run(self, layer: nn.Module, *args: Any) -> Tensor:
        if self.with_cp and args[0].requires_grad:
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)

    def _attn_inputs(
        self, flow: TokenReduction, tokens: Tensor
    ) -> tuple[Tensor | RelativePositions | None, Tensor | None]:
        """What the layers' attention takes with the tokens: a bias or, instead, lengths."""
        if self.unpadded_attention:
            return None, flow.lengths(tokens)
        return flow.key_bias(tokens), None

    def _output(self, tokens: Tensor, flow: TokenReduction) -> Tensor | TokenFeatures:
        if self.out_type == "map":
            return flow.to_map(tokens)
        return flow.to_features(tokens, self.with_cls_token)

    def _auto(self) -> list[int]:
        """The places of the reducers with ``threshold='auto'``."""
        listed = enumerate(self.reducers)
        return [i for i, each in listed if isinstance(each, ThresholdReducer) and each.auto]
