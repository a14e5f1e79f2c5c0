"""What ``tools/analyze_sharing.py`` does with its command line (CTS)."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from mmtokmerge.analysis.sharing.consistency import check_votable, measure_consistency
from mmtokmerge.analysis.sharing.models import (
    Loaded,
    check_evaluator,
    check_same_data,
    load_models,
)
from mmtokmerge.analysis.sharing.report import publish
from mmtokmerge.analysis.sharing.routed import Routed, find_policy, route_images
from mmtokmerge.analysis.sharing.run_statistics import count_superpatches
from mmtokmerge.analysis.sharing.run_tradeoff import compare_models
from mmtokmerge.measure.samples import Samples
from mmtokmerge.reporting.console import make_console, progress_bar
from mmtokmerge.reporting.tables import csv_text, signed

CONSISTENCY = (
    "model",
    "token\nreduction",
    "mIoU\ndefault",
    "mIoU\none class",
    "diff.",
    "pixels\nchanged",
)


def analyze_sharing(args: Namespace) -> None:
    """Run one of the commands.

    Raises:
        InputError: If an argument, a config or a checkpoint is wrong.
    """
    commands = {
        "statistics": count_superpatches,
        "consistency": vote_in_superpatches,
        "route": route_by_policy,
        "tradeoff": compare_models,
    }
    commands[args.command](args)


def vote_in_superpatches(args: Namespace) -> None:
    """Table 7a: mIoU as predicted, and with a majority vote where patches share a token."""
    models = load_models(args, [(args.config, args.checkpoint), *args.model])
    for loaded in models:
        check_votable(loaded)
        check_evaluator(loaded)
    console = make_console()
    found = []
    for loaded in models:
        samples = Samples(loaded.cfg, "test", args.num_images, args.seed)
        with progress_bar(console, loaded.name, len(samples)) as advance:
            found.append(
                measure_consistency(loaded, samples, loaded.cfg.test_evaluator, advance, args.seed)
            )
    rows = [
        [
            each.model,
            f"{each.reduction:.1f}%",
            f"{each.default:.2f}",
            f"{each.one_class:.2f}",
            signed(each.difference, 2),
            f"{each.changed:.2f}%",
        ]
        for each in found
    ]
    title = f"One class for each shared token, test images: {args.num_images or 'all'}"
    records = [each.to_json() for each in found]
    csv = csv_text(list(records[0]), [list(record.values()) for record in records])
    content = {"images": len(samples), "table": records}
    publish(console, args.out, "consistency", (CONSISTENCY, rows, title), content, csv)


def route_by_policy(args: Namespace) -> None:
    """Table 7b: each image by the model with the highest setting below what its policy says."""
    models = load_models(args, args.model)
    check_same_data(models)
    check_evaluator(models[0])
    judge = find_policy(models)
    samples = Samples(models[0].cfg, "test", args.num_images, args.seed)
    console = make_console()
    with progress_bar(console, f"images by the policy of {judge.name}", len(samples)) as advance:
        found = route_images(
            models,
            samples,
            models[0].cfg.test_evaluator,
            args.threshold,
            args.alone,
            advance,
            args.seed,
        )
    records = _routed_records(models, found)
    heads = ["model", "token\nreduction", "processed\nimages", "mIoU"]
    rows = [
        [
            record["model"],
            f"{record['token_reduction_percent']:.1f}%",
            str(record["images"]),
            "" if record["miou"] is None else f"{record['miou']:.2f}",
        ]
        for record in records
    ]
    title = f"Images by threshold {args.threshold:g}, test images: {args.num_images or 'all'}"
    csv = csv_text(list(records[0]), [list(record.values()) for record in records])
    content = {
        "images": len(samples),
        "threshold": args.threshold,
        "table": records,
        "shareable_by_image": found.shareable,
        "model_by_image": found.chosen,
    }
    publish(console, args.out, "route", (heads, rows, title), content, csv)


def _routed_records(models: Sequence[Loaded], found: Routed) -> list[dict[str, Any]]:
    """The models by their token reduction, then all together."""
    records = [
        {
            "model": loaded.name,
            "token_reduction_percent": sum(reductions) / len(reductions),
            "images": found.chosen.count(index),
            "miou": found.alone[index] if found.alone else None,
        }
        for index, (loaded, reductions) in enumerate(zip(models, found.reductions))
    ]
    records.sort(key=lambda record: record["token_reduction_percent"])
    combined = {
        "model": "combined",
        "token_reduction_percent": found.combined_reduction,
        "images": len(found.chosen),
        "miou": found.miou,
    }
    return [*records, combined]
