"""
The bandit probe: one state, a known Q with two uneven hills; what law do the actors learn?

Those that target the Boltzmann law pass a Kolmogorov-Smirnov test at the 1 % level with as many
draws as a histogram has; those that do not are wrong in the way that theory says.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit
from gymnasium import spaces
from scipy import stats
from torch import nn
from updates import draw, update_actor

from sb3_rfm import (
    DACER,
    DQS,
    FLAME,
    FLAME_M,
    FPMD,
    IDEM,
    ORWCFM,
    QNE,
    QSM,
    SAC,
    SDAC,
    FlowRL,
    RFMDiffusion,
    RFMFlow,
)
from sb3_rfm.experiments.hyperparams import merged
from sb3_rfm.sampling import Noise
from sb3_rfm.sampling.estimators.posteriors import value_and_score

TEMPERATURE = 0.1
SHARES, MEANS, SCALES = (0.65, 0.35), (-0.45, 0.4), (0.12, 0.15)
LEVEL, N_DRAWS = 0.01, 200


class KnownQ(nn.Module):
    """``lambda log sum_k w_k N(a; m_k, s_k²)``: its Boltzmann law is that mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(th.zeros(()))  # what an optimizer may step on

    def forward(
        self, features: th.Tensor, actions: th.Tensor | None = None, bfloat16: bool = False
    ) -> th.Tensor:
        a = features[..., 3:] if actions is None else actions
        parts = [
            th.distributions.Normal(mean, scale).log_prob(a) + np.log(share)
            for share, mean, scale in zip(SHARES, MEANS, SCALES, strict=True)
        ]
        return TEMPERATURE * th.logsumexp(th.stack(parts), 0) + 0 * self.idle


def cdf(a: np.ndarray) -> np.ndarray:
    """Of the Boltzmann law on the box; what lies beyond it is less than 1e-4."""
    return sum(
        share * stats.norm.cdf(a, mean, scale)
        for share, mean, scale in zip(SHARES, MEANS, SCALES, strict=True)
    )


def model(algorithm: Any, **changes: Any) -> Any:
    """Its critics are the known Q; nothing can move them."""
    one = algorithm(
        "MlpPolicy",
        Bandit(spaces.Box(-1, 1, (1,), np.float32)),
        learning_rate=2e-3,
        buffer_size=1_000,
        learning_starts=1_000,
        batch_size=128,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [64, 64]},
        **changes,
    )
    for critic in (one.critic, one.critic_target):
        critic.use([KnownQ(), KnownQ()])
    return one


def learnt(algorithm: Any, updates: int, draw_steps: int = 100, **changes: Any) -> np.ndarray:
    """
    2000 draws of the policy itself, without candidates, after some updates of the actor.

    They are drawn in many steps: few bend the law, whatever was learnt. (A loss in the data's own
    error does not constrain the last of many steps: those cases take another weighting.)
    """
    settings: dict[str, Any] = {"temperature": TEMPERATURE, "bfloat16": False}
    if algorithm is not QSM:  # whose estimator has one point
        settings["estimator"] = {"n_particles": 64}
    one = trained(model(algorithm, **merged(settings, changes)), updates)
    return drawn(one, draw_steps)


def trained(one: Any, updates: int) -> Any:
    """The model after some updates of the actor, and of what is averaged of it."""
    obs = th.zeros(128, 3)
    for update in range(updates):
        for group in one.actor.optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - update / updates)
        update_actor(one, obs, 2 * th.rand(128, 1) - 1)
        one._average_policy()
    return one


def drawn(one: Any, steps: int | None = None) -> np.ndarray:
    """2000 draws of the policy, in its own number of steps or another."""
    flow = one.actor.flow
    one.actor.flow = replace(flow, steps=steps or flow.steps)
    with th.no_grad():
        points = draw(one, th.zeros(1, 3), 2_000)
    one.actor.flow = flow
    return flow.support.to_action(points).flatten().numpy()


def p_value(actions: np.ndarray) -> float:
    """Of the Kolmogorov-Smirnov test of ``N_DRAWS`` of them."""
    return float(stats.kstest(actions[:N_DRAWS], cdf).pvalue)


