"""MiT++: SegFormer's encoder with tokens merged around attention (Segformer++, section III-C)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import constant_init, normal_init, trunc_normal_init
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmtokmerge.checks import boolean, number_in, one_of, whole_number
from mmtokmerge.errors import InputError, InputTypeError
from mmtokmerge.kernels.norm import call_norm
from mmtokmerge.kernels.plain import is_plain, reuses_memory
from mmtokmerge.kernels.recording import is_recorded
from mmtokmerge.kernels.residual import residual
from mmtokmerge.layers import DropPath, EfficientAttention, MixFFN, OverlapPatchEmbed
from mmtokmerge.layers.attention import MergedGroups
from mmtokmerge.layers.images import check_images
from mmtokmerge.layers.layout import to_map
from mmtokmerge.merging import StageMerging, read_merging
from mmtokmerge.merging.segformer.arch import MIT_ARCHS, MiTArch, read_arch
from mmtokmerge.merging.segformer.presets import MergingConfig
from mmtokmerge.models.weights.pretrained import first_weights, initialise
from mmtokmerge.registry import MODELS

DOWNSAMPLE_MODES = ("bilinear", "nearest")


class MiTBlock(nn.Module):
    """One encoder layer: attention with merging, then MixFFN, each on a norm and a residual.

    Args:
        embed_dims: Channels C.
        num_heads: Heads.
        mlp_ratio: Hidden channels of the MixFFN over C.
        sr_ratio: Spatial reduction R of keys and values.
        merging: What the attention merges.
        qkv_bias: Whether the attention's projections have a bias.
        drop: Dropout after attention and in the MixFFN.
        attn_drop: Dropout of the attention weights.
        drop_path: Stochastic depth of both branches.
        norm_cfg: mmcv's config of the norms.
        act_cfg: mmcv's config of the MixFFN's activation.
        fused: See :func:`mmtokmerge.layers.attend`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: int,
        sr_ratio: int,
        merging: StageMerging,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
        norm_cfg: Mapping[str, Any],
        act_cfg: Mapping[str, Any],
        fused: bool,
    ) -> None:
        super().__init__()
        self.norm1 = _norm(norm_cfg, embed_dims)
        self.attn = EfficientAttention(
            embed_dims,
            num_heads,
            sr_ratio,
            merging,
            qkv_bias,
            attn_drop,
            lambda channels: _norm(norm_cfg, channels),
            fused,
        )
        self.norm2 = _norm(norm_cfg, embed_dims)
        self.ffn = MixFFN(
            embed_dims, mlp_ratio * embed_dims, build_activation_layer(dict(act_cfg)), drop
        )
        self.drop = nn.Dropout(drop)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, hw: tuple[int, int], groups: MergedGroups | None = None
    ) -> tuple[Tensor, MergedGroups]:
        """Map tokens ``(B, h*w, C)`` of the grid ``hw`` to ``(B, h*w, C)``.

        Takes and returns groups as :class:`mmtokmerge.layers.EfficientAttention` does.
        """
        reuse = reuses_memory(self.modules(), x)
        if x.is_cuda and self._is_one_pass():
            x, groups = self.attn(call_norm(self.norm1, x), hw, groups=groups, onto=x)
        else:
            y, groups = self.attn(call_norm(self.norm1, x), hw, groups=groups)
            x = residual(x, self.drop_path(self.drop(y)), reuse=reuse)
        return residual(x, self.drop_path(self.ffn(x, hw, self.norm2)), reuse=reuse), groups

    def _is_one_pass(self) -> bool:
        """Whether nothing stands between the attention and its residual, so that they may be one.

        On a GPU unmerging and the residual are then one pass over memory.
        """
        return (
            not self.training
            and not torch.is_grad_enabled()
            and not is_recorded()
            and is_plain(self.attn, EfficientAttention)
            and is_plain(self.drop, nn.Dropout)
            and is_plain(self.drop_path, DropPath)
        )


class Stage(NamedTuple):
    """The parts of one stage.

    Args:
        embed: Maps ``(B, C_in, H, W)`` to tokens and their grid.
        blocks: The encoder layers.
        norm: The norm of the last block's tokens.
    """

    embed: OverlapPatchEmbed
    blocks: ModuleList
    norm: nn.Module


