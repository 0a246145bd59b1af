"""The two updates: the critic's, and the actor's regression on the posterior mean."""

from dataclasses import dataclass, replace

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs, ReplayBufferSamples
from torch import Tensor
from torch.nn import functional as F

from sb3_rfm.common.actor import Field
from sb3_rfm.common.boltzmann import (
    Boltzmann,
    CriticView,
    critic_features,
    minimum_q,
)
from sb3_rfm.common.critics import move_unit
from sb3_rfm.common.examples import Examples, Material
from sb3_rfm.common.policies import RFMPolicy
from sb3_rfm.common.regression import Info, Regression, posterior_info, stratified_times
from sb3_rfm.common.selection import GaussianNoise
from sb3_rfm.common.temperature import gaussian_entropy
from sb3_rfm.sampling.divergences import Divergence
from sb3_rfm.sampling.estimators.posteriors import Estimator, Posterior
from sb3_rfm.sampling.interpolants import Coefficients
from sb3_rfm.sampling.loss_weightings import LossWeighting
from sb3_rfm.sampling.parametrizations import EndPoints
from sb3_rfm.sampling.solvers import Solver


def first_states(obs: PyTorchObs, n_states: int) -> PyTorchObs:
    """
    The first observations of a batch.

    :param obs: a tensor, or a dictionary of them
    :param n_states: how many
    :return: of the same kind
    """
    if isinstance(obs, dict):
        return {key: part[:n_states] for key, part in obs.items()}
    return obs[:n_states]


