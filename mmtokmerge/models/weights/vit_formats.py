"""What the keys of published plain ViT weights are called: one table for each source.

The patterns are those of :mod:`.formats`; targets are the keys of mmseg's ``VisionTransformer``.
Layers count as in the source, from 0, and fused projections have the same rows everywhere:
queries, keys, values.
"""

from __future__ import annotations

from mmtokmerge.models.weights.formats import Rule, WeightFormat

_LAYER = "layers.<n>."
_IN_PROJ, _OUT_PROJ = _LAYER + "attn.attn.in_proj_*", _LAYER + "attn.attn.out_proj.*"
_FIRST, _SECOND = _LAYER + "ffn.layers.0.0.*", _LAYER + "ffn.layers.1.*"
_EMBED = "patch_embed.projection.*"
_SAME = (Rule("cls_token", "cls_token"), Rule("pos_embed", "pos_embed"))
_CLASSIFIER = "ImageNet classifier"
_DISTILLED = Rule("dist_token", "dist_token")

TIMM = WeightFormat(
    title="timm's ViT or DeiT",
    mark="blocks.0.attn.qkv.weight",
    prefix="",
    encoder=(
        *_SAME,
        _DISTILLED,
        Rule("patch_embed.proj.*", _EMBED),
        Rule("blocks.<n>.norm1.*", _LAYER + "ln1.*"),
        Rule("blocks.<n>.attn.qkv.*", _IN_PROJ),
        Rule("blocks.<n>.attn.proj.*", _OUT_PROJ),
        Rule("blocks.<n>.norm2.*", _LAYER + "ln2.*"),
        Rule("blocks.<n>.mlp.fc1.*", _FIRST),
        Rule("blocks.<n>.mlp.fc2.*", _SECOND),
        Rule("norm.*", "ln1.*"),
    ),
    head=(),
    dropped=(
        ("head.*", _CLASSIFIER),
        ("pre_logits.fc.*", _CLASSIFIER),
        ("fc_norm.*", "norm of the pooled tokens"),
        ("head_dist.*", "classifier of the distillation token"),
    ),
)

MMPRETRAIN = WeightFormat(
    title="MMPretrain's ViT or DeiT",
    mark="layers.0.attn.qkv.weight",
    prefix="backbone.",
    encoder=(
        *_SAME,
        _DISTILLED,
        Rule("patch_embed.projection.*", _EMBED),
        Rule("layers.<n>.ln1.*", _LAYER + "ln1.*"),
        Rule("layers.<n>.attn.qkv.*", _IN_PROJ),
        Rule("layers.<n>.attn.proj.*", _OUT_PROJ),
        Rule("layers.<n>.ln2.*", _LAYER + "ln2.*"),
        Rule("layers.<n>.ffn.layers.0.0.*", _FIRST),
        Rule("layers.<n>.ffn.layers.1.*", _SECOND),
        Rule("ln1.*", "ln1.*"),
    ),
    head=(),
    dropped=(
        ("head.**", _CLASSIFIER),
        ("ln2.*", "norm of the pooled tokens"),
    ),
)

HUGGING_FACE_VIT = WeightFormat(
    title="Hugging Face's ViT",
    mark="encoder.layer.0.attention.attention.query.weight",
    prefix="vit.",
    encoder=(
        Rule("embeddings.cls_token", "cls_token"),
        Rule("embeddings.position_embeddings", "pos_embed"),
        Rule("embeddings.patch_embeddings.projection.*", _EMBED),
        Rule("encoder.layer.<n>.layernorm_before.*", _LAYER + "ln1.*"),
        Rule("encoder.layer.<n>.attention.attention.query.*", _IN_PROJ, part=0),
        Rule("encoder.layer.<n>.attention.attention.key.*", _IN_PROJ, part=1),
        Rule("encoder.layer.<n>.attention.attention.value.*", _IN_PROJ, part=2),
        Rule("encoder.layer.<n>.attention.output.dense.*", _OUT_PROJ),
        Rule("encoder.layer.<n>.layernorm_after.*", _LAYER + "ln2.*"),
        Rule("encoder.layer.<n>.intermediate.dense.*", _FIRST),
        Rule("encoder.layer.<n>.output.dense.*", _SECOND),
        Rule("layernorm.*", "ln1.*"),
    ),
    head=(),
    dropped=(("classifier.*", _CLASSIFIER), ("pooler.dense.*", "pooler")),
    norm_eps=1e-12,
)

MMSEG_VIT = WeightFormat(
    title="MMSegmentation's ViT",
    mark="layers.0.attn.attn.in_proj_weight",
    prefix="backbone.",
    encoder=(
        *_SAME,
        _DISTILLED,
        Rule("patch_embed.projection.*", _EMBED),
        Rule("layers.**", "layers.**"),
        Rule("ln1.*", "ln1.*"),
    ),
    head=(),
    dropped=(
        ("decode_head.**", "decode head"),
        ("auxiliary_head.**", "auxiliary head"),
        ("neck.**", "neck"),
        ("head.**", "head of another task"),
    ),
)

VIT_FORMATS = {
    "timm": TIMM,
    "mmpretrain": MMPRETRAIN,
    "hf-vit": HUGGING_FACE_VIT,
    "mmseg-vit": MMSEG_VIT,
}
