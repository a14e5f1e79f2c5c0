# Queries pooled in every stage, keys of the first two merged as in `fast` and proportional.
_base_ = "../../configs/segformerpp/b2_cityscapes_none.py"
pooled = dict(q_mode="n2d", q_stride=2)
both = dict(pooled, r_kv=0.9, kv_stride=4, proportional=True)
model = dict(backbone=dict(merging=[both, both, pooled, pooled]))
