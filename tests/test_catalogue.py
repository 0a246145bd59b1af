"""Every algorithm of this package: a row of choices, its pages, its file, its name."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import sb3_rfm
from sb3_rfm import algorithms, sampling
from sb3_rfm.common.algorithm import BoltzmannAlgorithm
from sb3_rfm.common.row import Row
from sb3_rfm.experiments.hyperparams import ALGORITHMS, algorithm_class, hyperparams_file

ROOT = Path(__file__).resolve().parents[1]
BASELINES = [name for name in algorithms.__all__ if not name.startswith("RFM")]
ROWS = [name for name in BASELINES if name != "SAC"]
SECTIONS = ["Notes", "Can I use?", "Example", "Results", "Parameters"]
CHOICE = re.compile(r"^\|[^|]*\| `(\w+)` \| `([^`]+)` \|", re.MULTILINE)


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ROWS)
def test_a_baseline_is_a_row_of_choices_and_no_code(name: str) -> None:
    cls = getattr(algorithms, name)
    lines, _ = inspect.getsourcelines(cls)
    assert len(lines) <= 40
    own = {key for key in vars(cls) if not key.startswith("_")}
    assert own == {"row"}
    assert issubclass(cls, BoltzmannAlgorithm)
    assert "Where it differs from the paper:" in inspect.getdoc(cls)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_public_and_has_a_name_on_the_command_line(name: str) -> None:
    cls = getattr(algorithms, name)
    assert getattr(sb3_rfm, name) is cls
    assert name in sb3_rfm.__all__
    assert algorithm_class(name.lower()) is cls
    assert hyperparams_file(name.lower()) is not None


def test_every_file_of_hyperparameters_is_an_algorithms() -> None:
    assert {path.stem for path in (ROOT / "zoo_hyperparams").glob("*.yml")} == set(ALGORITHMS)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_documented(name: str) -> None:
    algo = name.lower()
    page = text(f"docs/{algo}.md")
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == SECTIONS
    nav = text("mkdocs.yml")
    assert f"- {name}: {algo}.md\n" in nav
    assert f"[{name}]({algo}.md)" in text("docs/baselines.md")
    assert f"`{algo}`" in text("docs/zoo.md")
    if name == "SAC":
        assert "::: sb3_rfm.algorithms.SAC" in page
    else:
        assert f"- {name}: api/{algo}.md\n" in nav
        assert f"::: sb3_rfm.{name}\n" in text(f"docs/api/{algo}.md")
        assert f"`{name}`" in text("README.md")


@pytest.mark.parametrize("name", ROWS)
def test_a_page_says_what_the_row_says(name: str) -> None:
    """Every value on the page is the row's, and what departs from RFMFlow is on the page."""
    row = getattr(algorithms, name).row
    shown = dict(CHOICE.findall(text(f"docs/{name.lower()}.md")))
    for argument, value in shown.items():
        assert eval(value, vars(sampling).copy()) == getattr(row, argument), argument
    not_used = {"estimator", "n_particles"} if name in ("DPMD", "QVPO") else set()
    not_used |= {"temperature"} if name == "QVPO" else set()
    departing = {f.name for f in fields(Row) if getattr(row, f.name) != getattr(Row(), f.name)}
    assert departing - not_used <= set(shown)
