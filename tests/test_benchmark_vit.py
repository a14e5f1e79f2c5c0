"""The benchmark of plain ViTs: baselines, thresholds that keep fractions, real images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from algm_tools_helpers import CLAP_AND_GBM, TOME, write_tiny
from PIL import Image
from tracing import ended, follow

from mmtokmerge.benchmark.baselines import stock_model
from mmtokmerge.benchmark.candidate_flops import forward_flops
from mmtokmerge.benchmark.candidates import build_candidates
from mmtokmerge.benchmark.images import find_images, load_image
from mmtokmerge.benchmark.options import Settings
from mmtokmerge.benchmark.over_images import run_over_images
from mmtokmerge.benchmark.run import run
from mmtokmerge.benchmark.session import benchmark
from mmtokmerge.benchmark.steps import make_step, random_images
from mmtokmerge.benchmark.token_fractions import keep_fractions
from mmtokmerge.commands.main import guard, make_parser
from mmtokmerge.engine.launch import load_config
from mmtokmerge.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (72, 88)  # 9 x 11 patches
BASELINES = ("stock", "stock fused")
HEADS = {
    "mask": dict(
        type="mmtokmerge.SegmenterMaskTransformerHead",
        in_channels=16,
        channels=16,
        embed_dims=16,
        num_layers=1,
        num_heads=2,
        num_classes=3,
        dropout_ratio=0.0,
    ),
    "linear": dict(type="mmtokmerge.SegmenterLinearHead", in_channels=16, num_classes=3),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Configs of a tiny ViT without reducers, with CLAP and GBM, and with ToMe."""
    folder = tmp_path_factory.mktemp("vit")
    both = CLAP_AND_GBM.format(threshold='"auto"')
    reducers = {"tiny_none.py": "", "tiny_algm.py": both, "tiny_tome.py": TOME}
    return [str(write_tiny(folder, text, name=name)) for name, text in reducers.items()]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "below").mkdir()
    for number, name in enumerate(("a.png", "b.png", "below/c.jpg")):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 140, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def build(paths, settings, baselines=BASELINES, **changes):
    configs = [(path, load_config(path)) for path in paths]
    return build_candidates(configs, baselines, settings, **changes)


def run_command(*words):
    return guard(lambda: benchmark(make_parser("benchmark").parse_args([*map(str, words)])))


@pytest.mark.parametrize("head", HEADS)
def test_baselines_compute_what_ours_does(paths, head):
    settings = Settings(shapes=(SHAPE,))
    cfg = load_config(paths[0])
    cfg.model.decode_head = dict(HEADS[head], align_corners=False)
    cfg.model.backbone.out_type = "tokens"
    candidates = build_candidates([(paths[0], cfg)], BASELINES, settings)
    types = [type(each.model.backbone).__module__.split(".")[0] for each in candidates]
    assert types == ["mmseg", "mmtokmerge", "mmtokmerge"]
    assert type(candidates[0].model.decode_head).__module__.startswith("mmseg.")
    inputs = random_images(candidates[0], settings, SHAPE, 2)
    stock, fused, ours = (make_step(each, settings, inputs)() for each in candidates)
    torch.testing.assert_close(stock, ours, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused, ours, rtol=1e-4, atol=1e-4)
    counts = {forward_flops(each, "model", SHAPE) for each in candidates}
    assert len(counts) == 1


def test_a_baseline_of_a_plain_vit_keeps_its_settings():
    backbone = dict(type="mmtokmerge.VisionTransformer", arch="s", patch_size=8, img_size=64)
    backbone.update(reducers=[dict(type="x")], out_type="tokens", with_cls_token=False)
    head = dict(HEADS["mask"], proportional=True)
    stock = stock_model(dict(backbone=backbone, decode_head=head), "stock fused")
    assert stock.backbone.type == "mmtokmerge.FusedVisionTransformer"
    sizes = (stock.backbone.embed_dims, stock.backbone.num_layers, stock.backbone.num_heads)
    assert sizes == (384, 12, 6)
    assert stock.backbone.patch_size == 8 and stock.backbone.with_cls_token is False
    assert not {"arch", "reducers", "out_type", "proportional"} & set(stock.backbone)
    assert stock.decode_head.type == "mmseg.SegmenterMaskTransformerHead"
    assert "proportional" not in stock.decode_head


