"""Training of a population."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import MaybeCallback, PyTorchObs, ReplayBufferSamples
from torch import Tensor

from sb3_rfm.common.actor import Act
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.batches import tensors_of, uploaded
from sb3_rfm.common.cuda_graphs import Update
from sb3_rfm.population.meeting import Meeting, Work
from sb3_rfm.population.population import Population, check_members
from sb3_rfm.sampling.registry import require


class MembersFailedError(RuntimeError):
    """
    Members of a population failed; the others were trained to the end.

    :param errors: what ended each of them, by its number
    """

    def __init__(self, errors: dict[int, Exception]) -> None:
        self.errors = errors
        each = "; ".join(f"member {i}: {type(e).__name__}: {e}" for i, e in sorted(errors.items()))
        super().__init__(f"{len(errors)} of the population failed, the others are trained: {each}")


_seat: "ContextVar[tuple[Joint, int] | None]" = ContextVar("seat", default=None)


def is_taken() -> bool:
    """:return: whether this is run as a member's work of a :class:`Joint`"""
    return _seat.get() is not None


@contextmanager
def taking_part(model: Any) -> Iterator[None]:
    """
    Have a model learn with the others, where this is run as a member's work of a :class:`Joint`;
    else by itself. Within a ``with`` block.

    :param model: any; what is no :class:`FlowActorCritic` learns by itself
    """
    taken = _seat.get()
    if taken is None or not isinstance(model, FlowActorCritic):
        yield
        return
    joint, member = taken
    with joint.taking_part(member, model):
        yield


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
    Has the updates and the exploring actions of models done together, where their ``learn`` runs
    side by side.

    A member's work may do more than learn: make the model, evaluate it, save it. Each ``learn`` of
    it is within ``with taking_part(model):``.
    """

    def __init__(self) -> None:
        self.meeting = Meeting(self._serve)
        self.models: dict[int, FlowActorCritic] = {}
        self.updates: dict[int, Mapping[bool, Update]] = {}
        self.acts: dict[int, Mapping[bool, Act]] = {}
        self.population: Population | None = None
        self.refused: list[FlowActorCritic] = []

    def run(self, works: Sequence[Work]) -> dict[int, Exception]:
        """
        Run what makes the members learn.

        :param works: functions without arguments
        :return: what ended those that failed
        """
        return self.meeting.run([partial(self._seated, *each) for each in enumerate(works)])

    def _seated(self, member: int, work: Work) -> None:
        _seat.set((self, member))  # of the member's own context
        work()

    @contextmanager
    def taking_part(self, member: int, model: FlowActorCritic) -> Iterator[None]:
        """
        Have a model's updates and exploring actions done with the others', within a ``with`` block.

        :param member: its number
        :param model: the member
        """
        updates, acts = model.updates, model._acts
        alone = {best: partial(_act_alone, model, deterministic=best) for best in (False, True)}
        self.models[member], self.updates[member] = model, updates
        self.acts[member] = alone if acts is None else acts
        joint = {key: partial(self._update, member, key) for key in (False, True)}
        model.updates = joint  # type: ignore[assignment]
        model._acts = {True: self.acts[member][True], False: partial(self._act, member)}
        try:
            yield
        finally:
            if model.updates is joint:  # parameters that were loaded meanwhile make new ones
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
        if len({str(request) for request in requests}) == 1 and self._has_met(members):
            assert self.population is not None
            first, *others = zip(*(request.arguments for request in requests), strict=True)
            if requests[0].kind == ACT:
                answers: list[Any] = self.population.act(first, *others)
            else:
                answers = self.population.update(first, requests[0].kind == UPDATE_ALL)
            return dict(zip(members, answers, strict=True))
        acting = {member: request for member, request in asked.items() if request.kind == ACT}
        return {m: self._alone(m, request) for m, request in (acting or asked).items()}

    def _has_met(self, members: list[int]) -> bool:
        """Stack the models of members that are left, unless they are; whether they can be."""
        models = [self.models[member] for member in members]
        if len(models) == 1 or models == self.refused:
            return False
        if self.population is None or self.population.models != models:
            try:
                self.population = Population(models)
            except (ValueError, TypeError) as error:
                self.refused = models
                warnings.warn(f"no population, each is updated by itself: {error}", stacklevel=2)
        return models != self.refused

    def _alone(self, member: int, request: Request) -> Any:
        if request.kind == ACT:
            with th.no_grad():
                return self.acts[member][False](*request.arguments)
        return self.updates[member][request.kind == UPDATE_ALL](*request.arguments)


def _act_alone(
    model: FlowActorCritic, obs: PyTorchObs, noise: Tensor, deterministic: bool
) -> Tensor:
    """What a graph does, of observations and noise on the host."""
    if model.device.type == "cuda":
        obs, noise = uploaded((obs, noise), model.device)
    return model.actor.act(obs, noise, deterministic)


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
    check_members(models)

    def learn(index: int) -> None:
        with taking_part(models[index]):
            models[index].learn(
                total_timesteps,
                callback=None if callbacks is None else callbacks[index],
                log_interval=log_interval,
                tb_log_name=None if tb_log_names is None else tb_log_names[index],
                reset_num_timesteps=reset_num_timesteps,
                progress_bar=progress_bar and index == 0,
            )

    errors = Joint().run([partial(learn, index) for index in range(len(models))])
    if errors:
        raise MembersFailedError(errors) from next(iter(errors.values()))
