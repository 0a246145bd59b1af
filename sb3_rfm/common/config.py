"""
The settings of an algorithm: five groups of plain values and the temperature.

A group is how an action is drawn (``flow``), how the regression's target is estimated
(``estimator``), how one action is picked among several (``candidates``), the actor's regression
(``actor_update``) and the critics' target (``critic_update``). The defaults here are
:class:`sb3_rfm.RFMFlow`'s; another algorithm is :class:`Settings` with other values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sb3_rfm.common.groups import (
    GROUPS,
    ActorUpdateSettings,
    CandidateSettings,
    CriticUpdateSettings,
    EstimatorSettings,
    FlowSettings,
    Group,
)
from sb3_rfm.common.selection import SELECTIONS, Selection
from sb3_rfm.common.temperature import TemperatureLike, entropy_per_action, parse_temperature
from sb3_rfm.sampling.registry import require

__all__ = [
    "GROUPS",
    "ActorUpdateSettings",
    "CandidateSettings",
    "CriticUpdateSettings",
    "EstimatorSettings",
    "FlowSettings",
    "Group",
    "Settings",
]


@dataclass(frozen=True)
class Settings:
    """
    What an algorithm is, in plain values.

    :param flow: how an action is drawn
    :param estimator: how the regression's target is estimated; None where the objective asks none
    :param candidates: how one action is picked among several
    :param actor_update: the actor's regression
    :param critic_update: the critics' target
    :param temperature: lambda; see :class:`sb3_rfm.common.algorithm.FlowActorCritic`
    :param target_entropy: likewise
    """

    flow: FlowSettings = field(default_factory=FlowSettings)
    estimator: EstimatorSettings | None = field(default_factory=EstimatorSettings)
    candidates: CandidateSettings = field(default_factory=CandidateSettings)
    actor_update: ActorUpdateSettings = field(default_factory=ActorUpdateSettings)
    critic_update: CriticUpdateSettings = field(default_factory=CriticUpdateSettings)
    temperature: TemperatureLike = "auto"
    target_entropy: str | float = "auto"

    def __post_init__(self) -> None:
        entropy_per_action(self.target_entropy)
        one_step = self.flow.one_step
        has_density = "False with critic_update.entropy, which needs the log-density of a flow"
        needed = one_step and self.critic_update.entropy is not False
        require(not needed, "flow.one_step", one_step, has_density)
        if self.actor_update.estimates:
            allowed = "settings of one: the regression is on posterior means"
            require(self.estimator is not None, "estimator", self.estimator, allowed)
            assert self.estimator is not None
            self.estimator.build().check_support(self.flow.build().support.bounded)
        else:
            allowed = f"None with objective {self.actor_update.objective!r}, which asks none"
            require(self.estimator is None, "estimator", self.estimator, allowed)
        reference, alone = self.actor_update.reference, "0 with flow.one_step, whose average it is"
        require(not (one_step and reference), "actor_update.reference", reference, alone)
        if self.tunes_temperature and self.candidates.train is not None:
            enough = self.candidates.train >= 2
            least = "at least 2 where temperature is 'auto'"
            require(enough, "candidates.train", self.candidates.train, least)

    @property
    def tunes_temperature(self) -> bool:
        """Whether the temperature is tuned to an entropy."""
        return parse_temperature(self.temperature).tuned

    @property
    def uses_temperature(self) -> bool:
        """Whether anything depends on the temperature."""
        noises = (self.candidates.noise, self.critic_update.target_noise)
        return (
            self.divides_values
            or self.actor_update.make_objective().uses_temperature
            or any(isinstance(noise, str) for noise in noises)
        )

    @property
    def divides_values(self) -> bool:
        """Whether the temperature is in units of value, and not a scale of noise alone."""
        candidates, objective = self.candidates, self.actor_update.make_objective()
        by = objective if self.estimator is None else self.estimator.build()
        return (
            (objective.uses_temperature and by.depends_on_scale)
            or (candidates.n > 1 and SELECTIONS.resolve(candidates.select, Selection).is_soft)
            or self.critic_update.entropy is not False
        )

    @property
    def n_training_candidates(self) -> int:
        """Candidates in the actor's update; an entropy is estimated from two at least."""
        least = 2 if self.tunes_temperature else 1
        return self.candidates.train or max(self.candidates.n, least)

    def changed(self, given: Mapping[str, Any]) -> "Settings":
        """
        The settings with what a user gives.

        :param given: groups and flat settings by name; None, what is the same as here, and names
            that are no settings are left out
        :return: the settings, checked
        :raises ValueError: a value that is not allowed, or that nothing would use
        :raises TypeError: a value of the wrong kind
        """
        named = {each.name: given.get(each.name) for each in fields(self)}
        own = vars(self)
        new = {
            name: value
            for name, value in named.items()
            if value is not None and value is not own[name] and value != own[name]
        }
        changed = dict(new)
        for name, kind in GROUPS.items():
            if name in new:
                group = kind() if own[name] is None else own[name]
                changed[name] = group.changed(new[name])
        update = changed.get("actor_update", self.actor_update)
        if update.estimates != self.actor_update.estimates and "estimator" not in new:
            changed["estimator"] = EstimatorSettings() if update.estimates else None
        if not update.estimates and changed.get("estimator") is not None:
            raise ValueError(
                f"estimator is not used where actor_update.objective is {update.objective!r}; got "
                f"{new['estimator']!r}"
            )
        settings = replace(self, **changed)
        settings._refuse_unused(new)
        return settings

    def _refuse_unused(self, given: Mapping[str, Any]) -> None:
        """Say of a flat setting that is given that nothing uses it."""
        if "temperature" in given and not self.uses_temperature:
            raise ValueError(
                f"temperature is not used by these settings; got {given['temperature']!r}"
            )
        if "target_entropy" in given and not self.tunes_temperature:
            raise ValueError(
                "target_entropy is not used unless temperature is 'auto'; got "
                f"{given['target_entropy']!r} and temperature {self.temperature!r}"
            )

    def __str__(self) -> str:
        """The groups as a table."""
        rows = []
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Group):
                inner = [(f"{each.name}.{f.name}", getattr(value, f.name)) for f in fields(value)]
            else:
                inner = [(each.name, value)]
            rows += inner
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value!r}" for name, value in rows)
