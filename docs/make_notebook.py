"""Run a notebook's cells and write what they gave into it: python docs/make_notebook.py

Cells run in one namespace, as in Jupyter; what one prints and the picture that it names `shown`, an
RGB array, become its output.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NOTEBOOK = HERE / "faster_model.ipynb"
WIDEST = 640  # pixels of a picture in it


def run_cell(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a cell; its outputs as Jupyter writes them."""
    names.pop("shown", None)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(source, "<cell>", "exec"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        own = f"{HERE.parent}/"  # where the checkout lies is nobody's business
        text = printed.getvalue().replace(own, "").splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if "shown" in names:
        import cv2

        picture = names["shown"][..., ::-1]
        scale = min(1.0, WIDEST / picture.shape[1])
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 88])
        content = base64.b64encode(encoded.tobytes()).decode()
        data = {"image/jpeg": content, "text/plain": ["a picture"]}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    return outputs


def run_notebook(content: dict[str, Any]) -> None:
    """Run the cells of a notebook and put their outputs into it."""
    names: dict[str, Any] = {}
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    for count, cell in enumerate(cells, 1):
        cell["execution_count"] = count
        cell["outputs"] = run_cell("".join(cell["source"]), names)


def main() -> None:
    """Run and write."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    run_notebook(content)
    NOTEBOOK.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {NOTEBOOK}", file=sys.stderr)


if __name__ == "__main__":
    main()
