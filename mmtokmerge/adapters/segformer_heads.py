"""SegFormer's all-MLP heads of other packages, fused at each scale's own resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmtokmerge.adapters.base import Replacement, kind_of, replace_child
from mmtokmerge.adapters.report import Report
from mmtokmerge.errors import InputError
from mmtokmerge.kernels.plain import has_hooks, is_plain, is_pointwise
from mmtokmerge.layers.fusion import fuse_projected, fuse_scales


class TransformersHead(Replacement):
    """In the place of transformers' ``SegformerDecodeHead``."""

    def forward(self, encoder_hidden_states: Sequence[Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """As the host's: ``(B, num_labels, h, w)``."""
        own: Any = self
        mlps: Any = own.linear_c if hasattr(self, "linear_c") else own.linear_projections
        maps = list(encoder_hidden_states)
        linears = [mlp.proj for mlp in mlps]
        plain = is_pointwise(own.linear_fuse) and _are_linear(linears, mlps)
        if not plain or any(x.dim() != 4 for x in maps):
            out: Tensor = self.host_forward(encoder_hidden_states, *args, **kwargs)
            return out
        # The host concatenates from the coarsest to the finest.
        fused = fuse_projected(
            maps[::-1],
            [(linear.weight, linear.bias) for linear in linears[::-1]],
            own.linear_fuse.weight,
            own.linear_fuse.bias,
            maps[0].shape[2:],
        )
        logits: Tensor = own.classifier(own.dropout(own.activation(own.batch_norm(fused))))
        return logits


class SMPDecoder(Replacement):
    """In the place of segmentation_models_pytorch's ``SegformerDecoder``."""

    def forward(self, features: list[Tensor]) -> Tensor:
        """As the host's: ``(B, channels, H / 4, W / 4)``."""
        own: Any = self
        conv, *rest = own.fuse_stage
        linears = [mlp.linear for mlp in own.mlp_stage]
        hooked = has_hooks(own.fuse_stage) or not is_pointwise(conv)
        if hooked or not _are_linear(linears, own.mlp_stage):
            out: Tensor = self.host_forward(features)
            return out
        size = [side // 4 for side in features[0].shape[2:]]
        used = features[2:] if features[1].shape[1] == 0 else features[1:]
        projections = [(linear.weight, linear.bias) for linear in linears]
        fused = fuse_projected(used[::-1], projections, conv.weight, conv.bias, size)
        for module in rest:
            fused = module(fused)
        return fused


class MMSegHead(Replacement):
    """In the place of mmseg's ``SegformerHead``."""

    def forward(self, inputs: Any) -> Tensor:
        """As the host's: ``(B, num_classes, h, w)``."""
        own: Any = self
        fusion = own.fusion_conv
        if not (is_plain(fusion, type(fusion)) and is_pointwise(fusion.conv)):
            out: Tensor = self.host_forward(inputs)
            return out
        maps = [conv(x) for conv, x in zip(own.convs, own._transform_inputs(inputs))]
        fused = fuse_scales(
            maps,
            fusion.conv.weight,
            fusion.conv.bias,
            mode=own.interpolate_mode,
            align_corners=own.align_corners,
        )
        if fusion.with_norm:
            fused = fusion.norm(fused)
        if fusion.with_activation:
            fused = fusion.activate(fused)
        logits: Tensor = own.cls_seg(fused)
        return logits


HEADS: dict[str, type[Replacement]] = {
    "transformers.SegformerDecodeHead": TransformersHead,
    "segmentation_models_pytorch.SegformerDecoder": SMPDecoder,
    "mmseg.SegformerHead": MMSegHead,
}


def change_heads(model: nn.Module, report: Report) -> None:
    """Put the exact shortcut into every SegFormer head of a model, and say so."""
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            kind = HEADS.get(kind_of(child))
            if kind is None or isinstance(child, Replacement):
                continue
            where = ".".join(filter(None, (path, name)))
            try:
                replace_child(parent, name, kind)
                report.notes.append(f"head: {where} fuses each scale at its own resolution")
            except InputError as why:
                report.left_alone.append((where, str(why)))


def _are_linear(linears: Sequence[Any], holders: Any) -> bool:
    """Whether the weights of the linear layers may be read: nobody wrapped or hooked them."""
    plain = all(is_plain(linear, nn.Linear) for linear in linears)
    return plain and not any(has_hooks(holder) for holder in (holders, *holders))
