"""The pages that teach: their Python runs, prints what they say, and their tests pass."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
NUMBER = re.compile(r"-?\d+\.\d+")
CHANCE = 0.15
"""A share of 500 draws has a standard error of .02; what 200 updates learn varies by more."""


def module(name: str) -> Any:
    """A file of the site's own."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(("page", "n_tests"), [("first_hour", 0), ("your_own", 4)])
def test_a_page_runs_and_prints_what_it_says(
    page: str, n_tests: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace, pairs = module("run_page").run(DOCS / f"{page}.md")
    for printed, shown in pairs:
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
        numbers = [[float(n) for n in NUMBER.findall(text)] for text in (printed, shown)]
        assert numbers[0] == pytest.approx(numbers[1], abs=CHANCE)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert len(tests) == n_tests
    for test in tests:
        test()


def test_every_page_is_in_the_menu() -> None:
    menu = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert f": {page.relative_to(DOCS)}\n" in menu


def test_a_formula_is_drawn_where_it_stands_and_says_its_tex() -> None:
    made = module("formulas").on_page_markdown("Before.\n\n```math\nx_t < \\alpha_t\n```\n\nAfter.")
    before, drawn, after = made.split("\n\n")
    assert (before, after) == ("Before.", "After.")
    assert drawn.startswith('<div role="img" aria-label="x_t &lt; \\alpha_t"><svg')
    assert "currentColor" in drawn
    assert "<style" not in drawn  # it would hold for the whole page
