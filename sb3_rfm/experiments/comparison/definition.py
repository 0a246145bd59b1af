"""What a comparison is: algorithms, environments and seeds."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from sb3_rfm.experiments.settings import RunSettings

NUMBERS = ("steps", "eval_freq", "eval_episodes", "checkpoint_freq")


@dataclass(frozen=True)
class Entry:
    """
    What a label stands for.

    :param algorithm: a key of ``sb3_rfm.experiments.hyperparams.ALGORITHMS``
    :param hyperparams: plain values that override the YAML file's of ``zoo_hyperparams/``
    """

    algorithm: str
    hyperparams: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """
    Every entry on every environment with every seed.

    :param algos: entry by label; the label names the run's folder and its line in the pictures
    :param envs: full Gymnasium ids
    :param seeds: of the runs
    :param steps: environment steps of each run
    :param eval_freq: environment steps between two evaluations
    :param eval_episodes: episodes of each evaluation
    :param checkpoint_freq: environment steps between two checkpoints; 0 for none but on a stop
    """

    algos: dict[str, Entry]
    envs: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    eval_freq: int
    eval_episodes: int = 5
    checkpoint_freq: int = 10_000

    def __post_init__(self) -> None:
        least = {"steps": 1, "eval_freq": 1, "eval_episodes": 1, "checkpoint_freq": 0}
        for name, bound in least.items():
            check_integer(name, getattr(self, name), bound)
        for seed in self.seeds:
            check_integer("seeds", seed, 0)
        for label, entry in self.algos.items():
            _check_entry(label, entry)

    def settings(self) -> list[tuple[str, RunSettings]]:
        """
        The runs, seed by seed, so that what is there early compares every label.

        :return: label and resolved settings of each
        :raises ValueError: when an environment is unknown
        """
        common = {name: getattr(self, name) for name in NUMBERS}
        return [
            (
                label,
                RunSettings(
                    entry.algorithm, env, seed=seed, hyperparams=dict(entry.hyperparams), **common
                ).resolved(),
            )
            for seed in self.seeds
            for env in self.envs
            for label, entry in self.algos.items()
        ]

    def plain(self) -> dict[str, Any]:
        """
        The comparison as its YAML file has it.

        :return: plain values by key, which ``define`` takes
        """
        return asdict(self) | {"envs": list(self.envs), "seeds": list(self.seeds)}


def check_integer(name: str, value: Any, bound: int) -> None:
    """
    Refuse what is no integer, or is too small.

    :param name: of the argument
    :param value: what was got
    :param bound: the least that is allowed
    :raises ValueError: naming the three
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < bound:
        raise ValueError(f"{name} must be an integer of at least {bound}, got {value!r}.")


def _check_entry(label: str, entry: Entry) -> None:
    """
    Refuse a label that cannot name a folder, an unknown algorithm, and hyperparameters it has not.

    :param label: of the entry
    :param entry: what it stands for
    :raises ValueError: naming what was got and what is allowed
    """
    from sb3_rfm.experiments.hyperparams import algorithm_class, constructor_arguments
    from sb3_rfm.experiments.settings import ENV_KEYS

    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", label):
        raise ValueError(
            f"algos: a label must be letters, digits and any of _ . + -, got {label!r}."
        )
    if not isinstance(entry.hyperparams, dict):
        raise ValueError(
            f"algos: hyperparams of {label} must be KEY: VALUE pairs, got {entry.hyperparams!r}."
        )
    own = {k: v for k, v in entry.hyperparams.items() if k not in (*ENV_KEYS, "n_timesteps")}
    constructor_arguments(algorithm_class(entry.algorithm), own, n_actions=1)
