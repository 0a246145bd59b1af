"""
What trains the actor: its regression, the gradient of values, its one-step network's error, and the
temperature's dual.

Of a population of P members, states are (P, B) in the place of (B), and each loss is (P) in the
place of ().
"""

from dataclasses import replace

import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from sb3_rfm.common.batches import mapped
from sb3_rfm.common.boltzmann import CriticLogDensity, InOneRow, critic_features, minimum_q
from sb3_rfm.common.critic_losses import mean_square
from sb3_rfm.common.flow import VelocityField, clamp_inward
from sb3_rfm.common.method import Method
from sb3_rfm.common.optimization import Info
from sb3_rfm.common.policies import FlowPolicy
from sb3_rfm.common.regression import Regression, later_times, posterior_info, stratified_times
from sb3_rfm.common.targets import ActorBatch
from sb3_rfm.common.temperature import Temperature, gaussian_entropy
from sb3_rfm.sampling.estimators.posteriors import LogDensity, Posterior
from sb3_rfm.sampling.interpolants import Coefficients
from sb3_rfm.sampling.parametrizations import EndPoints
from sb3_rfm.utils.preload import load_jvp_rules

SMALLEST_VALUE = 1e-8
"""The least that values are divided by."""


def actor_batch(policy: FlowPolicy, method: Method, data: ReplayBufferSamples) -> ActorBatch:
    """
    What the actor's losses are made of: velocity fields, the critics' law and, where anything
    needs them, the policy's candidates.

    :param policy: actor and critics
    :param method: the method
    :param data: a batch of transitions, of which a T-th is used
    :return: of B states
    """
    n_states = max(1, data.actions.shape[-2] // method.n_times)
    axis = data.actions.dim() - 2
    obs = mapped(data.observations, lambda part: part.narrow(axis, 0, n_states))
    actions = data.actions.narrow(axis, 0, n_states)
    actor, critic = policy.actor, policy.critic
    flow, one_step = actor.flow, actor.one_step_network is not None
    features, temperature = actor.features(obs), actor.temperature().detach()
    velocity = actor.velocity(features)
    needs_candidates = method.needs_candidates(one_step)
    with th.no_grad():
        replayed = flow.support.from_action(actions)
        noise = x_1 = replayed.new_empty(0, *replayed.shape)
        q, judged = noise[..., 0], replayed[..., :0]
        if needs_candidates or method.value_gradient or not method.use_target_critic:
            judged = critic_features(critic, obs)
        if needs_candidates:
            noise = actor.sample_noise(velocity.condition, method.n_training_candidates)
            # what is distilled is a function of the noise: noise of the solver's own is left out
            solver = flow.solver.deterministic() if one_step else flow.solver
            x_1 = replace(velocity, bfloat16=method.bfloat16).integrate(noise, solver)
            q = minimum_q(critic, judged, flow.support.to_action(x_1), method.bfloat16)
        log_density = None
        if method.estimator is not None:
            by, seen = critic, judged
            if method.use_target_critic:
                by = policy.critic_target
                seen = critic_features(by, obs)
            log_density = CriticLogDensity(
                by, seen, temperature, flow.support, method.bfloat16, method.mean_q
            )
        reference = actor.acting_velocity(features, target=True) if method.reference else None
        excess = None
        if policy.behaviour is not None:
            own = policy.behaviour.critic
            excess = (minimum_q(own, critic_features(own, obs), actions) - q[0]) / own.unit
    acting = actor.acting_velocity(features) if one_step else None
    return ActorBatch(
        velocity=velocity,
        acting_velocity=acting,
        reference_velocity=reference,
        log_density=log_density,
        features=judged,
        replayed=replayed,
        noise=noise,
        x_1=x_1,
        q=q,
        temperature=temperature,
        excess=excess,
    )


def regression_loss(method: Method, batch: ActorBatch) -> tuple[Tensor, Info]:
    """
    The regression of the flow network on the posterior means (Theorem 1), or on weighted actions,
    and its distance from the averaged network where it is kept near it (ORW-CFM-W2, arXiv
    2502.06061).

    :param method: the method
    :param batch: what it is made of
    :return: (), and quantities to log
    """
    (x_t, t, target, scale), info = regression(method, batch)
    later = None
    if batch.velocity.flow.parametrization.two_times:
        later = later_times(t)
        target = mean_velocity(batch.velocity, x_t, t, later, target)
    prediction = batch.velocity.predict(x_t, t, later)
    loss = mean_square(scale * prediction, scale * target)
    if batch.reference_velocity is not None:
        with th.no_grad():
            near = batch.reference_velocity.predict(x_t, t, later)
        distance = mean_square(prediction, near)
        loss = loss + method.reference * distance
        info = {**info, "rfm/reference_distance": distance.detach()}
    return loss, {"train/actor_loss": loss.detach(), **info}


@th.no_grad()
def mean_velocity(
    velocity: VelocityField, x_t: Tensor, t: Tensor, later: Tensor, marginal: Tensor
) -> Tensor:
    """
    What a network of mean velocities is to predict, by its own derivative along the path: ``u = v +
    (r - t) (v · grad_x u + d_t u)`` (MeanFlow, Geng et al. 2025, arXiv 2505.13447, eq. 6, with
    times that run from noise to action).

    :param velocity: the network's, at B states
    :param x_t: (N, B, D)
    :param t: its time, (N, B)
    :param later: r, (N, B)
    :param marginal: v, the velocity at ``x_t``, or an unbiased estimate of it, (N, B, D)
    :return: (N, B, D), without a graph
    """
    load_jvp_rules()
    change: Tensor = th.func.jvp(
        lambda x, time: velocity.predict(x, time, later),
        (x_t, t),
        (marginal, th.ones_like(t)),
    )[1]
    return marginal + (later - t).unsqueeze(-1) * change


def value_gradient_loss(
    policy: FlowPolicy, method: Method, batch: ActorBatch
) -> tuple[Tensor, Info]:
    """
    ``-w mean Q(s, a) / mean|Q|``, one action a state, the gradient through the steps of the solver
    that draws it (DACER, arXiv 2405.15177, without the divisor).

    The critics are evaluated and differentiated by their own rule, at the action with the noise of
    their target, so that the loss has the right gradient in the actor and none in the critics.
    Where an action or a prediction is clamped, the gradient passes if it leads back inside
    (:class:`sb3_rfm.common.flow.InwardClamp`).

    :param policy: actor and critics
    :param method: the method
    :param batch: of B states
    :return: (), and quantities to log
    """
    velocity = replace(batch.acting_velocity or batch.velocity, clamp=clamp_inward)
    start = policy.actor.sample_noise(velocity.condition, 1)
    points, support = velocity.integrate(start), velocity.flow.support
    actions = clamp_inward(points, 1.0) if support.clips else support.to_action(points)
    noisy = method.target_noise(actions.detach(), batch.temperature)
    q, slope = policy.critic.value_and_action_gradient(batch.features, noisy, method.mean_q)
    size = q.abs().mean((0, -1)).clamp_min(SMALLEST_VALUE)
    loss = -method.value_gradient * (slope * actions).sum(-1).mean((0, -1)) / size
    return loss, {"rfm/q_policy": q.mean((0, -1))}


@th.no_grad()
def regression(method: Method, batch: ActorBatch) -> tuple[Regression, Info]:
    """
    What the network is to predict, and where: draw actions ``x_1``, mix ``x_t``, estimate what the
    ends of its path are.

    :param method: the method
    :param batch: what it is made of
    :return: the regression, and quantities to log
    """
    flow = batch.velocity.flow
    if method.weighted is None:
        assert method.x_t_from is not None
        x_1 = th.stack([method.x_t_from(batch) for _ in range(method.n_times)])
        weight = th.ones_like(x_1[..., 0])
    else:
        x_1, weight = method.weighted(batch)
    t = stratified_times(x_1, flow.t_range)
    coefficients = flow.interpolant(t.unsqueeze(-1))
    x_0 = th.randn_like(x_1)
    x_t = coefficients.alpha * x_1 + coefficients.beta * x_0
    ends, info = EndPoints(x_0, x_1), {}
    if method.estimator is not None:
        posterior = posterior_given(x_t, coefficients, method, batch)
        means, bound = posterior.mean, flow.support.target_bound
        means = EndPoints(means.x_0.view_as(x_t), means.x_1.view_as(x_t))
        ends = flow.clip_prediction(bound, coefficients, x_t, means)
        coefficient = posterior.coefficient.expand(*posterior.ess.shape, x_t.shape[-1])
        info = posterior_info(posterior.ess.view_as(t), coefficient.reshape(x_t.shape))
    target = flow.parametrization.target(coefficients, ends)
    scale = method.loss_weighting.scale(flow.parametrization, coefficients)
    info = {**info, "rfm/target_norm": target.square().mean((0, -2, -1)).sqrt()}
    return Regression(x_t, t, target, scale * weight.unsqueeze(-1).sqrt()), info


def posterior_given(
    x_t: Tensor, coefficients: Coefficients, method: Method, batch: ActorBatch
) -> Posterior:
    """
    The posterior of the Boltzmann law given ``x_t``.

    :param x_t: (T, B, D)
    :param coefficients: the interpolant, (T, B, 1) each
    :param method: whose estimator it is by
    :param batch: the law, and the policy's candidates as a guide
    :return: the posterior of (T, B) points; of (B) for a single time; a population's states are B
        in one row
    """
    assert method.estimator is not None
    assert batch.log_density is not None
    log_density: LogDensity = batch.log_density
    guide = batch.x_1 if method.estimator.guided else None
    if x_t.dim() > 3:
        log_density = InOneRow(batch.log_density, x_t.shape[1:3])
        coefficients = Coefficients(*(c.flatten(1, 2) for c in coefficients))
        x_t = x_t.flatten(1, 2)
        guide = None if guide is None else guide.flatten(1, 2)
    if method.n_times == 1:
        coefficients, x_t = coefficients.at(0), x_t[0]
    return method.estimator(log_density, coefficients, x_t, policy_samples=guide)


def distillation_loss(batch: ActorBatch) -> tuple[Tensor, Info]:
    """
    The one-step network's error in where the flow carries its noise.

    :param batch: the flow's candidates, and where they start
    :return: mean square, (), and quantities to log
    """
    acting = batch.acting_velocity
    assert acting is not None
    first = th.full((), acting.flow.t_range[0], device=batch.noise.device)
    prediction = acting.predict(batch.noise, first)
    loss = mean_square(prediction, batch.x_1)
    return loss, {"rfm/distillation_loss": loss.detach()}


def temperature_loss(
    temperature: Temperature, method: Method, batch: ActorBatch
) -> tuple[Tensor, Info]:
    """
    The dual of a bound on the policy's entropy, ``log lambda (H - target)``, H a coordinate and
    bounded (:meth:`sb3_rfm.common.temperature.Temperature.dual_loss`).

    :param temperature: lambda
    :param method: the target
    :param batch: the policy's candidates, to which the noise of the critics' target is added
    :return: (), and quantities to log
    """
    assert method.target_entropy is not None
    actions = batch.velocity.flow.support.to_action(batch.x_1)
    entropy = gaussian_entropy(method.target_noise(actions, batch.temperature))
    loss = temperature.dual_loss(entropy / actions.shape[-1], method.target_entropy)
    return loss, {"rfm/entropy": entropy}
