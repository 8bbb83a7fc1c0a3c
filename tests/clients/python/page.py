"""The snippets of `docs/clients.md`, run as they stand."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "clients.md"


def run(heading: str) -> None:
    """Run a section's snippets."""
    section = re.search(rf"^## {heading}\n(.*?)^## ", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert section is not None
    snippets = re.findall(r"^```python\n(.*?)^```$", section[1], re.DOTALL | re.MULTILINE)
    assert snippets
    for snippet in snippets:
        exec(snippet, {})
