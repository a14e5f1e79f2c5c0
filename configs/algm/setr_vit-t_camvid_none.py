_base_ = [
    "../_base_/models/setr_vit-t.py",
    "../_base_/datasets/camvid_vit.py",
    "../_base_/schedules/camvid_vit.py",
    "../_base_/default_runtime.py",
]
# As segmenter_vit-t_camvid_none.py; BatchNorm that needs no process group, and auxiliary heads
# that are small enough for a CPU.
class_weight = [0.53, 0.45, 2.2, 0.39, 1.0, 0.65, 2.0, 1.4, 0.89, 2.5, 3.0]
small = dict(num_classes=11, norm_cfg=dict(type="BN"))
model = dict(
    data_preprocessor=dict(size=(288, 352)),
    backbone=dict(img_size=(288, 352)),
    decode_head=dict(**small, loss_decode=dict(class_weight=class_weight)),
    auxiliary_head=[
        dict(
            {**head, **small, "channels": 64, "num_convs": 1},
            loss_decode=dict(head["loss_decode"], class_weight=class_weight),
        )
        for head in _base_.model.auxiliary_head
    ],
    test_cfg=dict(_delete_=True, mode="whole"),
)
