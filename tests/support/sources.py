"""The package's own sources, parsed when a test first asks, and once."""

import ast
from functools import cache

from processes import ROOT

PACKAGE = ROOT / "gateway"


@cache
def trees() -> dict[str, ast.Module]:
    """Return the syntax tree of each module, by its file's path."""
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
