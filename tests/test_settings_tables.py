"""The site's tables of settings, which are made from the classes when it is built."""

import importlib.util
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sb3_rfm import AUTHORS, RFMFlow, algorithms
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import GROUPS
from sb3_rfm.common.flat_names import FLAT_NAMES

ROOT = Path(__file__).resolve().parents[1]
NAMES = [
    name
    for name in algorithms.__all__
    if issubclass(getattr(algorithms, name), FlowActorCritic) and name != "RFMFlow"
]


@pytest.fixture(scope="module")
def tables() -> Any:
    """The hook of mkdocs."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "settings_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(table: str) -> dict[str, list[str]]:
    """The cells of each row, by the first."""
    lines = [line.strip("| ").split(" | ", 2) for line in table.splitlines() if "|" in line]
    return {cells[0].strip("`"): cells[1:] for cells in lines}


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize(("group", "kind"), GROUPS.items())
def test_every_setting_is_there_with_its_default_and_its_meaning(
    tables: Any, group: str, kind: Any
) -> None:
    section = tables.table_of("groups").split(f"### `{group}`")[1].split("### ")[0]
    rows = rows_of(section)
    for field in fields(kind):
        default, meaning = rows[field.name]
        assert eval(default.strip("`")) == getattr(RFMFlow.defaults, group).__dict__[field.name]
        assert len(meaning) > 10


@pytest.mark.parametrize("name", NAMES)
def test_an_algorithms_page_has_what_departs_from_rfmflow_and_nothing_else(
    tables: Any, name: str
) -> None:
    page = text(f"docs/{name.lower().replace('rfm', 'rfm_')}.md")
    assert f"\n<!-- settings: {name} -->\n" in page
    rows = rows_of(tables.on_page_markdown(page).split("| setting |")[1].split("\n\n")[0])
    own, flow = getattr(algorithms, name).defaults, RFMFlow.defaults
    for group in GROUPS:
        mine, its = getattr(own, group), getattr(flow, group)
        if mine is None:
            assert rows[group][0] == "`None`"
            continue
        for field in fields(mine):
            value = getattr(mine, field.name)
            shown = rows.get(f"{group}.{field.name}")
            if value == getattr(its, field.name):
                assert shown is None
            else:
                assert shown is not None
                assert shown[0].strip("`").replace('"', "'") == repr(value)
    assert ("temperature" in rows) == (own.temperature != flow.temperature)


def test_the_authors_settings_are_there_those_without_a_group_too(tables: Any) -> None:
    rows = rows_of(tables.table_of("AUTHORS"))
    assert rows["flow.steps"] == ["`10`", f"`{RFMFlow.defaults.flow.steps}`"]
    assert {name for name in AUTHORS if name not in GROUPS} <= set(rows)


def test_every_name_of_before_is_there(tables: Any) -> None:
    rows = rows_of(tables.table_of("names of before"))
    assert {
        name: cells[0].replace("`", "") for name, cells in rows.items() if name in FLAT_NAMES
    } == FLAT_NAMES
    assert "<!-- settings: names of before -->" in text("docs/glossary.md")


def test_the_page_of_arguments_asks_for_both() -> None:
    page = text("docs/api/arguments.md")
    assert "<!-- settings: groups -->" in page
    assert "<!-- settings: algorithms -->" in page


def test_every_algorithm_is_side_by_side_with_the_others(tables: Any) -> None:
    made = tables.on_page_markdown(text("docs/baselines.md"))
    for name in ("RFMFlow", *NAMES):
        assert made.count(f"| [{name}](") >= 3


@pytest.mark.parametrize(
    "wrong",
    [
        "<!-- settings: NOPE -->",
        "<!-- settings: side by side of flow.stepz -->",
        "text <!-- settings: QNE -->",
    ],
)
def test_a_comment_that_names_nothing_ends_the_build(tables: Any, wrong: str) -> None:
    with pytest.raises(KeyError):
        tables.on_page_markdown(wrong)
