"""Both pages at which people begin lead to every other: what neither names is found by those only who look for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)#]+\.md)")


def pages() -> set[Path]:
    """All but the single decisions, which have an index of their own."""
    found = {page for page in DOCS.rglob("*.md") if page.parent.name != "decisions"}
    return found | {DOCS / "decisions" / "index.md"}


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_every_page_is_linked_from_where_people_begin(name):
    page = ROOT / name
    linked = {(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))}
    missing = sorted(str(each.relative_to(DOCS)) for each in pages() - linked - {page, DOCS / "index.md"})
    assert [] == missing
