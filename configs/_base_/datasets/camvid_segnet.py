# CamVid in the folders of the SegNet release: train, trainannot, val, valannot, test, testannot,
# with PNG images and 11 for void; tested on test. The data stands where camvid.py says.
_base_ = ["./camvid.py"]
train_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path="train", seg_map_path="trainannot"), img_suffix=".png")
)
val_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path="val", seg_map_path="valannot"), img_suffix=".png")
)
test_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path="test", seg_map_path="testannot"), img_suffix=".png")
)
