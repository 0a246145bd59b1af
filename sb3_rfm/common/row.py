"""The choices that make an algorithm, as one row of plain values."""

from dataclasses import dataclass

from stable_baselines3.common.type_aliases import Schedule

from sb3_rfm.common.actor import Flow
from sb3_rfm.common.temperature import TemperatureLike, parse_temperature
from sb3_rfm.sampling.estimators import EstimatorLike, make_estimator
from sb3_rfm.sampling.interpolants import INTERPOLANTS, Interpolant, InterpolantLike
from sb3_rfm.sampling.parametrizations import (
    PARAMETRIZATIONS,
    Parametrization,
    ParametrizationLike,
)
from sb3_rfm.sampling.registry import require, require_float, require_int
from sb3_rfm.sampling.solvers import SOLVERS, Solver, SolverLike
from sb3_rfm.sampling.supports import SUPPORTS, Support, SupportLike


@dataclass(frozen=True)
class Row:
    """
    The choices that make an algorithm; the defaults are RFMFlow's.

    :class:`sb3_rfm.common.algorithm.BoltzmannAlgorithm` says what each is.
    A subclass of the algorithm is a row with other values, and an argument of its constructor
    replaces one of them.
    """

    critic_learning_rate: float | Schedule = 1e-3
    temperature: TemperatureLike = 0.02
    target_entropy: str | float = "auto"
    estimator: EstimatorLike = "bounded"
    n_particles: int = 16
    n_candidates: int = 4
    n_eval_candidates: int = 32
    sampling_steps: int = 4
    interpolant: InterpolantLike = "linear"
    parametrization: ParametrizationLike = "data"
    solver: SolverLike = "euler"
    support: SupportLike = "box"
    t_range: tuple[float, float] = (0.01, 0.99)
    policy_delay: int = 2
    max_grad_norm: float = 10.0
    bfloat16: bool | str = "auto"

    def __post_init__(self) -> None:
        require_int("policy_delay", self.policy_delay)
        require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "a positive number")
        if self.target_entropy != "auto":
            require_float("target_entropy", self.target_entropy)
        switch = "True, False or 'auto'"
        require(self.bfloat16 in (True, False, "auto"), "bfloat16", self.bfloat16, switch)
        make_estimator(self.estimator, self.n_particles).check_support(self.flow().support.bounded)
        if parse_temperature(self.temperature).tuned:
            least = "at least 2 where temperature is 'auto'"
            require(self.n_candidates >= 2, "n_candidates", self.n_candidates, least)

    def flow(self) -> Flow:
        """
        The pieces that draw actions.

        :return: the pieces, resolved from their names
        """
        return Flow(
            interpolant=INTERPOLANTS.resolve(self.interpolant, Interpolant),
            parametrization=PARAMETRIZATIONS.resolve(self.parametrization, Parametrization),
            solver=SOLVERS.resolve(self.solver, Solver),
            support=SUPPORTS.resolve(self.support, Support),
            sampling_steps=self.sampling_steps,
            n_candidates=self.n_candidates,
            n_eval_candidates=self.n_eval_candidates,
            t_range=self.t_range,
            temperature=parse_temperature(self.temperature).value,
        )
