# 256 epochs as in ALGM's, in batches of 8 (CTS, section 4.3).
_base_ = "../algm/segmenter_vit-s_pcontext_none.py"
max_iters = 256 * 4998 // 8
train_dataloader = dict(batch_size=8)
auto_scale_lr = dict(enable=False, base_batch_size=8)
param_scheduler = [dict(_base_.param_scheduler[0], end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
