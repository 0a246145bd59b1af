"""
The five groups of settings: plain values that are checked when they are put together.

The defaults are :class:`sb3_rfm.RFMFlow`'s.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

from stable_baselines3.common.type_aliases import Schedule

from sb3_rfm.common.arguments import check_rate, plain_arguments
from sb3_rfm.common.flow import Flow
from sb3_rfm.common.noise import NOISE_COLORS
from sb3_rfm.common.selection import SELECTIONS, Selection, SelectionLike, make_noise
from sb3_rfm.common.targets import (
    OBJECTIVES,
    X_T_FROM,
    NoRegression,
    Objective,
    ObjectiveLike,
    PosteriorMeans,
    XtFrom,
    XtFromLike,
)
from sb3_rfm.sampling.divergences import Divergence, DivergenceLike, ExactDivergence, Hutchinson
from sb3_rfm.sampling.estimators.posteriors import Estimator
from sb3_rfm.sampling.interpolants import INTERPOLANTS, Interpolant, InterpolantLike
from sb3_rfm.sampling.loss_weightings import LossWeightingLike, make_loss_weighting
from sb3_rfm.sampling.parametrizations import (
    PARAMETRIZATIONS,
    Parametrization,
    ParametrizationLike,
)
from sb3_rfm.sampling.posterior_mean import EstimatorLike, make_estimator
from sb3_rfm.sampling.registry import Registry, require, require_float, require_int
from sb3_rfm.sampling.solvers import SOLVERS, MeanStep, Solver, SolverLike, check_time_shift
from sb3_rfm.sampling.sources import Gaussian
from sb3_rfm.sampling.supports import SUPPORTS, Support, SupportLike
from sb3_rfm.utils.names import near

# Few steps of a sharp policy end nearly on a point, and a prediction clamped at a wall on one: the
# floor keeps the log-density finite. A step then adds at most log 20 = 3 nats a coordinate.
ENTROPY_FLOOR = 0.05
ENTROPIES = Registry[Divergence](
    "critic_update.entropy (True, False or how log pi is computed)",
    {"exact": partial(ExactDivergence, ENTROPY_FLOOR), "hutchinson": Hutchinson},
)
AGGREGATIONS = ("min", "mean")

GroupT = TypeVar("GroupT", bound="Group")


@dataclass(frozen=True)
class Group:
    """Settings of one part, plain values, which are checked when they are put together."""

    group: ClassVar[str]
    first: ClassVar[str | None] = None
    """The setting that a bare value in the group's place stands for."""

    def changed(self: GroupT, given: Any) -> GroupT:
        """
        The group with what a user gives: None for nothing, a dict of settings to put in the place
        of its own, a group as it is, or a bare value for its ``first`` setting.

        :param given: of the constructor, of a YAML file
        :return: the group, checked
        :raises ValueError: a name that it does not have, or a value that is not allowed
        :raises TypeError: something else
        """
        if given is None or isinstance(given, type(self)):
            return self if given is None else given
        if not isinstance(given, Mapping):
            if self.first is None or (is_dataclass(given) and isinstance(given, Group)):
                raise TypeError(
                    f"{self.group} must be a dict of its settings or of type "
                    f"{type(self).__name__}; got {given!r}"
                )
            given = {self.first: given}
        names = [field.name for field in fields(self)]
        for name in given:
            if name not in names:
                raise ValueError(f"{self.group} has no setting {name!r}: {near(str(name), names)}")
        return replace(self, **self._with_consequences(plain_arguments(given)))

    def _with_consequences(self, given: dict[str, Any]) -> dict[str, Any]:
        """What is given, and what that alone makes of settings that are not."""
        return given


