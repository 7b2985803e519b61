"""Where things are in this checkout."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SUPPORT = ROOT / "tests" / "support"


def python_in(document: str, marker: str) -> str:
    """The block of code in a document that contains a line."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / document).read_text(), re.DOTALL)
    return textwrap.dedent(next(block for block in blocks if marker in block))
