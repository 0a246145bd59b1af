"""The choices that make an algorithm, as one row of plain values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from stable_baselines3.common.type_aliases import Schedule

from sb3_rfm.common.boltzmann import CRITIC_VIEWS, CriticView, CriticViewLike
from sb3_rfm.common.examples import EXAMPLES, Examples, ExamplesLike
from sb3_rfm.common.flow import Flow
from sb3_rfm.common.learner import Learner
from sb3_rfm.common.networks import has_fast_bfloat16
from sb3_rfm.common.noise import NOISE_COLORS
from sb3_rfm.common.policies import RFMPolicy
from sb3_rfm.common.selection import CHOICES, Choice, ChoiceLike, make_noise
from sb3_rfm.common.temperature import TemperatureLike, entropy_per_action, parse_temperature
from sb3_rfm.sampling.divergences import Divergence, DivergenceLike, ExactDivergence, Hutchinson
from sb3_rfm.sampling.interpolants import INTERPOLANTS, Interpolant, InterpolantLike
from sb3_rfm.sampling.loss_weightings import LossWeightingLike, make_loss_weighting
from sb3_rfm.sampling.parametrizations import (
    PARAMETRIZATIONS,
    Parametrization,
    ParametrizationLike,
)
from sb3_rfm.sampling.posterior_mean import EstimatorLike, make_estimator
from sb3_rfm.sampling.registry import Registry, require, require_float, require_int
from sb3_rfm.sampling.solvers import SOLVERS, Solver, SolverLike
from sb3_rfm.sampling.sources import Gaussian
from sb3_rfm.sampling.supports import SUPPORTS, Support, SupportLike

# Few steps of a sharp policy end nearly on a point, and a prediction clamped at a wall on one: the
# floor keeps the log-density finite. A step then adds at most log 20 = 3 nats a coordinate.
ENTROPY_FLOOR = 0.05
ENTROPY_BACKUPS = Registry[Divergence](
    "entropy_backup (True, False or how log pi is computed)",
    {"exact": partial(ExactDivergence, ENTROPY_FLOOR), "hutchinson": Hutchinson},
)


@dataclass(frozen=True)
class Row:
    """
    The choices that make an algorithm; the defaults are RFM's with particles for each time.

    :class:`sb3_rfm.common.algorithm.BoltzmannAlgorithm` says what each is.
    A subclass of the algorithm is a row with other values, and an argument of its constructor
    replaces one of them.
    """

    critic_learning_rate: float | Schedule = 1e-3
    temperature: TemperatureLike = "auto"
    target_entropy: str | float = "auto"
    estimator: EstimatorLike = "bounded"
    n_particles: int = 16
    n_candidates: int = 4
    n_training_candidates: int | None = None
    n_eval_candidates: int = 32
    candidate_choice: ChoiceLike = "softmax"
    exploration_noise: float | str = 0.0
    noise_color: str = "white"
    target_noise: float | str = 0.0
    examples: ExamplesLike = "policy"
    n_times: int = 1
    critic_view: CriticViewLike = "min"
    sampling_steps: int = 4
    time_shift: float = 1.0
    one_step_policy: bool = False
    interpolant: InterpolantLike = "linear"
    parametrization: ParametrizationLike = "data"
    solver: SolverLike = "euler"
    support: SupportLike = "box"
    t_range: tuple[float, float] = (0.01, 0.99)
    loss_weighting: LossWeightingLike = "uniform"
    entropy_backup: bool | DivergenceLike = False
    reward_scale: float = 1.0
    policy_delay: int = 2
    policy_tau: float | None = None
    max_grad_norm: float = 10.0
    bfloat16: bool | str = "auto"

    def __post_init__(self) -> None:
        require_int("policy_delay", self.policy_delay)
        require_int("n_times", self.n_times)
        require_int("n_candidates", self.n_candidates)
        if self.max_grad_norm != math.inf:
            require_float("max_grad_norm", self.max_grad_norm)
            require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "above 0")
        entropy_per_action(self.target_entropy)
        color, colors = self.noise_color, " or ".join(map(repr, NOISE_COLORS))
        known = isinstance(color, str) and color in NOISE_COLORS
        require(known, "noise_color", color, colors)
        require_float("reward_scale", self.reward_scale)
        if self.policy_tau is not None:
            require_float("policy_tau", self.policy_tau, 0.0, 1.0)
        make_noise("target_noise", self.target_noise)
        EXAMPLES.resolve(self.examples, Examples)
        CRITIC_VIEWS.resolve(self.critic_view, CriticView)
        one_step = self.one_step_policy
        require(isinstance(one_step, bool), "one_step_policy", one_step, "True or False")
        has_density = "False with entropy_backup, which needs the log-density of a flow"
        need = one_step and self.entropy_backup is not False
        require(not need, "one_step_policy", one_step, has_density)
        switch = "True, False or 'auto'"
        require(self.bfloat16 in (True, False, "auto"), "bfloat16", self.bfloat16, switch)
        make_loss_weighting(self.loss_weighting)
        self.divergence()
        estimator = make_estimator(self.estimator, self.n_particles)
        estimator.check_support(self.flow().support.bounded)
        estimator.check_times(self.n_times)
        gaussian = isinstance(estimator.source, Gaussian)
        require(
            gaussian, "estimator", estimator, "an estimator with a Gaussian source: actors draw it"
        )
        if parse_temperature(self.temperature).tuned:
            least = "at least 2 where temperature is 'auto'"
            enough = self.flow().n_training_candidates >= 2
            require(enough, "n_training_candidates", self.n_training_candidates, least)

    def flow(self) -> Flow:
        """
        The pieces that draw actions.

        :return: the pieces, resolved from their names
        """
        temperature, n_training = parse_temperature(self.temperature), self.n_training_candidates
        if n_training is None:  # an entropy is estimated from two at least
            n_training = max(self.n_candidates, 2 if temperature.tuned else 1)
        return Flow(
            interpolant=INTERPOLANTS.resolve(self.interpolant, Interpolant),
            parametrization=PARAMETRIZATIONS.resolve(self.parametrization, Parametrization),
            solver=SOLVERS.resolve(self.solver, Solver),
            support=SUPPORTS.resolve(self.support, Support),
            sampling_steps=self.sampling_steps,
            time_shift=self.time_shift,
            n_candidates=self.n_candidates,
            n_training_candidates=n_training,
            n_eval_candidates=self.n_eval_candidates,
            choice=CHOICES.resolve(self.candidate_choice, Choice),
            exploration_noise=make_noise("exploration_noise", self.exploration_noise),
            averaged=self.policy_tau is not None,
            one_step=self.one_step_policy,
            t_range=self.t_range,
            temperature=temperature.value,
        )

    def divergence(self) -> Divergence | None:
        """
        How the log-density of the policy's actions is computed for the critics' target.

        :return: the rule, None where the target has no entropy
        """
        if self.entropy_backup is False:
            return None
        rule = "exact" if self.entropy_backup is True else self.entropy_backup
        return ENTROPY_BACKUPS.resolve(rule, Divergence)

    def learner(self, policy: RFMPolicy, skips: bool = False) -> Learner:
        """
        What updates a policy.

        :param policy: the policy
        :param skips: whether updates whose gradient is not finite are left out
        :return: the learner
        """
        rule = parse_temperature(self.temperature)
        share, nats = entropy_per_action(self.target_entropy)
        target_entropy = nats - share * policy.actor.action_dim
        fast = self.bfloat16 == "auto" and has_fast_bfloat16(policy.device)
        return Learner(
            policy=policy,
            estimator=make_estimator(self.estimator, self.n_particles),
            examples=EXAMPLES.resolve(self.examples, Examples),
            n_times=self.n_times,
            critic_view=CRITIC_VIEWS.resolve(self.critic_view, CriticView),
            loss_weighting=make_loss_weighting(self.loss_weighting),
            divergence=self.divergence(),
            target_noise=make_noise("target_noise", self.target_noise),
            reward_scale=self.reward_scale,
            max_grad_norm=self.max_grad_norm,
            target_entropy=target_entropy if rule.tuned else None,
            bfloat16=fast or self.bfloat16 is True,
            skips=skips,
        )

    def replaced(self, arguments: Mapping[str, Any]) -> "Row":
        """
        The row with the arguments that are given in place of its values.

        :param arguments: by name; None, and names that the row does not have, are left out
        :return: the row, its pieces and numbers checked
        """
        names = {field.name for field in fields(self)}
        given = {name: v for name, v in arguments.items() if name in names and v is not None}
        return replace(self, **given)