@dataclass(frozen=True)
class FlowSettings(Group):
    """
    How an action is drawn: a network's prediction carries noise along a path to it.

    :param interpolant: the path: "linear" (paper), "vp_cosine", "vp_linear", "ve", or an object
    :param parametrization: what the network predicts: "velocity" (paper), "data", "noise", "score",
        "mean_velocity" (the mean from one time to a later), or an object
    :param solver: "euler" (paper), "heun", "midpoint", "ddim", "ancestral", "euler_maruyama",
        "mean_step" (with "mean_velocity"), or an object
    :param steps: of the solver, for one action (paper: 10)
    :param time_shift: k of the solver's times ``k s / (1 + (k - 1) s)``, s uniform: above 1 the
        steps are short near the action, where few uniform ones draw the law too narrow (paper: 1)
    :param support: "box" (the flow lives in the action box), "tanh" (paper: in a latent, with the
        Jacobian), "clipped" or "extrapolated" (unbounded; the critic sees the clipped action, or
        the point itself)
    :param t_range: times drawn in training, 0 < low < high < 1 (paper: .01 to .99)
    :param one_step: whether a second network is distilled from the flow, noise to action in one
        step, which acts and draws the critics' target (the flow keeps its own steps)
    :param evaluation_steps: of the solver for ``predict(deterministic=True)``; None for as many
        (one Euler step of a velocity lands on the mean action)
    """

    interpolant: InterpolantLike = "linear"
    parametrization: ParametrizationLike = "data"
    solver: SolverLike = "euler"
    steps: int = 4
    time_shift: float = 4.0
    support: SupportLike = "box"
    t_range: tuple[float, float] = (0.01, 0.99)
    one_step: bool = False
    evaluation_steps: int | None = None

    group: ClassVar[str] = "flow"

    def __post_init__(self) -> None:
        require_int("flow.steps", self.steps)
        check_time_shift(self.time_shift, "flow.time_shift")
        pair = "two numbers, 0 < low < high < 1"
        two = isinstance(self.t_range, tuple) and len(self.t_range) == 2
        require(two, "flow.t_range", self.t_range, pair)
        for number in self.t_range:
            require_float("flow.t_range", number)
        require(0 < self.t_range[0] < self.t_range[1] < 1, "flow.t_range", self.t_range, pair)
        one_step = self.one_step
        require(isinstance(one_step, bool), "flow.one_step", one_step, "True or False")
        if self.evaluation_steps is not None:
            require_int("flow.evaluation_steps", self.evaluation_steps)
            alone = "None with flow.one_step, which takes one"
            require(not one_step, "flow.evaluation_steps", self.evaluation_steps, alone)
        made = self.build()
        if isinstance(made.solver, MeanStep):
            asked = "'mean_velocity' with solver 'mean_step'"
            two = made.parametrization.two_times
            require(two, "flow.parametrization", self.parametrization, asked)

    def build(self) -> Flow:
        """:return: the flow, its pieces resolved from their names"""
        return Flow(
            interpolant=INTERPOLANTS.resolve(self.interpolant, Interpolant, self.group),
            parametrization=PARAMETRIZATIONS.resolve(
                self.parametrization, Parametrization, self.group
            ),
            solver=SOLVERS.resolve(self.solver, Solver, self.group),
            support=SUPPORTS.resolve(self.support, Support, self.group),
            steps=self.steps,
            time_shift=self.time_shift,
            t_range=self.t_range,
            evaluation_steps=self.evaluation_steps,
        )


@dataclass(frozen=True)
class EstimatorSettings(Group):
    """
    How the posterior mean is estimated that the network regresses on.

    :param name: "bounded" (Stein kernel in the box), "bounded_uncoupled" (cheaper),
        "diagonal_centred" (the authors' release), "diagonal" (eq. 20), "isotropic" (eq. 21),
        "noise_expectation" (eta = 0), "gradient_expectation" (eta = 1), a number (that eta), or an
        object
    :param n_particles: particles a posterior, K; a state's, which its times share, where the
        estimator is bounded; None with an estimator's object, which has its own (paper: 100)
    :param n_times: times t of each state in the actor's update, T; with the bounded estimator they
        share the state's particles. The update takes a T-th of the batch's states, so that it
        regresses on as many ``x_t`` for a T-th of the evaluations of Q (paper: 1)
    :param q_aggregation: the value of the actor's Boltzmann law, of the critics': "min" (paper) or
        "mean"
    :param use_target_critic: whether it is the target critics'
    """

    name: EstimatorLike = "bounded_uncoupled"
    n_particles: int | None = 8
    n_times: int = 4
    q_aggregation: str = "min"
    use_target_critic: bool = False

    group: ClassVar[str] = "estimator"
    first: ClassVar[str | None] = "name"

    def __post_init__(self) -> None:
        require_int("estimator.n_times", self.n_times)
        known = self.q_aggregation in AGGREGATIONS
        require(known, "estimator.q_aggregation", self.q_aggregation, "'min' or 'mean'")
        target = self.use_target_critic
        require(isinstance(target, bool), "estimator.use_target_critic", target, "True or False")
        if isinstance(self.name, Estimator):
            own = f"None beside {self.name!r}, which has its own number"
            require(self.n_particles is None, "estimator.n_particles", self.n_particles, own)
        else:
            require_int("estimator.n_particles", self.n_particles)
        made = self.build()
        made.check_times(self.n_times)
        gaussian = isinstance(made.source, Gaussian)
        allowed = "an estimator with a Gaussian source: actors draw it"
        require(gaussian, "estimator.name", self.name, allowed)

    def build(self) -> Estimator:
        """:return: the estimator of that name"""
        return make_estimator(self.name, 1 if self.n_particles is None else self.n_particles)

    def _with_consequences(self, given: dict[str, Any]) -> dict[str, Any]:
        if isinstance(given.get("name"), Estimator):
            return {"n_particles": None, **given}
        if "name" in given and self.n_particles is None:
            return {"n_particles": EstimatorSettings.n_particles, **given}
        return given


