"""A hook of MkDocs: links out of docs/ become names, and the model zoo is filled from metafiles."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
OUTWARD = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")
MODELS = "<!-- models -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Show the file's name in the checkout instead of a link, and the table of models."""
    if MODELS in markdown:
        markdown = markdown.replace(MODELS, tables())
    return OUTWARD.sub(r"\1 (`\2` in the checkout)", markdown)


def tables() -> str:
    """A table for each family, from its metafile."""
    parts = []
    for path in sorted((ROOT / "configs").glob("*/metafile.yml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        (family,) = content["Collections"]
        lines = [
            f"## {family['Name']}",
            "",
            "| config | data | numbers | whose |",
            "|---|---|---|---|",
        ]
        for model in content["Models"]:
            for result in model["Results"]:
                numbers = ", ".join(f"{name} {value}" for name, value in result["Metrics"].items())
                cells = (f"`{model['Name']}`", result["Dataset"], numbers, result["Source"])
                lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
