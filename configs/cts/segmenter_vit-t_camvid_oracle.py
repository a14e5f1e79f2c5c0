_base_ = "./segmenter_vit-t_camvid_none.py"
policy = dict(type="mmtokmerge.OraclePolicy")
model = dict(
    type="mmtokmerge.SharingEncoderDecoder",
    backbone=dict(sharing=dict(policy=policy, num_shared=0.4)),
)
