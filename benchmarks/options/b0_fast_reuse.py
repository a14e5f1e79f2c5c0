# `fast`, where two consecutive blocks share what the first one matched.
_base_ = "../../configs/segformerpp/b0_cityscapes_none.py"
keys = dict(r_kv=0.9, kv_stride=4, reuse=2)
queries = dict(r_q=0.9, q_stride=4, reuse=2)
model = dict(backbone=dict(merging=[keys, keys, queries, queries]))
