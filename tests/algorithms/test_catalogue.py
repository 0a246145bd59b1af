"""Every algorithm of this package: its settings, its pages, its file, its name."""

import importlib.util
import inspect
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from rows import WITHOUT_TEMPERATURE

import sb3_rfm
from sb3_rfm import algorithms, sampling
from sb3_rfm.common import targets
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import GROUPS, Settings
from sb3_rfm.experiments.hyperparams import ALGORITHMS, algorithm_class, hyperparams_file

ROOT = Path(__file__).resolve().parents[2]
BASELINES = [name for name in algorithms.__all__ if not name.startswith("RFM")]
OF_SETTINGS = [n for n in BASELINES if issubclass(getattr(algorithms, n), FlowActorCritic)]
SECTIONS = ["Notes", "Can I use?", "Example", "Results", "Parameters"]
SETTING = re.compile(r"^\| `([\w.]+)` \| (?:`([^`]+)`|not used) \|", re.MULTILINE)


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OF_SETTINGS)
def test_a_baseline_is_settings_and_no_code(name: str) -> None:
    cls = getattr(algorithms, name)
    lines, _ = inspect.getsourcelines(cls)
    assert len(lines) <= 40
    own = {key for key in vars(cls) if not key.startswith("_")}
    assert own == {"defaults"}
    assert isinstance(cls.defaults, Settings)
    assert issubclass(cls, FlowActorCritic)
    assert "Where it differs from the paper:" in inspect.getdoc(cls)


def test_langevin_sac_is_a_row_of_sac() -> None:
    cls = algorithms.LSAC
    assert set(BASELINES) - set(OF_SETTINGS) == {"SAC", "LSAC"}
    assert issubclass(cls, algorithms.SAC)
    assert len(inspect.getsourcelines(cls)[0]) <= 42
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


def by_path(settings: Settings) -> dict[str, Any]:
    """Settings by their paths, ``flow.steps``; a group that is None by its name."""
    values = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in GROUPS and value is not None:
            values |= {f"{field.name}.{f.name}": getattr(value, f.name) for f in fields(value)}
        else:
            values[field.name] = value
    return values


def built(page: str) -> str:
    """A page as the site has it: with its table of settings."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "settings_tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    return tables.on_page_markdown(text(page))


@pytest.mark.parametrize("name", OF_SETTINGS)
def test_a_page_says_what_the_settings_say(name: str) -> None:
    """Every value on the page is the class's, and what departs from RFMFlow is on the page."""
    own, flow = by_path(getattr(algorithms, name).defaults), by_path(Settings())
    shown = dict(SETTING.findall(built(f"docs/{name.lower()}.md")))
    for path, value in shown.items():
        if value:
            assert eval(value, {**vars(sampling), **vars(targets), "inf": math.inf}) == own[path]
    not_used = {path for path, value in shown.items() if not value}
    assert not_used == ({"temperature"} if name in WITHOUT_TEMPERATURE else set())
    departing = {path for path, value in own.items() if path not in flow or flow[path] != value}
    if not getattr(algorithms, name).defaults.tunes_temperature:
        departing -= {"target_entropy"}  # which nothing then uses
    assert departing <= set(shown)