@dataclass(frozen=True)
class CandidateSettings(Group):
    """
    How one action is picked among several.

    :param n: actions drawn a state, M, to act and in the critics' target (paper: 32)
    :param train: the same in the actor's update; None for as many, and at least 2 where the
        temperature is tuned
    :param evaluate: the same for ``predict(deterministic=True)``, which takes the best (paper: 32)
    :param select: which one acts while exploring, and what the critics' target expects: "softmax"
        (of Q / lambda; paper), "best", or an object
    :param noise: standard deviation of the noise on the action that explores, in half widths of the
        action box; "temperature_0.1" for that multiple of lambda (paper: 0)
    :param noise_color: how the noise from which exploring actions are drawn goes on from step to
        step: "white" (independent; paper) or "pink" (correlated over up to hundreds of steps, so
        that an action's deviation lasts; each action alone has the same law)
    """

    n: int = 2
    train: int | None = None
    evaluate: int = 32
    select: SelectionLike = "softmax"
    noise: float | str = 0.0
    noise_color: str = "pink"

    group: ClassVar[str] = "candidates"
    first: ClassVar[str | None] = "n"

    def __post_init__(self) -> None:
        require_int("candidates.n", self.n)
        require_int("candidates.evaluate", self.evaluate)
        if self.train is not None:
            require_int("candidates.train", self.train)
        SELECTIONS.resolve(self.select, Selection)
        make_noise("candidates.noise", self.noise)
        colors = " or ".join(map(repr, NOISE_COLORS))
        known = isinstance(self.noise_color, str) and self.noise_color in NOISE_COLORS
        require(known, "candidates.noise_color", self.noise_color, colors)


