"""A hook of MkDocs: links out of docs/ become names, and the model zoo is filled from metafiles."""

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
OUTWARD = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")
MODELS = "<!-- models -->"
CONTRIBUTING = "<!-- contributing -->"
NOTEBOOK = "<!-- notebook -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Show the file's name in the checkout instead of a link, and the table of models."""
    if MODELS in markdown:
        markdown = markdown.replace(MODELS, tables())
    if CONTRIBUTING in markdown:
        text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        text = text.replace("](docs/", "](").replace("](CHANGELOG.md)", "](../CHANGELOG.md)")
        markdown = markdown.replace(CONTRIBUTING, text.partition("\n")[2])
    if NOTEBOOK in markdown:
        markdown = markdown.replace(NOTEBOOK, cells())
    return OUTWARD.sub(r"\1 (`\2` in the checkout)", markdown)


def cells() -> str:
    """The cells of the notebook and what they gave."""
    content = json.loads((ROOT / "docs" / "faster_model.ipynb").read_text(encoding="utf-8"))
    parts = []
    for number, cell in enumerate(content["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.partition("\n")[2] if number == 0 else source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if "text" in output:
                parts.append("```text\n" + "".join(output["text"]).rstrip() + "\n```")
            picture = output.get("data", {}).get("image/jpeg")
            if picture:
                data = "".join(picture).replace("\n", "")
                parts.append(f"![What the cell drew](data:image/jpeg;base64,{data})")
    return "\n\n".join(parts)


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
