default_scope = "mmseg"
custom_imports = dict(imports=["mmtokmerge"], allow_failed_imports=False)

# The backend is chosen by the tools: nccl where there is a GPU, gloo elsewhere.
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(),
)
randomness = dict(seed=0, deterministic=False)

vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="SegLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
tta_model = dict(type="SegTTAModel")

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="mmtokmerge.SafeCheckpointHook",
        by_epoch=False,
        interval=2000,
        max_keep_ckpts=3,
        save_best="mIoU",
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="mmtokmerge.MergeVisualizationHook"),
)
custom_hooks = [dict(type="mmtokmerge.IterSeedHook")]