@MODELS.register_module()
class MiTPlusPlus(BaseModule):
    """Mix Vision Transformer with token merging; one class for segmentation and pose.

    The state dict is that of mmseg's ``MixVisionTransformer``, so its published weights load as
    they are, and with ``merging='none'`` the features are the same.

    Args:
        arch: 'b0' to 'b5', or a dict of the fields of
            :class:`mmtokmerge.merging.segformer.arch.MiTArch`.
        merging: A preset, 'none', 'hq', 'fast' or 'n2d' (Segformer++, table I) or 'plus', which is
            mostly faster than 'fast' and made for weights trained without merging, or four stage
            dicts with keys ``r_q``, ``r_kv`` (fraction of tokens merged away), ``q_mode``,
            ``kv_mode`` ('bsm', 'n1d', 'n2d'; 'bsm' where a rate is given alone), ``q_stride``,
            ``kv_stride`` (an int or (h, w); 2 where absent), ``proportional``, and beyond the paper
            ``destination`` ('corner' or 'centre': which token of a cell the others may join),
            ``match`` ('global' or 'local': join any destination, or one of the nine cells around),
            ``unmerge`` ('copy' or 'bilinear', for queries of 'n2d') and ``reuse`` (k: of k
            consecutive blocks the first one matches, and all merge so; a stage of fewer blocks
            matches once). The first one named is what holds where a key is absent; 1 for ``reuse``.
        proportional: Sets ``proportional`` in every stage that merges keys: merged keys weigh by
            the log of their size in the softmax. None leaves it as the stages say.
        downsample: 2 halves the image first, the baseline of table II; 1 does not.
        downsample_mode: 'bilinear' (anti-aliased) or 'nearest' (decimation, as the paper's
            authors).
        in_channels: Channels of the image.
        out_indices: Stages, counted from 0, whose maps are returned.
        drop_rate: Dropout after attention and in the MixFFN.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last layer; grows linearly from 0.
        norm_cfg: mmcv's config of the norms.
        act_cfg: mmcv's config of the MixFFN's activation.
        fused_attention: Use fused attention kernels, see :func:`mmtokmerge.layers.attend`; False
            spells the softmax out.
        with_cp: Recompute each layer in the backward pass to save memory.
        pretrained: mmseg's older name for ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: MMEngine's initialisation, a pretrained checkpoint for example.

    Raises:
        TypeError: If a setting has the wrong type.
        ValueError: If a setting is unknown, out of range or would do nothing.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "b0",
        merging: MergingConfig = "none",
        proportional: bool | None = None,
        downsample: int = 1,
        downsample_mode: str = "bilinear",
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        fused_attention: bool = True,
        with_cp: bool = False,
        pretrained: str | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg=first_weights(pretrained, init_cfg))
        self.arch: MiTArch = read_arch(arch)
        stages = read_merging(merging, proportional)
        _check_downsample(downsample, downsample_mode)
        _check_out_indices(out_indices)
        for name, rate in (
            ("drop_rate", drop_rate),
            ("attn_drop_rate", attn_drop_rate),
            ("drop_path_rate", drop_path_rate),
        ):
            number_in(name, rate, 0, 1, below=True)
        boolean("with_cp", with_cp)
        boolean("fused_attention", fused_attention)
        whole_number("in_channels", in_channels, 1)
        self.in_channels = in_channels
        self.downsample = downsample
        self.downsample_mode = downsample_mode
        self.out_indices = tuple(out_indices)
        self.with_cp = with_cp
        norm_cfg = norm_cfg if norm_cfg is not None else dict(type="LN", eps=1e-6)
        act_cfg = act_cfg if act_cfg is not None else dict(type="GELU")

        arch = self.arch
        rates = torch.linspace(0, drop_path_rate, sum(arch.num_layers), device="cpu").tolist()
        self.layers = ModuleList()
        for stage, channels in enumerate(arch.channels):
            embed = OverlapPatchEmbed(
                in_channels,
                channels,
                arch.patch_sizes[stage],
                arch.strides[stage],
                lambda dims: _norm(norm_cfg, dims),
            )
            blocks = ModuleList(
                MiTBlock(
                    channels,
                    arch.num_heads[stage],
                    arch.mlp_ratio,
                    arch.sr_ratios[stage],
                    stages[stage],
                    arch.qkv_bias,
                    drop_rate,
                    attn_drop_rate,
                    rates.pop(0),
                    norm_cfg,
                    act_cfg,
                    fused_attention,
                )
                for _ in range(arch.num_layers[stage])
            )
            self.layers.append(ModuleList([embed, blocks, _norm(norm_cfg, channels)]))
            in_channels = channels

    @property
    def stages(self) -> list[Stage]:
        """The four stages."""
        return [Stage(*parts) for parts in self.layers]

    @property
    def merging(self) -> list[StageMerging]:
        """What each stage merges; its blocks' attentions hold it."""
        return [stage.blocks[0].attn.merging for stage in self.stages]

    @merging.setter
    def merging(self, merging: Sequence[StageMerging]) -> None:
        for stage, setting in zip(self.stages, merging):
            for block in stage.blocks:
                block.attn.merging = setting

    def init_weights(self) -> None:
        """Initialise as mmseg's ``MixVisionTransformer`` does, or from ``init_cfg``."""
        initialise(self, self.init_cfg, self._init_from_scratch)

    def _init_from_scratch(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_init(module, std=0.02, bias=0.0)
            elif isinstance(module, nn.LayerNorm):
                constant_init(module, val=1.0, bias=0.0)
            elif isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                normal_init(module, mean=0, std=math.sqrt(2.0 / fan_out), bias=0)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images ``(B, 3, H, W)`` of any size.

        Returns:
            For each of ``out_indices`` a channels-last map ``(B, C, ceil(H / s), ceil(W / s))``,
            with strides s of 4, 8, 16, 32, twice that with ``downsample=2``.
        """
        check_images(x, self.in_channels)
        x = self._halve(x) if self.downsample == 2 else x
        x = x.contiguous(memory_format=torch.channels_last)
        outs = []
        for index, stage in enumerate(self.stages):
            tokens, hw = stage.embed(x)
            groups = None
            for number, block in enumerate(stage.blocks):
                groups = groups if number % block.attn.merging.reuse else None
                if self.with_cp and tokens.requires_grad:
                    tokens, groups = checkpoint(block, tokens, hw, groups, use_reentrant=False)
                else:
                    tokens, groups = block(tokens, hw, groups)
            x = to_map(call_norm(stage.norm, tokens), hw)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _halve(self, x: Tensor) -> Tensor:
        if self.downsample_mode == "nearest":
            return x[:, :, ::2, ::2]
        size = [-(-side // 2) for side in x.shape[2:]]
        # The anti-aliased kernels of the CPU know neither fp16 nor bf16.
        full = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.interpolate(full, size, mode="bilinear", antialias=True).to(x.dtype)


def _check_downsample(downsample: int, mode: str) -> None:
    if type(downsample) is not int or downsample not in (1, 2):
        raise InputError(f"downsample must be 1 or 2, got {downsample!r}")
    one_of("downsample_mode", mode, DOWNSAMPLE_MODES)
    if downsample == 1 and mode != DOWNSAMPLE_MODES[0]:
        raise InputError(f"downsample_mode={mode!r} does nothing without downsample=2")


def _check_out_indices(indices: Sequence[int]) -> None:
    if not isinstance(indices, (list, tuple)):
        raise InputTypeError(f"out_indices must be a list of stages from 0 to 3, got {indices!r}")
    if any(type(index) is not int for index in indices):
        raise InputTypeError(f"out_indices must be a list of stages from 0 to 3, got {indices!r}")
    rising = list(indices) == sorted(set(indices))
    if not indices or not rising or any(index not in range(4) for index in indices):
        raise InputError(f"out_indices must rise within stages 0 to 3, got {tuple(indices)}")


def _norm(cfg: Mapping[str, Any], channels: int) -> nn.Module:
    return build_norm_layer(dict(cfg), channels)[1]


__all__ = ["MIT_ARCHS", "MiTPlusPlus"]