def test_the_test_has_power() -> None:
    """Half or twice the temperature, equal hills, or one hill alone are found out."""
    generator = np.random.default_rng(0)
    hill = generator.random(2_000) < SHARES[0]
    normal = generator.normal(size=2_000)
    right = np.where(hill, MEANS[0] + SCALES[0] * normal, MEANS[1] + SCALES[1] * normal)
    assert p_value(right) > LEVEL
    even = generator.random(2_000) < 0.5
    equal = np.where(even, MEANS[0] + SCALES[0] * normal, MEANS[1] + SCALES[1] * normal)
    assert p_value(equal) < LEVEL
    assert p_value(MEANS[0] + SCALES[0] * normal) < LEVEL


def boltzmann_case(algorithm: Any, updates: int, *marks: Any, **changes: Any) -> Any:
    return pytest.param(algorithm, updates, changes, id=algorithm.__name__, marks=marks)


@pytest.mark.parametrize(
    ("algorithm", "updates", "changes"),
    [
        boltzmann_case(
            RFMFlow,
            700,
            estimator={"n_particles": 16},
            flow={"steps": 4, "time_shift": 4.0},
            actor_update={"loss_weighting": "velocity"},
        ),
        boltzmann_case(
            RFMDiffusion,
            1_000,
            pytest.mark.slow,
            estimator={"n_particles": 16},
            actor_update={"loss_weighting": "noise"},
        ),
        boltzmann_case(QNE, 700),
        boltzmann_case(FLAME, 700),
        boltzmann_case(FLAME_M, 3_000, pytest.mark.slow, flow={"solver": "euler"}),
        boltzmann_case(SDAC, 4_000, pytest.mark.slow, candidates={"n": 4}),
        boltzmann_case(IDEM, 8_000, pytest.mark.slow),
        boltzmann_case(DQS, 12_000, pytest.mark.slow),
    ],
)
def test_these_learn_the_boltzmann_law(
    algorithm: Any, updates: int, changes: dict[str, Any]
) -> None:
    actions = learnt(algorithm, updates, **changes)
    assert p_value(actions) > LEVEL, stats.kstest(actions, cdf)


@pytest.mark.slow
def test_qsm_draws_what_its_plug_in_score_gives() -> None:
    """
    The law of the sampler on ``x_0 = -grad Q(x_t) / lambda`` itself, which is not the Boltzmann
    law; at five times the temperature, where that field is smooth enough for the sampler's steps.
    """
    hot = 5 * TEMPERATURE
    actions = learnt(QSM, 1_500, 20, temperature=hot)
    one = model(QSM, temperature=hot)
    flow, law = one.actor.flow, KnownQ()

    def field(x: th.Tensor, t: th.Tensor) -> th.Tensor:
        _, score = value_and_score(lambda y: law(th.zeros(1, 3), y)[..., 0] / hot, x)
        c = flow.interpolant(t)
        ends = flow.clip_prediction(1.0, c, x, Noise().end_points(c, x, -score))
        return c.d_alpha * ends.x_1 + c.d_beta * ends.x_0

    th.manual_seed(1)
    start, times = th.randn(2_000, 1), (flow.t_range[0], 1.0)
    exact = flow.solver.solve(field, start, flow.interpolant, 20, times)
    exact = exact.clamp(-1, 1).flatten().numpy()
    grid = th.linspace(-1, 1, 4001).view(-1, 1)
    mass = th.softmax(law(th.zeros(1, 3), grid)[:, 0].detach() / hot, 0).cumsum(0).numpy()
    assert stats.ks_2samp(actions[:N_DRAWS], exact).pvalue > LEVEL
    for draws in (actions, exact):
        boltzmann = stats.kstest(draws[:N_DRAWS], lambda a: np.interp(a, grid[:, 0], mass))
        assert boltzmann.pvalue < LEVEL