@dataclass(frozen=True)
class Learner:
    """
    Updates a policy from batches of transitions.

    :param policy: actor, critic and target critic, with their optimizers
    :param estimator: how posterior means are estimated
    :param examples: what the regression is made of
    :param n_times: times t of each state, T; the actor's update then takes a T-th of the states
    :param critic_view: which value of the critics the actor is trained on
    :param loss_weighting: which error of the regression is squared
    :param divergence: how log pi is computed for the critics' target; None: without entropy
    :param target_noise: added to the actions of the critics' target
    :param reward_scale: what rewards are multiplied by
    :param max_grad_norm: largest norm of the actor's gradient
    :param target_entropy: nats that the temperature is tuned towards; None where it is not tuned
    :param bfloat16: whether candidates are drawn and judged in bfloat16
    :param skips: whether updates whose gradient is not finite are left out
    """

    policy: RFMPolicy
    estimator: Estimator
    examples: Examples
    n_times: int
    critic_view: CriticView
    loss_weighting: LossWeighting
    divergence: Divergence | None
    target_noise: GaussianNoise
    reward_scale: float
    max_grad_norm: float
    target_entropy: float | None
    bfloat16: bool
    skips: bool = False

    @property
    def needs_candidates(self) -> bool:
        """Whether the actor's update makes use of candidates."""
        guided = self.estimator.guided and not self.examples.own_ends
        tuned = self.target_entropy is not None
        return self.examples.from_policy or guided or tuned or self.policy.actor.flow.one_step

    @property
    def needs_critic(self) -> bool:
        """Whether the actor's update asks the critic, and not the target critic alone."""
        return self.needs_candidates or not self.critic_view.target

    def candidates(self, field: Field, n_candidates: int) -> Tensor:
        """
        Points that a network draws.

        :param field: its velocity field at B states
        :param n_candidates: M
        :return: points of the flow (M, B, D)
        """
        return self.ends(field, self.policy.actor.starts(field, n_candidates), field.flow.solver)

    def ends(self, field: Field, starts: Tensor, solver: Solver) -> Tensor:
        """
        Where a network carries its starts.

        :param field: its velocity field at B states
        :param starts: (M, B, D)
        :param solver: what integrates
        :return: (M, B, D)
        """
        return self.policy.actor.ends(replace(field, bfloat16=self.bfloat16), starts, solver)

    def descend(
        self, optimizer: th.optim.Optimizer, loss: Tensor, max_grad_norm: float | None = None
    ) -> None:
        """
        One step of an optimizer.

        :param optimizer: of a network
        :param loss: ()
        :param max_grad_norm: largest norm of the gradient; None for no limit
        """
        optimizer.zero_grad()
        loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if max_grad_norm is not None:
            th.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        gradients = (p.grad for p in parameters if p.grad is not None)
        if not self.skips or all(bool(gradient.isfinite().all()) for gradient in gradients):
            optimizer.step()

    def update_critic(self, data: ReplayBufferSamples, discounts: float | Tensor) -> Info:
        """
        One step on ``(Q(s, a) - r - discount V(s'))²``, in the critics' unit.

        :param data: a batch of transitions
        :param discounts: gamma, or one for each transition (n-step returns), (B, 1)
        :return: quantities to log
        """
        critic = self.policy.critic
        with th.no_grad():
            next_value, info = self.next_value(data.next_observations)
            rewards = self.reward_scale * data.rewards
            target = rewards + (1 - data.dones) * discounts * next_value.unsqueeze(-1)
            if critic.normalizes_values:
                factor = move_unit((critic, self.policy.critic_target), target)
                if self.target_entropy is not None:
                    self.policy.actor.temperature.rescale(factor)
        values = critic(data.observations, data.actions)
        loss = 0.5 * th.stack([F.mse_loss(value, target) for value in values]).sum()
        self.descend(critic.optimizer, loss / critic.unit.square())
        return {"train/critic_loss": loss.detach(), "rfm/q_target": target.mean(), **info}

    def next_value(self, obs: PyTorchObs) -> tuple[Tensor, Info]:
        """
        The value of states by the target critics, over M candidates.

        It is the expectation of the choice by which the policy acts; for softmax, as the authors
        have it, ``V = sum_m softmax(q / lambda)_m q_m``. With entropy it is the soft value of the
        flow's own law, ``V = mean_m(q_m - lambda log pi(a_m | s))`` (Remark 6): lambda times the
        logarithm of ``int exp(Q / lambda)`` where the flow draws the Boltzmann law, less where it
        does not.

        :param obs: B observations
        :return: V (B), and quantities to log
        """
        actor, info = self.policy.actor, {}
        flow, temperature = actor.flow, actor.temperature()
        field = actor.drawing_field(obs, target=True)
        if self.divergence is None:
            points = self.candidates(field, flow.n_candidates)
        else:
            points, log_pi = actor.candidates_with_log_prob(
                field, flow.n_candidates, self.divergence
            )
            info = {"rfm/policy_entropy": -log_pi.mean()}
        actions = self.target_noise(flow.support.to_action(points), temperature)
        critic = self.policy.critic_target
        q = minimum_q(critic, critic_features(critic, obs), actions, self.bfloat16)
        if self.divergence is None:
            value = flow.choice.value(q, temperature)
        else:
            value = (q - temperature * log_pi).mean(0)
        spread = (q - q.mean(0)).square().mean(0).sqrt().mean()  # th.std is slower over few rows
        return value, {**info, "rfm/candidate_spread": spread}

    def update_actor(self, obs: PyTorchObs, actions: Tensor) -> Info:
        """
        One step of regression, on the posterior mean (Theorem 1) or on weighted actions.

        :param obs: B observations
        :param actions: what was done there, in [-1, 1], (B, D)
        :return: quantities to log
        """
        actor = self.policy.actor
        n_states = max(1, len(actions) // self.n_times)
        obs, actions = first_states(obs, n_states), actions[:n_states]
        field = actor.field(obs)
        with th.no_grad():
            material = self.material(field, obs, actions)
            problem, info = self.regression(obs, material)
        prediction = field.network(field.condition, problem.x_t, problem.t)
        loss = F.mse_loss(problem.scale * prediction, problem.scale * problem.target)
        info = {"train/actor_loss": loss.detach(), **info}
        if actor.flow.one_step:
            distillation = self.distillation_loss(obs, material)
            loss = loss + distillation
            info["rfm/distillation_loss"] = distillation.detach()
        self.descend(actor.optimizer, loss, self.max_grad_norm)
        return {**info, **self.update_temperature(material)}

    def distillation_loss(self, obs: PyTorchObs, material: Material) -> Tensor:
        """
        The one-step network's error in where the flow carries its noise.

        :param obs: B observations
        :param material: the flow's candidates, and where they start
        :return: mean square, ()
        """
        field = self.policy.actor.drawing_field(obs)
        first = th.full((), field.flow.t_range[0], device=material.starts.device)
        return F.mse_loss(field.network(field.condition, material.starts, first), material.points)

    def regression(self, obs: PyTorchObs, material: Material) -> tuple[Regression, Info]:
        """
        What the network is to predict, and where.

        :param obs: B observations
        :param material: what there is to make it of
        :return: the regression, and quantities to log
        """
        flow = self.policy.actor.flow
        drawn = [self.examples(material) for _ in range(self.n_times)]
        x_1, weight = (th.cat(parts) for parts in zip(*drawn, strict=True))
        t = stratified_times(x_1, flow.t_range)
        coefficients = flow.interpolant(t.unsqueeze(-1))
        x_0 = th.randn_like(x_1)
        x_t = coefficients.alpha * x_1 + coefficients.beta * x_0
        ends, info = EndPoints(x_0, x_1), {}
        if not self.examples.own_ends:
            posterior = self.posterior(obs, coefficients, x_t, material)
            bound = flow.support.target_bound
            ends = flow.kept_within(bound, coefficients, x_t, posterior.mean)
            info = posterior_info(posterior)
        target = flow.parametrization.target(coefficients, ends).view_as(x_t)
        scale = self.loss_weighting.scale(flow.parametrization, coefficients)
        problem = Regression(x_t, t, target, scale * weight.unsqueeze(-1).sqrt())
        return problem, {**info, "rfm/target_norm": target.square().mean().sqrt()}

    def material(self, field: Field, obs: PyTorchObs, actions: Tensor) -> Material:
        """
        What the regression can be made of.

        :param field: the flow's velocity field at B states
        :param obs: B observations
        :param actions: what was done there, in [-1, 1], (B, D)
        :return: the points of the actions and, where anything needs them, the policy's candidates
        """
        actor, critic = self.policy.actor, self.policy.critic
        flow = actor.flow
        replayed = flow.support.from_action(actions)
        starts = points = replayed.new_empty(0, *replayed.shape)
        q = replayed.new_empty(0, len(replayed))
        features = critic_features(critic, obs) if self.needs_critic else replayed[:, :0]
        if self.needs_candidates:
            starts = actor.starts(field, flow.n_training_candidates)
            # what is distilled is a function of the noise: noise of the solver's own is left out
            solver = flow.solver.deterministic() if flow.one_step else flow.solver
            points = self.ends(field, starts, solver)
            q = minimum_q(critic, features, flow.support.to_action(points), self.bfloat16)
        return Material(replayed, starts, points, q, actor.temperature(), features)

    def posterior(
        self, obs: PyTorchObs, coefficients: Coefficients, x_t: Tensor, material: Material
    ) -> Posterior:
        """
        The posterior of the Boltzmann law given ``x_t``.

        :param obs: B observations
        :param coefficients: the interpolant, (T, B, 1) each
        :param x_t: (T, B, D)
        :param material: the policy's candidates, as a guide, and the critic's features
        :return: the posterior of (T, B) points; of (B) for a single time
        """
        critic, features = self.policy.critic, material.features
        if self.critic_view.target:
            critic = self.policy.critic_target
            features = critic_features(critic, obs)
        law = Boltzmann(
            critic,
            features,
            material.temperature,
            self.policy.actor.flow.support,
            self.bfloat16,
            self.critic_view,
        )
        guide = material.points if self.estimator.guided else None
        if self.n_times == 1:
            coefficients, x_t = coefficients.at(0), x_t[0]
        return self.estimator(law, coefficients, x_t, policy_samples=guide)

    def update_temperature(self, material: Material) -> Info:
        """
        Tune the temperature towards the target entropy, where there is one.

        :param material: the policy's candidates
        :return: quantities to log
        """
        actor = self.policy.actor
        info = {"rfm/temperature": actor.temperature().detach()}
        if self.target_entropy is not None:
            entropy = gaussian_entropy(actor.flow.support.to_action(material.points))
            dim = actor.action_dim
            actor.temperature.tune(entropy / dim, self.target_entropy / dim)
            info["rfm/entropy"] = entropy
        return info
