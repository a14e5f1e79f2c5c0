# `fast`, where a token is compared with the destinations of the nine cells around it only.
_base_ = "../../configs/segformerpp/b0_cityscapes_none.py"
keys = dict(r_kv=0.9, kv_stride=4, match="local")
queries = dict(r_q=0.9, q_stride=4, match="local")
model = dict(backbone=dict(merging=[keys, keys, queries, queries]))
