# Table 2: the ground truth decides.
_base_ = "../segmenter_vit-s_ade20k_random.py"
policy = dict(_delete_=True, type="mmtokmerge.OraclePolicy")
model = dict(backbone=dict(sharing=dict(policy=policy)))
