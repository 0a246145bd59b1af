"""RFMFlow: the straight path from noise to action, integrated as an ODE."""

from typing import Any, ClassVar

from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import Settings


class RFMFlow(FlowActorCritic):
    """
    Reverse flow matching with a flow policy (Li, Tang, Azizan, arXiv 2601.08136).

    The actor's velocity field is regressed on ``u(x_t) = d_alpha E[X_1 | x_t] + d_beta E[X_0 |
    x_t]`` (eq. 9, 10) of the Boltzmann law ``exp(Q(s, a) / temperature)``, whose posterior means
    come from weighted particles and a control variate.

    >>> from sb3_rfm import RFMFlow
    >>> model = RFMFlow("MlpPolicy", "Pendulum-v1").learn(1_000)  # doctest: +SKIP

    Arguments: see :class:`sb3_rfm.common.algorithm.FlowActorCritic`, which names the paper's
    value beside each. The defaults are chosen by return a minute: four times of a state share eight
    particles, and two candidates are drawn in four steps, short near the action.
    :data:`AUTHORS` holds the settings of the authors' release: ``RFMFlow("MlpPolicy", env,
    **AUTHORS)``.
    """

    defaults: ClassVar[Settings] = Settings()


AUTHORS: dict[str, Any] = {
    "flow": {"support": "tanh", "parametrization": "velocity", "steps": 10, "time_shift": 1.0},
    "estimator": {"name": "diagonal_centred", "n_particles": 100, "n_times": 1},
    "candidates": {"n": 32, "noise_color": "white"},
    "actor_update": {"every": 1},
    "temperature": 0.02,
    "learning_starts": 10_000,
    "policy_kwargs": {"critic_kwargs": {"layer_norm": False}, "normalize_observations": False},
}
"""
The authors' released settings that differ from the defaults here (their network is also wider: two
residual gelu blocks).
"""