@pytest.mark.parametrize("algorithm", [DACER, FlowRL])
def test_the_gradient_of_q_ends_on_the_hills(algorithm: Any) -> None:
    """Nothing holds it at the Boltzmann law: draws gather at maxima, of which there may be two."""
    own = {"temperature": 1e-3, "candidates": {"train": 1}} if algorithm is DACER else {}
    one = model(algorithm, **own)
    assert drawn(one).std() > 0.2  # a premise: the first policy is wide
    if algorithm is FlowRL:  # values that hold nothing to be better: pure ascent
        one.policy.behaviour.critic.use([Lowest(), Lowest()])
    actions = drawn(trained(one, 400))
    nearest = np.abs(actions[:, None] - np.array(MEANS)).min(1)
    assert np.quantile(nearest, 0.9) < 0.06
    assert p_value(actions) < LEVEL


class Lowest(nn.Module):
    def forward(
        self, features: th.Tensor, actions: th.Tensor | None = None, bfloat16: bool = False
    ) -> th.Tensor:
        return th.full_like((features if actions is None else actions)[..., :1], -1e6)


def test_orw_cfm_stays_nearer_its_reference_as_the_penalty_grows() -> None:
    """Weights of its own tilt it round by round towards a point; the penalty slows each round."""
    distances, spreads = [], []
    for penalty in (0.0, 3.0, 100.0):
        one = model(
            ORWCFM,
            temperature=0.5,
            candidates={"train": 4},
            flow={"steps": 5},
            actor_update={"reference": penalty},
        )
        before = drawn(trained_alike(one))
        actions = drawn(trained(one, 200))
        distances.append(stats.wasserstein_distance(before, actions))
        spreads.append(actions.std())
    assert distances[0] > 1.3 * distances[1] > 1.3**2 * distances[2]
    assert spreads[0] < 0.5 * before.std()  # without a penalty it gathers


def trained_alike(one: Any) -> Any:
    """Its velocity made that of a wide law, N(0, .6²), in the averaged network too."""
    network, times = one.actor.network, th.rand(512, 1)
    optimizer = th.optim.Adam(network.parameters(), 5e-3)
    for _ in range(300):
        times, noise, actions = th.rand(1, 256), th.randn(1, 256, 1), 0.6 * th.randn(1, 256, 1)
        x_t = times[..., None] * actions + (1 - times[..., None]) * noise
        condition = one.actor.velocity(th.zeros(256, 3)).condition
        loss = (network(condition, x_t, times) - (actions - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    one.actor.averaged_network.load_state_dict(network.state_dict())
    return one


def test_fpmd_evaluates_by_the_mean_action() -> None:
    """One step of a velocity that it has learnt, whose law has two hills, acts between them."""
    one = model(FPMD, flow={"parametrization": "velocity"})
    network = one.actor.network
    optimizer = th.optim.Adam(network.parameters(), 3e-3)
    condition = th.zeros(256, 3)
    for _ in range(1_000):
        hill = th.where(th.rand(1, 256, 1) < SHARES[0], *MEANS)
        times, noise = th.rand(1, 256), th.randn(1, 256, 1)
        x_t = times[..., None] * hill + (1 - times[..., None]) * noise
        prediction = network(one.actor.velocity(condition).condition, x_t, times)
        loss = (prediction - (hill - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    many = drawn(one)
    assert np.abs(many[:, None] - np.array(MEANS)).min(1).mean() < 0.1  # a premise: on the hills
    with th.no_grad():
        ends = one.actor.sample(one.actor.velocity(th.zeros(1, 3)), 200, deterministic=True)
    assert ends.mean().item() == pytest.approx(np.dot(SHARES, MEANS), abs=0.08)
    assert ends.std() < 0.1 < many.std()


@pytest.mark.slow
def test_sac_takes_one_hill() -> None:
    """Its law has one hill: the reverse Kullback-Leibler divergence leaves the smaller one out."""
    one = model(SAC, ent_coef=TEMPERATURE)
    one.learn(1_000)  # fills the buffer
    one.train(1_500, 128)
    with th.no_grad():
        actions = one.actor(th.zeros(2_000, 3)).numpy().ravel()
    assert (actions < 0).mean() > 0.98
    assert actions.mean() == pytest.approx(MEANS[0], abs=0.06)
    assert actions.std() == pytest.approx(SCALES[0], abs=0.03)
    assert p_value(actions) < LEVEL