@pytest.mark.parametrize(("dtype", "batch"), [("fp32", 1), ("bf16", 3)])
def test_fractions_are_kept(paths, dtype, batch):
    settings = Settings(shapes=(SHAPE,), dtype=dtype, kept=(0.6, 0.4), runs=1, warmup=1)
    (algm,) = build(paths[1:2], settings, [])
    inputs = random_images(algm, settings, SHAPE, batch)
    assert len(inputs) == batch and torch.equal(inputs[0], inputs[-1])
    keep_fractions(algm.model.backbone, inputs, settings.kept)
    follow(algm.model.backbone)
    with torch.no_grad():
        algm.model.backbone(inputs)
    left = ended(algm.model.backbone).assignment.num_groups
    assert left == pytest.approx(0.4 * 99, abs=1)
    first, second = algm.reducers
    assert -1 < float(first.tau) < 1 and float(first.tau) != float(second.tau)
    assert first.tau.dtype == torch.float32


def test_a_fraction_out_of_reach_is_one_sentence(paths):
    settings = Settings(shapes=(SHAPE,), kept=(0.6, 0.1))
    (algm,) = build(paths[1:2], settings, [])
    sentence = r"--kept 0.1 cannot be reached: GlobalBipartiteMerging in layer 2 keeps from 0\.[23]"
    with pytest.raises(InputError, match=sentence):
        keep_fractions(algm.model.backbone, random_images(algm, settings, SHAPE, 1), (0.6, 0.1))


def test_a_run_on_noise_counts_what_is_kept(paths):
    settings = Settings(shapes=(SHAPE,), kept=(0.6, 0.4), runs=2, warmup=1, limit=True)
    candidates = build(paths, settings)
    stock, _, none, algm, tome = run(candidates, settings)
    assert algm.kept["patches"] == 99
    assert algm.kept["CLAP 1"] == pytest.approx(0.6 * 99, abs=2)
    assert algm.kept["GBM 2"] == pytest.approx(0.4 * 99, abs=1)
    assert tome.kept == {"patches": 99, "ToMe 1": 97, "ToMe 2": 95}
    assert none.kept == {} and none.merging_share is None
    assert 0 < algm.merging_share < 1 and 0 < tome.merging_share < 1
    assert algm.flops < tome.flops < none.flops == stock.flops
    assert algm.flops_source == "counted on images"
    assert algm.limits.operations == pytest.approx(none.flops / algm.flops)
    assert algm.limits.reference == "tiny_none" and algm.limits.shares is None


def test_training_steps_keep_fractions_too(paths):
    settings = Settings(
        shapes=((64, 64),), train=True, batch_size=2, kept=(0.6, 0.4), runs=1, warmup=1
    )
    (algm,) = run(build(paths[1:2], settings, []), settings)
    assert algm.steps_per_second > 0 and algm.kept["GBM 2"] == pytest.approx(0.4 * 64, abs=1)


def test_images_are_resized_in_proportion_and_cut(paths, images):
    found = find_images(str(images), "x.py", None)
    assert [path.name for path in found] == ["a.png", "b.png", "c.jpg"]
    assert find_images(str(images), "x.py", None, number=2, seed=1) != found
    (none,) = build(paths[:1], Settings(shapes=(SHAPE,)), [])
    image = load_image(found[0], (60, 80), none.model)
    pixels = np.asarray(Image.open(found[0]), dtype=np.float32)[:, 30:110]
    expected = torch.from_numpy((pixels - 127.5) / 127.5).permute(2, 0, 1)[None]
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-6)
    assert load_image(found[0], (72, 88), none.model).shape == (1, 3, 72, 88)