@dataclass(frozen=True)
class ActorUpdateSettings(Group):
    """
    What trains the actor.

    :param x_t_from: the action that ``x_t`` is mixed from: "policy" (a candidate, by softmax;
        paper), "best" (the best candidate), "replay" (the batch's), or an object; None with an
        objective that has actions of its own
    :param objective: what the network regresses on: "posterior_mean" (paper), or, without an
        estimator, actions of the policy's weighted by their value, "exponential" or "advantage",
        the batch's, "replay", those of them that are worth more than the policy's,
        "better_replay", or an object; "none" for nothing, where the values' gradient alone trains
        it
    :param value_gradient: weight of ``-Q(s, a) / mean|Q|`` of the actions that are drawn,
        differentiated through the solver's steps, beside the regression (paper: 0)
    :param reference: weight of the squared distance of the predictions from the averaged network's,
        at the regression's ``x_t`` and t (paper: 0)
    :param loss_weighting: the error that the regression squares, over time: "uniform" (the
        prediction's own; paper), "velocity", "data", "noise", "score" (that function's, whatever
        the network predicts), "min_snr", or an object
    :param every: critic updates an actor update (paper: 1)
    :param average: Polyak step of an averaged network that draws the critics' target; None for
        none (paper)
    :param max_grad_norm: largest norm of the gradient; infinity for none (paper: 10)
    """

    x_t_from: XtFromLike | None = "policy"
    objective: ObjectiveLike = "posterior_mean"
    loss_weighting: LossWeightingLike = "uniform"
    every: int = 2
    average: float | None = None
    max_grad_norm: float = 10.0
    value_gradient: float = 0.0
    reference: float = 0.0

    group: ClassVar[str] = "actor_update"

    def __post_init__(self) -> None:
        require_int("actor_update.every", self.every)
        if self.average is not None:
            require_float("actor_update.average", self.average, 0.0, 1.0)
        if self.max_grad_norm != math.inf:
            require_float("actor_update.max_grad_norm", self.max_grad_norm)
            positive = self.max_grad_norm > 0
            require(positive, "actor_update.max_grad_norm", self.max_grad_norm, "above 0")
        make_loss_weighting(self.loss_weighting, self.group)
        require_float("actor_update.value_gradient", self.value_gradient, 0.0)
        require_float("actor_update.reference", self.reference, 0.0)
        if self.estimates:
            allowed = f"given with objective {self.objective!r}: 'policy', 'best', 'replay'"
            require(self.x_t_from is not None, "actor_update.x_t_from", self.x_t_from, allowed)
            assert self.x_t_from is not None
            X_T_FROM.resolve(self.x_t_from, XtFrom)
        else:
            own = f"None with objective {self.objective!r}, which has actions of its own or none"
            require(self.x_t_from is None, "actor_update.x_t_from", self.x_t_from, own)
        if self.reference > 0:
            averaged = "0 without actor_update.average, whose network is the reference"
            known = self.average is not None
            require(known, "actor_update.reference", self.reference, averaged)
        if isinstance(self.make_objective(), NoRegression):
            some = "above 0 with objective 'none': nothing else would train the actor"
            positive = self.value_gradient > 0
            require(positive, "actor_update.value_gradient", self.value_gradient, some)
            none = "0 with objective 'none', which predicts nothing"
            require(self.reference == 0, "actor_update.reference", self.reference, none)

    def make_objective(self) -> Objective:
        """:return: what the network regresses on, resolved from its name"""
        return OBJECTIVES.resolve(self.objective, Objective)

    @property
    def estimates(self) -> bool:
        """Whether the regression is on posterior means, which an estimator gives."""
        return isinstance(self.make_objective(), PosteriorMeans)

    def _with_consequences(self, given: dict[str, Any]) -> dict[str, Any]:
        if "objective" not in given:
            return given
        own = OBJECTIVES.resolve(given["objective"], Objective)
        posterior = isinstance(own, PosteriorMeans)
        before = self.x_t_from or ActorUpdateSettings.x_t_from
        return {"x_t_from": before if posterior else None, **given}


@dataclass(frozen=True)
class CriticUpdateSettings(Group):
    """
    What the critics learn, and how fast.

    :param learning_rate: a number or a schedule (paper: 1e-3)
    :param entropy: whether their target is the soft value ``mean_m(q_m - lambda log pi(a_m |
        s'))`` of Remark 6, log pi along the ODE (paper: False); or "hutchinson" or an object: how
        log pi is computed
    :param target_noise: as ``candidates.noise``, on the actions of their target (paper: 0)
    :param reward_scale: what rewards are multiplied by in their target (paper: 1)
    """

    learning_rate: float | Schedule = 1e-3
    entropy: bool | DivergenceLike = False
    target_noise: float | str = 0.0
    reward_scale: float = 1.0

    group: ClassVar[str] = "critic_update"

    def __post_init__(self) -> None:
        check_rate("critic_update.learning_rate", self.learning_rate)
        make_noise("critic_update.target_noise", self.target_noise)
        require_float("critic_update.reward_scale", self.reward_scale)
        self.divergence()

    def divergence(self) -> Divergence | None:
        """
        How the log-density of the policy's actions is computed for the critics' target.

        :return: the rule, None where the target has no entropy
        """
        if self.entropy is False:
            return None
        rule = "exact" if self.entropy is True else self.entropy
        return ENTROPIES.resolve(rule, Divergence)


GROUPS: dict[str, type[Group]] = {
    "flow": FlowSettings,
    "estimator": EstimatorSettings,
    "candidates": CandidateSettings,
    "actor_update": ActorUpdateSettings,
    "critic_update": CriticUpdateSettings,
}
