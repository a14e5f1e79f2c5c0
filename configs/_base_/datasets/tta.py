# Test-time augmentation as in mmseg's configs: six scales, each also mirrored.
img_ratios = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
tta_pipeline = [
    dict(type="mmtokmerge.LoadImage"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale_factor=r, keep_ratio=True) for r in img_ratios],
            [
                dict(type="RandomFlip", prob=0.0, direction="horizontal"),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
            ],
            [dict(type="mmtokmerge.LoadSegAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
