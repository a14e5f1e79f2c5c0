# Table 7c on CamVid, whose validation images are every second frame of one video; for tests, with
# the weights of its base.
_base_ = "../segmenter_vit-t_camvid_cts.py"
previous = dict(
    _delete_=True,
    type="mmtokmerge.PreviousFramePolicy",
    source="prediction",
    first=_base_.policy,
)
model = dict(backbone=dict(sharing=dict(policy=previous)))
