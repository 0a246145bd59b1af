"""Training of a population."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import MaybeCallback, PyTorchObs, ReplayBufferSamples
from torch import Tensor

from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.batches import tensors_of
from sb3_rfm.population.meeting import Meeting
from sb3_rfm.population.population import Population, check_members
from sb3_rfm.sampling.registry import require


class MembersFailedError(RuntimeError):
    """
    Members of a population failed; the others were trained to the end.

    :param errors: what ended each of them, by its number
    """

    def __init__(self, errors: dict[int, BaseException]) -> None:
        self.errors = errors
        each = "; ".join(f"member {i}: {type(e).__name__}: {e}" for i, e in sorted(errors.items()))
        super().__init__(f"{len(errors)} of the population failed, the others are trained: {each}")


ACT, UPDATE, UPDATE_ALL = "act", "update of the critics", "update of critics and actor"


@dataclass(frozen=True)
class Request:
    """
    What a member asks for.

    :param kind: one of the three above
    :param arguments: observations and noise, or a batch
    """

    kind: str
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        """What requests have to have in common to be served together."""
        return f"{self.kind} {[tuple(tensor.shape) for tensor in tensors_of(self.arguments)]}"


class Joint:
    """
    Has the updates and the exploring actions of models done together, as long as their ``learn``
    runs side by side.

    :param models: the members; see :class:`Population`
    """

    def __init__(self, models: Sequence[FlowActorCritic]) -> None:
        check_members(models)
        self.models = list(models)
        self.updates = [model.updates for model in models]
        self.acts = [
            {best: partial(model.actor.act, deterministic=best) for best in (False, True)}
            if model._acts is None
            else model._acts
            for model in models
        ]
        self.meeting = Meeting(self._serve)
        self.population: Population | None = None

    def learn(self, learns: Sequence[Any]) -> dict[int, BaseException]:
        """
        Run what calls each member's ``learn``.

        :param learns: functions without arguments
        :return: what ended those that failed
        """
        own = [model._acts for model in self.models]
        for member, model in enumerate(self.models):
            model.updates = {key: partial(self._update, member, key) for key in (False, True)}
            model._acts = {True: self.acts[member][True], False: partial(self._act, member)}
        try:
            return self.meeting.run(learns)
        finally:
            for model, updates, acts in zip(self.models, self.updates, own, strict=True):
                model.updates, model._acts = updates, acts

    def _update(self, member: int, with_actor: bool, data: ReplayBufferSamples) -> Any:
        return self.meeting.ask(member, Request(UPDATE_ALL if with_actor else UPDATE, (data,)))

    def _act(self, member: int, obs: PyTorchObs, noise: Tensor) -> Any:
        return self.meeting.ask(member, Request(ACT, (obs, noise)))

    def _serve(self, asked: dict[int, Request]) -> dict[int, Any]:
        """
        What all members ask for together, where it is the same. Else some act (a callback of theirs
        does), which they do alone while the others wait with their update.
        """
        members = sorted(asked)
        requests = [asked[member] for member in members]
        models = [self.models[member] for member in members]
        if self.population is None or self.population.models != models:
            self.population = Population(models)
        if len({str(request) for request in requests}) == 1:
            first, *others = zip(*(request.arguments for request in requests), strict=True)
            if requests[0].kind == ACT:
                answers: list[Any] = self.population.act(first, *others)
            else:
                answers = self.population.update(first, requests[0].kind == UPDATE_ALL)
            return dict(zip(members, answers, strict=True))
        acting = {member: request for member, request in asked.items() if request.kind == ACT}
        return {m: self._alone(m, request) for m, request in (acting or asked).items()}

    def _alone(self, member: int, request: Request) -> Any:
        if request.kind == ACT:
            with th.no_grad():
                return self.acts[member][False](*request.arguments)
        return self.updates[member][request.kind == UPDATE_ALL](*request.arguments)


def train_population(
    models: Sequence[FlowActorCritic],
    total_timesteps: int,
    callbacks: Sequence[MaybeCallback] | None = None,
    log_interval: int = 4,
    tb_log_names: Sequence[str] | None = None,
    reset_num_timesteps: bool = True,
    progress_bar: bool = False,
) -> None:
    """
    Train several models of one kind side by side, with one update for all of them.

    >>> models = [RFMFlow("MlpPolicy", "Pendulum-v1", seed=seed) for seed in range(8)]
    >>> train_population(models, 10_000)

    :param models: the members: of one class and of equal settings and shapes. Seeds, environments,
        learning rates, gamma and temperatures that are not tuned may differ. Each is trained as its
        own ``learn`` would, and is an ordinary model before, meanwhile and afterwards
    :param total_timesteps: environment steps of each
    :param callbacks: of each, in the order of the models; a callback belongs to one model
    :param log_interval: episodes of a member between two of its logs
    :param tb_log_names: names of the members' TensorBoard runs
    :param reset_num_timesteps: whether to count steps from zero
    :param progress_bar: show the progress of the first member, with which the others keep pace
    :raises ValueError: members that differ in what they have to share, or callbacks or names for
        another number of them
    :raises TypeError: a model that cannot be a member, such as SAC
    :raises MembersFailedError: members whose environment, callback or update failed; the others
        have gone on to the end
    """
    require(len(models) > 0, "models", list(models), "at least one")
    require(len({id(m) for m in models}) == len(models), "models", len(models), "different ones")
    for name, given in (("callbacks", callbacks), ("tb_log_names", tb_log_names)):
        each = f"one for each of the {len(models)} models"
        require(given is None or len(given) == len(models), name, given, each)
    learns = [
        partial(
            model.learn,
            total_timesteps,
            callback=None if callbacks is None else callbacks[index],
            log_interval=log_interval,
            tb_log_name=None if tb_log_names is None else tb_log_names[index],
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar and index == 0,
        )
        for index, model in enumerate(models)
    ]
    errors = Joint(models).learn(learns)
    if errors:
        raise MembersFailedError(errors) from next(iter(errors.values()))
