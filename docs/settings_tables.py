"""
The tables of settings, made from the classes when the site is built.

A comment in a page, ``<!-- settings: QNE -->``, is replaced by a table of what differs from
RFMFlow's settings in that algorithm (``AUTHORS`` counts as one). Other names: ``groups`` (every
setting, its default and its meaning), ``algorithms`` (the differences of each algorithm in turn),
``names of before``, and ``side by side of flow.solver, flow.steps`` (these settings of every
algorithm).
"""

import inspect
import re
from dataclasses import fields
from typing import Any

from sb3_rfm import AUTHORS, RFMFlow, algorithms
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import GROUPS, Group, Settings
from sb3_rfm.common.flat_names import FLAT_NAMES

PLACE = re.compile(r"^<!-- settings: (.+) -->$", re.MULTILINE)
ROLE = re.compile(r":\w+:`~?([^`]+)`")
PARAM = re.compile(r"^:param (\w+): (.*(?:\n(?!:).+)*)", re.MULTILINE)
CODE_OR_PIPE = re.compile(r"(``.*?``|`[^`]*`)|\|")
SIDE_BY_SIDE = "side by side of "
DIFFERENT = [
    name
    for name in sorted(algorithms.__all__, key=lambda name: (not name.startswith("RFM"), name))
    if issubclass(getattr(algorithms, name), FlowActorCritic) and name != "RFMFlow"
]
"""The algorithms that are settings, besides the one that they are compared with."""


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """
    Put the tables into a page (mkdocs calls this for each).

    :param markdown: the page
    :return: with tables in the place of the comments that name them
    :raises KeyError: a comment that names nothing known, which ends the build
    """
    markdown = PLACE.sub(lambda found: table_of(found[1]), markdown)
    if "<!-- setting" in markdown:
        raise KeyError(
            "a comment that is to become a table of settings is not on a line of its own"
        )
    return markdown


def table_of(name: str) -> str:
    """
    What a comment names.

    :param name: see above
    :return: Markdown
    """
    if name == "AUTHORS":
        return differences(RFMFlow.defaults.changed(AUTHORS), others_of(AUTHORS))
    if name in DIFFERENT:
        return differences(getattr(algorithms, name).defaults)
    if name.startswith(SIDE_BY_SIDE):
        return side_by_side(name.removeprefix(SIDE_BY_SIDE).split(", "))
    makers = {
        "groups": groups,
        "algorithms": every_difference,
        "names of before": names_of_before,
    }
    return makers[name]()


def groups() -> str:
    """The five groups and the flat settings: setting, default, meaning."""
    sections = []
    own = [field.name for field in fields(Settings) if field.name not in GROUPS]
    for group, kind in GROUPS.items():
        rows = [(field.name, getattr(kind, field.name)) for field in fields(kind)]
        text = f"{first_sentence(kind)} As an object: `{kind.__module__}.{kind.__name__}`."
        sections.append((f"`{group}`", text, rows, meanings(kind)))
    rows = [(name, getattr(RFMFlow.defaults, name)) for name in own]
    flat = "Two settings have no group: they are what `ent_coef` and `target_entropy` are to SAC."
    sections.append(("Temperature", flat, rows, meanings(FlowActorCritic)))
    parts = []
    for title, text, rows, meaning in sections:
        lines = [(f"`{name}`", code(value), meaning[name]) for name, value in rows]
        parts += [f"### {title}", text, table(("setting", "default", "meaning"), lines)]
    return "\n\n".join(parts)


def every_difference() -> str:
    """What differs from RFMFlow's settings, each algorithm under a heading."""
    text = []
    for name in DIFFERENT:
        text += [f"### {name}", differences(getattr(algorithms, name).defaults)]
    text += ["### AUTHORS", table_of("AUTHORS")]
    return "\n\n".join(text)


def side_by_side(paths: list[str]) -> str:
    """
    Some settings of every algorithm, a row each.

    :param paths: "flow.steps" and the like
    :return: a table
    :raises KeyError: one that there is not
    """
    unknown = set(paths) - by_path(RFMFlow.defaults).keys()
    if unknown:
        raise KeyError(f"no settings: {unknown}")
    rows = []
    for name in ("RFMFlow", *DIFFERENT):
        values = by_path(getattr(algorithms, name).defaults)
        page = name.lower().replace("rfm", "rfm_") + ".md"
        rows.append((f"[{name}]({page})", *(code(values.get(path, NotUsed)) for path in paths)))
    return table(("class", *(f"`{path}`" for path in paths)), rows)


def names_of_before() -> str:
    """Where each setting is that had a flat name."""
    return table(
        ("before", "now"),
        [
            (f"`{name}`", re.sub(r"[\w.]+\.[\w.]+", lambda found: f"`{found[0]}`", place))
            for name, place in FLAT_NAMES.items()
        ],
    )


def differences(settings: Settings, others: dict[str, tuple[Any, Any]] | None = None) -> str:
    """
    The settings that are not RFMFlow's.

    :param settings: of an algorithm
    :param others: arguments that are no settings: own value and default by name
    :return: a table
    """
    own, flow = by_path(settings), by_path(RFMFlow.defaults)
    rows = [
        (f"`{path}`", code(value), code(flow[path]) if path in flow else "a group")
        for path, value in own.items()
        if path not in flow or value != flow[path]
    ]
    rows += [(f"`{name}`", code(own), code(flow)) for name, (own, flow) in (others or {}).items()]
    return table(("setting", "value", "RFMFlow's"), rows)


def by_path(settings: Settings) -> dict[str, Any]:
    """
    Settings by their paths; those alone that something uses.

    :param settings: of an algorithm
    :return: "flow.steps" and the like, with their values
    """
    values: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Group):
            inner = {f"{field.name}.{f.name}": getattr(value, f.name) for f in fields(value)}
            values.update(inner)
        else:
            values[field.name] = value
    if not settings.uses_temperature:
        values["temperature"] = NotUsed
    if not settings.tunes_temperature:
        del values["target_entropy"]
    return values


class NotUsed:
    """Stands for the value of a setting that nothing uses."""


def others_of(arguments: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Those of RFMFlow's arguments that are no settings, each with its default."""
    parameters = inspect.signature(RFMFlow).parameters
    settings = {field.name for field in fields(Settings)}
    return {
        name: (value, parameters[name].default)
        for name, value in arguments.items()
        if name not in settings
    }


def meanings(kind: type) -> dict[str, str]:
    """What the docstring says of each parameter."""
    found = PARAM.findall(inspect.getdoc(kind) or "")
    return {name: ROLE.sub(r"`\1`", " ".join(text.split())) for name, text in found}


def first_sentence(kind: type) -> str:
    """What the docstring begins with."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def code(value: Any) -> str:
    """A value as it is written in Python."""
    if value is NotUsed:
        return "not used"
    return f"`{value!r}`".replace("'", '"')


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown, whose code spans may hold the character that parts its columns."""
    lines = [head, tuple("---" for _ in head), *rows]
    escaped = [
        [CODE_OR_PIPE.sub(lambda found: found[1] or r"\|", cell) for cell in line] for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
