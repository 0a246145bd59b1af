"""A comparison from what was asked for: a YAML file, the command line, and what is there."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import yaml

from sb3_rfm.experiments.comparison.definition import NUMBERS, Comparison, Entry, check_integer
from sb3_rfm.experiments.hyperparams import merged

REQUIRED = ("algos", "envs", "seeds", "steps")
KEYS = ("algos", "hyperparams", "envs", "seeds", *NUMBERS)
NOT_DEFINING = ("folder", "commands")  # may stand in a YAML file, and say nothing about the runs
EXAMPLES = {
    "algos": "--algos rfm_flow sac",
    "envs": "--envs cartpole-swingup",
    "seeds": "--seeds 0 1 2 3 4",
    "steps": "--steps 20000",
}


def combined(file: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """
    A YAML file and the command line, which has the last word.

    :param file: plain values by key
    :param options: likewise; ``algos`` that the file defines keep its definition
    :return: both
    """
    request = file | options
    named = file.get("algos")
    if "algos" in options and isinstance(named, dict):
        request["algos"] = {label: named.get(label) for label in options["algos"]}
    if isinstance(file.get("hyperparams"), dict) and "hyperparams" in options:
        request["hyperparams"] = merged(file["hyperparams"], options["hyperparams"])
    return request


def _listed(name: str, value: Any) -> list[Any]:
    """
    A list from one value or several, each once.

    :param name: of the argument
    :param value: a plain value, or a list of them
    :return: what was given, in its order
    :raises ValueError: when there is nothing in it
    """
    values = list(dict.fromkeys(value if isinstance(value, (list, tuple)) else [value]))
    if not values or None in values:
        raise ValueError(f"{name} must be one value or several, got {value!r}.")
    return values


def _entries(algos: Any, common: dict[str, Any]) -> dict[str, Entry]:
    """
    What the labels of a request stand for.

    :param algos: a name, a list of names, or a mapping from a label to ``algorithm`` (the label
        itself by default) and ``hyperparams``
    :param common: hyperparameters of all; a label's own override them
    :return: entry by label
    :raises ValueError: when it is of another form
    """
    if not isinstance(algos, dict):
        algos = {str(name): None for name in _listed("algos", algos)}
    entries = {}
    for label, given in algos.items():
        given = {} if given is None else given
        if not isinstance(given, dict) or set(given) - {"algorithm", "hyperparams"}:
            raise ValueError(
                f"algos: {label} takes the keys 'algorithm' and 'hyperparams', got {given!r}."
            )
        own = given.get("hyperparams") or {}
        whole = merged(common, own) if isinstance(own, dict) else own
        entries[str(label)] = Entry(given.get("algorithm", str(label)), _as_stored(whole))
    return entries


def _as_stored(hyperparams: Any) -> Any:
    """
    Hyperparameters as they will be read back: a tuple becomes a list.

    :param hyperparams: plain values
    :return: plain values
    :raises ValueError: when YAML cannot hold one of them
    """
    try:
        return yaml.safe_load(yaml.safe_dump(hyperparams, sort_keys=False))
    except yaml.YAMLError as error:
        raise ValueError(f"hyperparams must be plain values, got {hyperparams!r}.") from error


def _union(old: Iterable[Any], new: Iterable[Any]) -> tuple[Any, ...]:
    """
    The union of two sequences, in order.

    :param old: comes first
    :param new: what it is added to
    :return: each value once
    """
    return tuple(dict.fromkeys([*old, *new]))


def define(given: dict[str, Any], stored: Comparison | None = None) -> Comparison:
    """
    The comparison that a request means, in a folder that may have one already: algorithms,
    environments, seeds and steps are added to it, and nothing else of it changes.

    :param given: plain values by key of ``KEYS``; what is left out is the stored one's
    :param stored: what is in the folder, or None
    :return: the whole comparison
    :raises ValueError: when a key is unknown, missing, of another type, or contradicts what is
        stored
    """
    from sb3_rfm.envs import any_env_id

    given = {name: value for name, value in given.items() if name not in NOT_DEFINING}
    unknown = [name for name in given if name not in KEYS]
    if unknown:
        raise ValueError(f"a comparison has the keys {', '.join(KEYS)}, got {unknown[0]!r}.")
    common = given.get("hyperparams") or {}
    if not isinstance(common, dict):
        raise ValueError(f"hyperparams must be KEY: VALUE pairs, got {common!r}.")
    if stored is None:
        missing = [name for name in REQUIRED if name not in given]
        if missing:
            names = ", ".join(f"--{name}" for name in missing)
            raise ValueError(f"{names} required, for example {EXAMPLES[missing[0]]}")
    elif common and "algos" not in given:
        raise ValueError("hyperparams are of the algos that are named with them: add --algos.")
    new: dict[str, Any] = {name: given[name] for name in NUMBERS if name in given}
    new["algos"] = _entries(given["algos"], common) if "algos" in given else {}
    envs = _listed("envs", given["envs"]) if "envs" in given else []
    new["envs"] = tuple(dict.fromkeys(any_env_id(str(name)) for name in envs))
    new["seeds"] = tuple(_listed("seeds", given["seeds"])) if "seeds" in given else ()
    if stored is not None:
        return _extended(stored, new)
    check_integer("steps", new["steps"], 1)
    if not new.get("eval_freq"):
        new["eval_freq"] = min(max(new["steps"] // 10, 1), 10_000)  # as RunSettings.resolved
    return Comparison(**new)


def _extended(stored: Comparison, new: dict[str, Any]) -> Comparison:
    """
    A comparison with more in it.

    :param stored: what there is
    :param new: fields that were asked for
    :return: both
    :raises ValueError: when they contradict each other
    """
    for label, entry in new["algos"].items():
        there = stored.algos.get(label, entry)
        if there != entry:
            raise ValueError(
                f"algos: {label} is another one in this folder: got {_described(entry)}, there is "
                f"{_described(there)}. Give it another label, or take another --folder."
            )
    for name in ("eval_freq", "eval_episodes"):
        wanted, there = new.get(name) or getattr(stored, name), getattr(stored, name)
        if wanted != there:
            raise ValueError(
                f"{name} of this folder's runs is {there}, got {wanted}: leave it out, or take "
                "another --folder."
            )
        new[name] = there
    steps = new.get("steps", stored.steps)
    check_integer("steps", steps, 1)
    if steps < stored.steps:
        raise ValueError(f"steps must be at least this folder's own {stored.steps}, got {steps}.")
    return replace(
        stored,
        algos=stored.algos | new.pop("algos"),
        envs=_union(stored.envs, new.pop("envs")),
        seeds=_union(stored.seeds, new.pop("seeds")),
        **new,
    )


def _described(entry: Entry) -> str:
    """
    An entry in words.

    :param entry: of a label
    :return: ``sac with {'gamma': 0.9}``
    """
    return f"{entry.algorithm} with {entry.hyperparams or 'no hyperparams'}"
