"""Options of a run that are wrong: `train` ends in one sentence, without a traceback, status 1.

Each is tried on a small config that trains, through the command itself; nothing trains first.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from engine_helpers import ROOT

from mmtokmerge.commands.main import main

TINY = """\
_base_ = [{base!r}]
crop_size = (32, 64)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=8, num_layers=(1, 1, 1, 1)), drop_path_rate=0.0
    ),
    decode_head=dict(in_channels=[8, 16, 40, 64], channels=8),
)
scenes = dict(
    type="mmtokmerge.EndlessStreets", sizes=[(32, 64)], num_scenes=2,
    pipeline=[dict(type="PackSegInputs")],
)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, type="mmtokmerge.EndlessStreets", sizes=[(32, 64)],
                 pipeline=[dict(type="RandomFlip", prob=0.5), dict(type="PackSegInputs")]),
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(_delete_=True, **scenes)
)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1))
"""
# The options, and a word that the sentence must hold.
WRONG: list[tuple[str, str]] = [
    ("model.backbone.norm_cfg.type=LNN", "LNN"),
    ("model.backbone.act_cfg.type=GELUU", "GELUU"),
    ("model.backbone.norm_cfg.type=LN model.backbone.norm_cfg.epss=1e-5", "epss"),
    ("model.backbone.init_cfg.type=Pretraind", "Pretraind"),
    ("model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.chekpoint=x", "checkpoint"),
    ("model.decode_head.norm_cfg.type=BNN", "BNN"),
    (
        "model.decode_head.init_cfg.type=Normal model.decode_head.init_cfg.layer=Conv9d",
        "decode_head.init_cfg.layer='Conv9d'",
    ),
    (
        "model.backbone.init_cfg.type=Constant model.backbone.init_cfg.layer=['Linear','LayerNom']"
        " model.backbone.init_cfg.val=0",
        "did you mean 'LayerNorm'",
    ),
    ("model.decode_head.num_classes=eleven", "eleven"),
    ("model.decode_head.loss_decode.loss_weight=float('nan')", "loss_weight"),
    ("model.decode_head.loss_decode.class_weight=[1,1]", "class_weight has 2 numbers"),
    ("model.decode_head.loss_decode.class_weight=[" + ",".join("0" * 19) + "]", "not all 0"),
    ("model.data_preprocessor.std=[0,0,0]", "model.data_preprocessor.std must be above 0"),
    ("model.data_preprocessor.std=[-1,1,1]", "model.data_preprocessor.std must be above 0"),
    ("model.backbone.norm_cfg.type=LN model.backbone.norm_cfg.eps=-1", "eps must be above 0"),
    ("optim_wrapper.paramwise_cfg.norm_decay_mult=-1", "norm_decay_mult must be a number from 0"),
    ("optim_wrapper.clip_grad.max_norm=0", "max_norm must be above 0"),
    ("optim_wrapper.clip_grad.max_norm=-1", "max_norm must be above 0"),
    ("randomness.deterministic=maybe", "randomness.deterministic must be True or False"),
    ("resume=maybe", "resume must be True or False"),
    ("optim_wrapper.paramwise_cfg.bypass_duplicate=maybe", "must be True or False"),
    ("default_hooks.visualization.draw=maybe", "draw must be True or False"),
    ("model.decode_head.align_corners=maybe", "align_corners must be True or False"),
    ("default_hooks.checkpoint.max_keep_ckpts=0", "max_keep_ckpts"),
    ("env_cfg.dist_cfg.backend=ncl", "did you mean 'nccl'"),
    ("tta_model.type=SegTTAModle", "SegTTAModle"),
    ("val_evaluator.iou_metrics=['mIou']", "did you mean 'mIoU'"),
    ("param_scheduler.0.start_factor=0", "start_factor must be above 0"),
    (
        "model.test_cfg.mode=slide model.test_cfg.crop_size=(32,32) model.test_cfg.stride=(64,64)",
        "windows would leave pixels out",
    ),
    ("model.decode_head.channels=0", "model.decode_head.channels"),
    ("model.decode_head.dropout_ratio=2", "dropout"),
    ("model.decode_head.in_channels=[1,2,3,4]", "channels"),
    ("model.decode_head.in_index=[0,1,2]", "AssertionError"),
    ("model.decode_head.loss_decode.loss_weight=abc", "TypeError|abc"),
    ("model.decode_head.loss_decode.class_weight=[1,2]", "weight"),
    ("model.data_preprocessor.mean=[1,2]", "mean"),
    ("model.data_preprocessor.size=32", "model.data_preprocessor.size"),
    ("model.data_preprocessor.size=(32,32,3)", "model.data_preprocessor.size"),
    ("model.test_cfg.mode=slid", "slid"),
    ("model.test_cfg.mode=slide", "crop_size|stride"),
    ("model.train_cfg=5", "model.train_cfg"),
    ("model=5", "5"),
    ("model.backbone=None", "backbone"),
    ("model.backbone=5", "5"),
    ("model.decode_head=None", "decode_head|NoneType"),
    ("train_dataloader.batchsize=4", "batchsize"),
    ("train_dataloader.num_worker=2", "num_worker"),
    ("train_dataloader.batch_size=0", "train_dataloader.batch_size"),
    ("train_dataloader.batch_size=four", "train_dataloader.batch_size"),
    ("train_dataloader.num_workers=-1", "num_workers"),
    ("train_dataloader.sampler.type=InfiniteSample", "InfiniteSample"),
    ("train_dataloader.sampler.shufle=True", "shufle"),
    ("train_dataloader.collate_fn.type=pseudo_colate", "pseudo_colate"),
    ("train_dataloader.dataset=None", "dataset"),
    ("train_dataloader=5", "5|int"),
    ("train_dataloader.dataset.sizes=5", "sizes"),
    ("val_dataloader=None", "val"),
    ("val_cfg=None", "val"),
    ("train_cfg=None", "train"),
    ("optim_wrapper=None", "optim_wrapper"),
    ("train_cfg.max_iters=many", "train_cfg.max_iters"),
    ("train_cfg.max_iters=0", "train_cfg.max_iters"),
    ("train_cfg.max_iters=-1", "train_cfg.max_iters"),
    ("train_cfg.val_interval=0", "train_cfg.val_interval"),
    ("train_cfg.val_interval=x", "train_cfg.val_interval"),
    ("optim_wrapper.optimizer.lr=abc", "abc|TypeError"),
    ("optim_wrapper.optimizer.lr=-1", "learning rate"),
    ("optim_wrapper.optimizer.betas=0.9", "TypeError|float"),
    ("optim_wrapper.clip_grad.maxnorm=1", "maxnorm|TypeError"),
    ("optim_wrapper.constructor=DefaultOptimWraper", "DefaultOptimWraper"),
    ("optim_wrapper.accumulative_counts=0", "optim_wrapper.accumulative_counts"),
    ("optim_wrapper.type=AmpOptimWrapper", "gpu"),
    ("optim_wrapper.paramwise_cfg.custom_keys.head.lr_mul=10", "lr_mult"),
    ("optim_wrapper.paramwise_cfg.norm_decay_mul=0", "norm_decay_mult"),
    ("param_scheduler.0.end=x", "TypeError|end"),
    ("param_scheduler.0.by_epoch=maybe", "param_scheduler.0.by_epoch"),
    ("randomness.sed=1", "randomness.sed"),
    ("randomness.seed=abc", "abc|seed"),
    ("log_level=INFOO", "INFOO"),
    ("log_processor.by_epochs=False", "by_epochs"),
    ("log_processor.type=LogProcesor", "LogProcesor"),
    ("auto_scale_lr.base_batch_size=0", "auto_scale_lr.base_batch_size"),
    ("auto_scale_lr.enabl=True", "auto_scale_lr.enabl"),
    ("env_cfg.cudnn_benchmrk=True", "env_cfg.cudnn_benchmrk"),
    ("env_cfg.mp_cfg.opencv_threads=1", "opencv_num_threads"),
    ("default_hooks.checkpoint.interval=x", "default_hooks.checkpoint.interval"),
    ("default_hooks.checkpoint.interval=0", "default_hooks.checkpoint.interval"),
    ("default_hooks.checkpoint.rule=greate", "greate"),
    ("default_hooks.checkpoint.save_best=5", "save_best"),
    ("default_hooks.checkpoint.save_best=True", "save_best"),
    ("default_hooks.checkpoint.max_keep_ckpts=x", "max_keep_ckpts|TypeError"),
    ("default_hooks.logger.interval=0", "default_hooks.logger.interval"),
    ("custom_hooks=5", "custom_hooks|5|int"),
    ("custom_hooks=[5]", "5|int"),
    ("load_from=5", "load_from"),
    ("load_from=[a]", "load_from"),
    ("custom_imports.imports=[nope_module]", "nope_module"),
    ("model.backbone.mergin=hq", "merging"),
    ("model.decode_head.num_clases=3", "num_classes"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.py"
    path.write_text(TINY.format(base=str(ROOT / "configs/segformerpp/b0_demo_none.py")))
    return path


def run(config: Path, folder: Path, options: str, verb: str = "train") -> int:
    words = [verb, str(config), "--work-dir", str(folder)]
    return main([*words, *(("--cfg-options", *shlex.split(options)) if options else ())])


def test_the_config_trains(tiny: Path, tmp_path: Path) -> None:
    assert run(tiny, tmp_path, "") == 0
    assert (tmp_path / "iter_1.pth").is_file()


@pytest.mark.parametrize(("options", "word"), WRONG, ids=[options for options, _ in WRONG])
def test_a_wrong_option_ends_in_a_sentence(
    options: str, word: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(tiny, tmp_path, options)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 1
    assert error.startswith("error: ")
    assert any(each in error for each in word.split("|")), error
    assert not list(tmp_path.glob("*.pth"))
