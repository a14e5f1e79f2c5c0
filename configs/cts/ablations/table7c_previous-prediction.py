# Table 7c: the labels predicted for the previous frame decide, with the weights of its base; the
# policy network serves the first frame alone.
# For tests: the test set has to be a video, every frame of leftImg8bit_sequence in its turn, and
# not the validation images alone, whose predecessors are other frames.
_base_ = "../segmenter_vit-s_cityscapes_cts.py"
sequence = r"([^/]+_[0-9]+)_[0-9]+_leftImg8bit\.png$"
previous = dict(
    _delete_=True,
    type="mmtokmerge.PreviousFramePolicy",
    source="prediction",
    first=_base_.policy,
    sequence=sequence,
)
model = dict(backbone=dict(sharing=dict(policy=previous)))
