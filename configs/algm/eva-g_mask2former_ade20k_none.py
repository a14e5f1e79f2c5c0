_base_ = [
    "../_base_/models/mask2former_eva-g_adapter.py",
    "../_base_/datasets/ade20k_896.py",
    "../_base_/schedules/eva_40k.py",
    "../_base_/default_runtime.py",
]
# The paper's batch: 32 as EVA's authors, 8 for ALGM's own 10k iterations (ALGM, appendix A).
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(enable=False, base_batch_size=32)
