"""The benchmark: order, ratios, files and mistakes, on tiny images with a clock of our own."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict

from mmtokmerge.benchmark.baselines import stock_model
from mmtokmerge.benchmark.candidate_flops import forward_flops
from mmtokmerge.benchmark.candidates import build_candidates
from mmtokmerge.benchmark.options import Settings, read_batch_size, read_shapes
from mmtokmerge.benchmark.plot import save_plot
from mmtokmerge.benchmark.report import csv_path, save_csv, save_json
from mmtokmerge.benchmark.result import Result, compare
from mmtokmerge.benchmark.run import run, torch_settings
from mmtokmerge.benchmark.session import benchmark, read_baselines
from mmtokmerge.benchmark.steps import make_step, random_images
from mmtokmerge.commands.main import guard, make_parser
from mmtokmerge.engine.launch import load_config
from mmtokmerge.errors import InputError
from mmtokmerge.measure import memory
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.measure.timing import best_batch, interleave

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [str(ROOT / f"configs/segformerpp/b0_demo_{name}.py") for name in ("none", "hq")]
BASELINES = ("stock", "stock fused")
SMALL = Settings(shapes=((64, 96),), runs=2, warmup=1)


def run_command(*words):
    return guard(lambda: benchmark(make_parser("benchmark").parse_args([*map(str, words)])))


@pytest.fixture(scope="module")
def candidates():
    return build_candidates([(path, load_config(path)) for path in CONFIGS], BASELINES, SMALL)


class Clock:
    """A timer that runs the step and says how long it took from a list, over and over."""

    def __init__(self, *times):
        self.times, self.calls = times, 0

    def __call__(self, step):
        step()
        self.calls += 1
        return self.times[(self.calls - 1) % len(self.times)]


def test_steps_take_turns():
    order = []
    steps = {name: lambda name=name: order.append(name) for name in "ABC"}
    samples = interleave(steps, 2, Clock(1.0, 2.0, 3.0, 4.0, 5.0, 6.0), lambda: order.append("|"))
    assert "".join(order) == "A|B|C|A|B|C|"
    assert samples == {"A": [1, 4], "B": [2, 5], "C": [3, 6]}


def test_ratios_are_of_medians_for_each_image():
    slow = Result((64, 96), "stock", True, batch_size=1, samples=[10, 20, 90])
    fast = Result((64, 96), "hq", False, batch_size=4, samples=[39, 40, 1000])
    lost = Result((64, 96), "lost", False, note="out of memory")
    compare([slow, fast, lost])
    assert (slow.speedup, lost.speedup) == ({"stock": 1}, {})
    assert fast.speedup["stock"] == pytest.approx(2)  # 20 ms against 40 / 4 ms
    assert fast.images_per_second == pytest.approx(100)
    assert (slow.latency.p10, slow.latency.p90) == (pytest.approx(12), pytest.approx(76))


def test_the_best_batch_has_the_most_images_a_second():
    times = {1: 10.0, 2: 12.0, 4: 16.0, 8: 40.0}

    def make(batch):
        def step():
            return batch

        return step

    assert best_batch(make, lambda step: times[step()]) == 4
    assert best_batch(make, lambda step: times[step()], fits=lambda step: step() < 2) == 2


def test_the_best_batch_stops_where_memory_does():
    def make(batch):
        if batch > 2:
            raise torch.cuda.OutOfMemoryError("full")
        return lambda: None

    assert best_batch(make, lambda step: 1.0) == 2
    with pytest.raises(RuntimeError, match="something else"):
        best_batch(lambda batch: (_ for _ in ()).throw(RuntimeError("something else")), Clock(1.0))


def test_a_run_times_all_models_and_counts_their_work(candidates):
    clock = Clock(*range(1, 100))
    results = run(candidates, SMALL, timer=clock)
    assert [each.name for each in results] == [*BASELINES, "b0_demo_none", "b0_demo_hq"]
    # one warm-up for each model, then two rounds of four
    assert [each.samples for each in results] == [[5, 9], [6, 10], [7, 11], [8, 12]]
    assert results[3].speedup == {"stock": 7 / 10, "stock fused": 8 / 10}
    grids, queries, keys = zip(*results[3].tokens)
    assert grids == ((16, 24), (8, 12), (4, 6), (2, 3))
    assert (queries, keys) == ((384, 96, 5, 2), (3, 3, 6, 6))
    assert results[0].flops > results[2].flops > results[3].flops
    assert results[3].flops_source == "formula + counted"
    if sys.platform.startswith("linux"):
        assert all(10 < each.peak_memory < 500 for each in results)


def test_baselines_compute_the_same_with_the_same_weights(candidates):
    images = random_images(candidates[0], SMALL, (64, 96), 2)
    outputs = [make_step(each, SMALL, images)() for each in candidates]
    for output in outputs[:2]:
        torch.testing.assert_close(output, outputs[2], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(outputs[3], outputs[2], rtol=1e-3, atol=1e-3)


def test_formula_and_counter_agree_on_an_unmerged_model(candidates):
    ours = candidates[2]
    for part in ("model", "encoder", "head"):
        by_formula, _ = forward_flops(ours, part, (64, 96))
        spec, ours.encoder = ours.encoder, None
        counted, source = forward_flops(ours, part, (64, 96))
        ours.encoder = spec
        assert (counted, source) == (by_formula, "counted")


def test_baselines_are_counted_as_they_run(candidates):
    stock, fused, ours, _ = candidates
    counts = [forward_flops(each, "encoder", (64, 96)) for each in (stock, fused, ours)]
    assert counts[0] == counts[1] and counts[0][1] == "counted"
    # Stage 1 of 16 x 24 tokens has one head: ours projects its 2 x 3 values rather than the output.
    spared = 2 * 2 * (16 * 24 - 2 * 3) * 32**2
    assert counts[0][0] - counts[2][0] == spared


def test_out_of_memory_leaves_one_model_out(candidates, monkeypatch):
    def full(images, samples, mode):
        raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setattr(candidates[0].model, "forward", full)
    stock, _, _, hq = run(candidates, SMALL, timer=Clock(1.0))
    assert (stock.note, stock.samples) == ("out of memory", [])
    assert list(hq.speedup) == ["stock fused"]


def test_an_operation_that_fails_is_one_sentence(candidates, monkeypatch):
    def broken(images, samples, mode):
        raise RuntimeError("not implemented for 'Half'\nmore")

    monkeypatch.setattr(candidates[0].model, "forward", broken)
    with pytest.raises(InputError, match=r"^stock cannot run at 64 x 96 in fp32 on cpu: .*'Half'$"):
        run(candidates, SMALL, timer=Clock(1.0))


def test_files_hold_machine_samples_and_ratios(tmp_path):
    results = [
        Result((64, 96), "stock", True, 1, [2.0, 4.0], flops=100),
        Result((64, 96), "hq", False, 1, [1.0, 2.0], tokens=[((2, 3), 5, 4), ((1, 2), 2, 1)]),
    ]
    compare(results)
    machine = {"machine": "Some CPU (R) @ 2 GHz", "torch": "2.12.1+cpu"}
    save_json(tmp_path / "new/a.json", results, SMALL, machine)
    save_csv(tmp_path / "a.csv", results, SMALL, machine)
    save_plot(tmp_path / "a.png", results, SMALL, "Some CPU")
    content = json.loads((tmp_path / "new/a.json").read_text())
    assert content["machine"] == machine
    assert content["settings"]["shapes"] == [[64, 96]]
    assert content["results"][1]["samples"] == [1, 2]
    assert content["results"][1]["speedup"] == {"stock": 2}
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert rows[1]["speedup_over_stock"] == "2.0"
    assert (rows[0]["steps_per_second"], rows[0]["cuda_graph"]) == ("333.3333", "False")
    assert content["results"][0]["steps_per_second"] == pytest.approx(1000 / 3)
    assert (rows[1]["queries_kept"], rows[1]["keys_kept"]) == ("5 2", "4 1")
    assert (rows[0]["median_ms"], rows[0]["torch"]) == ("3.0", "2.12.1+cpu")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    name = "model_some-cpu-r-2-ghz_torch2.12.1-cpu_fp32.csv"
    assert csv_path(SMALL, machine) == Path("benchmarks/results", name)


def test_the_tool_prints_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--shape", 64, 96, "--runs", 1, "--warmup", 1, "--baselines", "stock"]
    assert run_command(CONFIGS[1], *words, "--part", "head", "--json", "out.json", "--csv") == 0
    text = capsys.readouterr().out
    assert "head, inference, fp32, 64 x 96" in text and "b0_demo_hq" in text
    stock, ours = json.loads(Path("out.json").read_text())["results"]
    assert stock["speedup"] == {"stock": 1} and len(ours["samples"]) == 1
    assert 0 < ours["flops"] < stock["flops"]
    assert len(list(Path("benchmarks/results").glob("head_*_fp32.csv"))) == 1


STOCK = """default_scope = "mmseg"
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", size=(64, 96)),
    backbone=dict(
        type="MixVisionTransformer",
        embed_dims=16,
        num_layers=[1, 1, 1, 1],
        num_heads=[1, 2, 5, 8],
        sr_ratios=[8, 4, 2, 1],
    ),
    decode_head=dict(
        type="SegformerHead",
        in_channels=[16, 32, 80, 128],
        in_index=[0, 1, 2, 3],
        channels=16,
        num_classes=3,
    ),
)
"""
FASTER = """_base_ = "./mine.py"
custom_imports = dict(imports=["mmtokmerge"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmtokmerge.MiTPlusPlus",
        arch=dict(embed_dims=16, num_layers=(1, 1, 1, 1)),
        merging="hq",
    ),
    decode_head=dict(type="mmtokmerge.SegformerHead"),
)
"""


def test_any_two_configs_are_compared_with_the_first(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(STOCK)
    Path("faster.py").write_text(FASTER)
    words = ["--runs", 1, "--warmup", 1, "--json", "out.json"]
    assert run_command("mine.py", "faster.py", *words) == 0
    assert "mine" in capsys.readouterr().out
    first, second = json.loads(Path("out.json").read_text())["results"]
    assert first["speedup"] == {"mine": 1} and list(second["speedup"]) == ["mine"]


def test_the_machine_names_the_allocators_settings(monkeypatch):
    for key in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.delenv(key, raising=False)
    assert describe_machine("cpu")["allocator"] == ""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "4000000000")
    assert describe_machine("cpu")["allocator"] == "MALLOC_TRIM_THRESHOLD_=4000000000"


def test_a_training_step_changes_the_weights():
    settings = Settings(shapes=((64, 64),), train=True, dtype="bf16", runs=1, warmup=1)
    path = CONFIGS[1]
    candidate = build_candidates([(path, load_config(path))], [], settings)[0]
    before = [weight.detach().clone() for weight in candidate.model.parameters()]
    result = run([candidate], settings, timer=Clock(250.0))[0]
    assert result.samples == [250]
    weights = list(candidate.model.parameters())
    assert all(weight.dtype is torch.float32 and weight.isfinite().all() for weight in weights)
    changed = [not torch.equal(old, new) for old, new in zip(before, weights)]
    assert all(changed)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is Linux' own")
def test_peak_memory_sees_what_a_step_allocates_and_frees():
    growth = memory.peak_growth(lambda: torch.ones(12 * 2**20), "cpu")  # 48 MiB
    assert 46 <= growth <= 60
    assert memory.held(torch.nn.Linear(1023, 256)) == pytest.approx(1)


def test_a_baseline_keeps_everything_but_the_encoder_and_the_head():
    head = dict(type="mmtokmerge.SegformerHead", projection="conv", channels=8)
    backbone = dict(type="mmtokmerge.MiTPlusPlus", arch="b2", merging="hq", drop_path_rate=0.1)
    backbone.update(downsample=2, init_cfg=dict(type="Pretrained", checkpoint="x.pth"))
    model = ConfigDict(type="EncoderDecoder", backbone=backbone, decode_head=head)
    stock = stock_model(model, "stock fused")
    assert stock.type == "EncoderDecoder"
    assert stock.backbone.type == "mmtokmerge.FusedMixVisionTransformer"
    assert stock.backbone.num_layers == [3, 4, 6, 3] and stock.backbone.drop_path_rate == 0.1
    assert not {"merging", "downsample", "init_cfg"} & set(stock.backbone)
    assert stock.decode_head == dict(type="mmseg.SegformerHead", channels=8)
    assert model.backbone.type == "mmtokmerge.MiTPlusPlus"
    pose = stock_model(dict(backbone=backbone, head=dict(type="HeatmapHead")), "stock")
    assert pose.backbone.type == "mmseg.MixVisionTransformer" and pose.head.type == "HeatmapHead"


def test_models_without_a_counterpart_say_so():
    with pytest.raises(InputError, match=r"'ResNet' has no stock counterpart.*--baselines none"):
        stock_model(dict(backbone=dict(type="ResNet")), "stock")
    head = dict(type="mmtokmerge.SegformerHead", projection="linear")
    with pytest.raises(InputError, match="projection='linear' has no stock counterpart"):
        stock_model(dict(backbone=dict(type="mmtokmerge.MiTPlusPlus"), decode_head=head), "stock")


def test_shapes_batches_and_baselines_are_read():
    assert read_shapes([["table5"], ["64", "96"], ["64", "96"]])[3:] == (
        (1024, 2048),
        (2160, 3840),
        (64, 96),
    )
    assert (read_batch_size("auto"), read_batch_size("8")) == (None, 8)
    assert read_baselines(["fused", "stock"], "model") == ["stock", "stock fused"]
    assert read_baselines(["fused", "stock"], "head") == ["stock"]
    assert read_baselines(["none"], "model") == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--dtype", "fp8"], "dtype='fp8' is unknown, allowed are 'fp32', 'fp16', 'bf16', 'int8'"),
        (["--device", "tpu"], "device='tpu' is unknown, allowed are 'cpu', 'cuda'"),
        (["--part", "neck"], "part='neck' is unknown, allowed are 'model', 'encoder', 'head'"),
        (["--shape", "31", "64"], "shape 31 64 is too small"),
        (["--shape", "64"], "--shape '64' must be two whole numbers"),
        (["--batch-size", "0"], "batch_size=0 must be at least 1."),
        (["--batch-size", "many"], "--batch-size 'many' must be a whole number or auto."),
        (["--runs", "0"], "runs=0 must be at least 1."),
        (["--train", "--part", "head"], "part='head' cannot be trained alone"),
        (["--train", "--dtype", "fp16"], "dtype='fp16' cannot be trained on a CPU"),
        (["--baselines", "mmseg"], "--baselines 'mmseg' is unknown"),
        (
            ["--peers", "timm"],
            "--peers 'timm' is unknown, allowed are huggingface, tomesd, tomesd-stock.",
        ),
        (["--cuda-graph"], "--cuda-graph needs --device cuda"),
        (["--limit", "--train"], "--limit is of inference with the encoder"),
        (["--limit", "--part", "head"], "--limit is of inference with the encoder"),
        (["--kept", "0.5", "0.6"], "--kept 0.5 0.6 must be fractions above 0"),
        (["--kept", "0"], "--kept 0.0 must be fractions above 0"),
        (["--kept", "0.5"], "--kept sets thresholds, but no config has a reducer with one."),
        (["--repeat", "32"], "--repeat goes with --images"),
        (["--num-images", "3"], "--num-images goes with --images"),
        (["--images", "--train"], "--images times inference"),
        (["--images", "--batch-size", "8"], "--batch-size does nothing with --images"),
        (["--images", "no/such"], "--images: there is no folder no/such."),
        (["--checkpoint", "no/such.pth"], "There is no checkpoint at no/such.pth."),
        (["--plot", "a.txt"], "--plot a.txt must end in .png, .pdf or .svg."),
        (["--baselines", "none", "--plot", "a.png"], "--plot draws speed-ups and needs a baseline"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, capsys):
    assert run_command(CONFIGS[0], *words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1


def test_a_missing_config_is_one_sentence(capsys):
    assert run_command("no/such.py") == 1
    assert capsys.readouterr().err == "error: There is no config file at no/such.py.\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_one_sentence(capsys):
    assert run_command(CONFIGS[0], "--device", "cuda") == 1
    assert "device='cuda' needs a GPU" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("words", [["--dtype", "fp16"], ["--train", "--dtype", "bf16"]])
def test_the_gpu_is_timed_and_its_memory_measured(words, tmp_path):
    out = tmp_path / "out.json"
    words = [*words, "--device", "cuda", "--shape", 64, 96, "--runs", 2, "--json", out]
    assert run_command(*CONFIGS, *words) == 0
    for result in json.loads(out.read_text())["results"]:
        assert result["latency_ms"]["median"] > 0 and result["peak_memory"] > 1


def test_compiling_for_many_models_does_not_stop_in_silence():
    from torch._dynamo import config

    before = config.recompile_limit, config.accumulated_recompile_limit
    with torch_settings(Settings(shapes=((64, 96),), compile=True)):
        assert min(config.recompile_limit, config.accumulated_recompile_limit) >= 1000
    assert (config.recompile_limit, config.accumulated_recompile_limit) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_computes_what_it_captured(candidates):
    settings = Settings(shapes=((64, 96),), device="cuda", cuda_graph=True)
    images = random_images(candidates[0], settings, (64, 96), 1)
    model = candidates[3].model.cuda()
    replay = make_step(candidates[3], settings, images)
    with torch.no_grad():
        torch.testing.assert_close(replay(), model(images, None, mode="tensor"))
    model.cpu()
