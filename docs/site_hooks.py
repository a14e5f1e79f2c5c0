"""A hook of MkDocs: links out of docs/ name a file of the checkout, which no site holds."""

import re

OUTWARD = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Show the file's name in the checkout instead of a link."""
    return OUTWARD.sub(r"\1 (`\2` in the checkout)", markdown)
