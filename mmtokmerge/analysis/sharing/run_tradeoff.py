"""``tools/analyze_sharing.py tradeoff``: models that share more or less, in one table (CTS)."""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmtokmerge.analysis.experiment import ResultStore, checkpoint_facts, hash_config
from mmtokmerge.analysis.front_plot import Mark
from mmtokmerge.analysis.sharing.models import (
    Loaded,
    check_evaluator,
    check_same_data,
    count_shared_tokens,
    load_models,
)
from mmtokmerge.analysis.sharing.plot import tradeoff_figure
from mmtokmerge.analysis.sharing.report import check_positive, publish
from mmtokmerge.analysis.sharing.tradeoff import (
    HEADS,
    Row,
    cells,
    make_samples,
    make_settings,
)
from mmtokmerge.errors import InputError
from mmtokmerge.measure.evaluate import EvalSpec, Measurement, Setting, measure
from mmtokmerge.measure.machine import describe_machine
from mmtokmerge.measure.samples import Samples
from mmtokmerge.reporting.console import make_console, progress_bar
from mmtokmerge.reporting.files import write_bytes
from mmtokmerge.reporting.tables import csv_text

MACHINE_KEYS = ("machine", "threads", "torch", "mmtokmerge")


def compare_models(args: Namespace) -> None:
    """Table 1 and figure 5: measure, print and save; what was measured before is kept.

    Raises:
        InputError: If an argument, a config or a checkpoint is wrong.
    """
    _check(args)
    models = load_models(args, args.model)
    check_same_data(models)
    check_evaluator(models[0])
    shape = tuple(args.shape) if args.shape else None
    samples = make_samples(models, args, shape)
    identities = [_identity(loaded) for loaded in models]
    settings = make_settings(models, identities, samples, args.num_shared)
    machine = describe_machine(args.device)
    store = ResultStore(args.out / "measured.json", _facts(args, samples, machine, identities[0]))
    console = make_console()
    store.say_changed(console)
    evaluator = models[0].cfg.test_evaluator
    spec = EvalSpec(
        samples, evaluator, count_shared_tokens, shape, args.repeats, args.device, args.seed
    )
    found = []
    for setting in settings:
        record = store.get(setting.values)
        if record is None:
            with progress_bar(console, _words(setting), len(samples)) as advance:
                record = measure(setting, settings[0], spec, advance).to_json()
            store.put(setting.values, record)
        found.append(Measurement.from_json(record))
    _report(args, console, [Row(each, found[0]) for each in found], machine)


def _report(args: Namespace, console: Any, rows: Sequence[Row], machine: dict[str, Any]) -> None:
    records = [row.to_json() for row in rows]
    lines = [cells(row, record) for row, record in zip(rows, records)]
    size = f", speed at {args.shape[0]} x {args.shape[1]}" if args.shape else ""
    title = f"Token sharing, test images: {args.num_images or 'all'}{size}, {args.device}"
    csv = csv_text(list(records[0]), [list(record.values()) for record in records])
    curves: dict[str, list[Mark]] = {}
    for row in rows:
        swept = row.found.values["num_shared"] is not None
        model = row.found.values["model"]
        name = f"{model}, other S" if swept else "as trained"
        label = f"{row.found.values['num_shared']:g}" if swept else model
        curves.setdefault(name, []).append(Mark(row.found.speed, row.found.miou, label))
    first = curves["as trained"][0]
    for marks in curves.values():
        marks.sort(key=lambda mark: mark.speed)
    write_bytes(args.out / "tradeoff.png", tradeoff_figure(curves, first, title))
    content = {"machine": machine, "table": records}
    publish(console, args.out, "tradeoff", (HEADS, lines, title), content, csv)


def _check(args: Namespace) -> None:
    check_positive("repeats", [args.repeats])
    check_positive("shape", args.shape or [1])
    for number in args.num_shared:
        if isinstance(number, float) and not 0 <= number <= 1:
            raise InputError(
                f"--num-shared {number:g} must be a whole number, or a fraction from 0 to 1."
            )
    if len(args.model) == 1 and not args.num_shared:
        raise InputError("A trade-off needs a second --model, or --num-shared.")


def _identity(loaded: Loaded) -> str:
    """What a model's results depend on: config, weights, the weights of its policies."""
    sharing = loaded.cfg.model.backbone.get("sharing") or {}
    weights = [loaded.checkpoint, *checkpoints_in(sharing)]
    facts = [hash_config(loaded.cfg), *map(checkpoint_facts, weights)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def checkpoints_in(config: Any) -> Iterator[str]:
    """Every checkpoint that a config names, policies inside policies included."""
    for key, value in config.items():
        if key == "checkpoint" and isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from checkpoints_in(value)


def _facts(
    args: Namespace, samples: Samples, machine: dict[str, Any], first: str
) -> dict[str, Any]:
    """What all results depend on, named as a person would."""
    return {
        "first model": first,
        "images": samples.fingerprint(),
        "shape": args.shape,
        "number of repeats": args.repeats,
        "seed": args.seed,
        "device": args.device,
        "machine or version": {key: machine[key] for key in MACHINE_KEYS},
    }


def _words(setting: Setting) -> str:
    number = setting.values["num_shared"]
    return setting.values["model"] + ("" if number is None else f", S = {number:g}")