def test_a_folder_of_mistakes(tmp_path, paths):
    with pytest.raises(InputError, match="there is no folder"):
        find_images(str(tmp_path / "no"), "x.py", None)
    with pytest.raises(InputError, match="there are no images in"):
        find_images(str(tmp_path), "x.py", None)
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(InputError, match=r"--num-images 2 is more than .* which is 1\."):
        find_images(str(tmp_path), "x.py", None, number=2)
    (none,) = build(paths[:1], Settings(shapes=(SHAPE,)), [])
    with pytest.raises(InputError, match=r"a\.png is not an image"):
        load_image(tmp_path / "a.png", SHAPE, none.model)


def test_the_validation_set_gives_images(paths):
    cfg = load_config(paths[0])
    found = find_images(None, paths[0], cfg)
    assert found and all(path.parent.name == "val" and path.exists() for path in found)
    cfg.pop("val_dataloader")
    with pytest.raises(InputError, match=r"has no val_dataloader\.dataset"):
        find_images(None, paths[0], cfg)


def test_each_image_is_timed_in_copies_and_the_mean_counts(paths, images):
    settings = Settings(shapes=(SHAPE,), batch_size=4, kept=(0.6, 0.4), runs=1, warmup=1)
    candidates = build(paths[:2], settings, ["stock"])
    found = find_images(str(images), "x.py", None)
    # warm-ups, then for each image stock, none, algm
    times = iter([0, 0, 0, 8, 4, 2, 0, 0, 0, 8, 4, 1, 0, 0, 0, 8, 4, 4])

    def timer(step):
        step()
        return float(next(times))

    stock, none, algm = run_over_images(candidates, settings, found, timer=timer)
    assert (stock.samples, none.samples, algm.samples) == ([8, 8, 8], [4, 4, 4], [2, 1, 4])
    assert algm.speedup["stock"] == pytest.approx((4 + 8 + 2) / 3)
    assert algm.images_per_second == pytest.approx((2000 + 4000 + 1000) / 3)
    assert (algm.images, algm.batch_size) == (3, 4)
    assert algm.kept["GBM 2"] == pytest.approx(0.4 * 99, abs=1)
    assert 0 < algm.flops < none.flops and 0 < algm.merging_share < 1


def test_the_tool_times_images_with_calibrated_weights(paths, images, tmp_path, capsys):
    settings = Settings(shapes=(SHAPE,))
    model = build(paths[1:2], settings, [])[0].model
    weights = model.state_dict()
    torch.save({"state_dict": weights}, tmp_path / "plain.pth")
    for key in weights:
        if key.endswith(".tau"):
            weights[key] = torch.tensor(0.2)
    torch.save({"state_dict": weights}, tmp_path / "calibrated.pth")
    words = [*paths[:2], "--images", images, "--shape", *SHAPE, "--runs", 1, "--warmup", 1]
    out = ["--repeat", 2, "--num-images", 2, "--json", tmp_path / "out.json"]
    assert run_command(*words, *out, "--checkpoint", tmp_path / "calibrated.pth") == 0
    text = capsys.readouterr().out
    assert "2 images, each repeated 2 times" in text and "tokens kept" in text
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [len(each["samples"]) for each in results] == [2, 2, 2, 2]
    assert results[3]["kept"]["patches"] == 99 and 1 <= results[3]["kept"]["GBM 2"] < 99

    assert run_command(*words, "--checkpoint", tmp_path / "plain.pth") == 1
    assert "holds no thresholds for tiny_algm" in capsys.readouterr().err
    for lacking in (words, [*paths[:2], "--checkpoint", tmp_path / "calibrated.pth"]):
        assert run_command(*lacking) == 1
        error = capsys.readouterr().err
        assert "how many tokens tiny_algm keeps follows from its weights and the images" in error
    assert run_command(*paths[:2], "--kept", 0.5) == 1
    assert "gives 1 fractions, but tiny_algm has 2 reducers" in capsys.readouterr().err
