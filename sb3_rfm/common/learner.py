"""The two updates: the critic's, and the actor's regression on the posterior mean."""

from dataclasses import dataclass

import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import PyTorchObs, ReplayBufferSamples
from torch import Tensor
from torch.nn import functional as F

from sb3_rfm.common.actor import choose, take
from sb3_rfm.common.boltzmann import Boltzmann, critic_features, minimum_q
from sb3_rfm.common.policies import RFMPolicy
from sb3_rfm.common.temperature import entropy_dual_loss, gaussian_entropy
from sb3_rfm.sampling.divergences import Divergence
from sb3_rfm.sampling.interpolants import Coefficients
from sb3_rfm.sampling.loss_weightings import LossWeighting
from sb3_rfm.sampling.posteriors import Estimator, Posterior

Info = dict[str, Tensor]


@dataclass(frozen=True)
class Learner:
    """
    Updates a policy from batches of transitions.

    :param policy: actor, critic and target critic, with their optimizers
    :param estimator: how posterior means are estimated
    :param loss_weighting: which error of the regression is squared
    :param divergence: how log pi is computed for the critics' target; None: without entropy
    :param max_grad_norm: largest norm of the actor's gradient
    :param target_entropy: nats that the temperature is tuned towards; None where it is not tuned
    :param bfloat16: whether candidates are drawn and judged in bfloat16
    """

    policy: RFMPolicy
    estimator: Estimator
    loss_weighting: LossWeighting
    divergence: Divergence | None
    max_grad_norm: float
    target_entropy: float | None
    bfloat16: bool

    def candidates(self, obs: PyTorchObs, critic: ContinuousCritic) -> tuple[Tensor, Tensor]:
        """
        Points that the present policy draws, and their values.

        :param obs: B observations
        :param critic: the critic that judges
        :return: points of the flow (M, B, D) and values (M, B)
        """
        actor = self.policy.actor
        condition = actor.condition(obs)
        with th.autocast(condition.device.type, th.bfloat16, enabled=self.bfloat16):
            points = actor.candidates(condition, actor.flow.n_candidates)
        return points, self.q_of_points(points, obs, critic)

    def q_of_points(self, points: Tensor, obs: PyTorchObs, critic: ContinuousCritic) -> Tensor:
        """
        The critics' smallest value for each point of the flow.

        :param points: (M, B, D)
        :param obs: B observations
        :param critic: the critic that judges
        :return: (M, B)
        """
        actions = self.policy.actor.flow.support.to_action(points)
        return minimum_q(critic, critic_features(critic, obs), actions, self.bfloat16)

    def update_critic(self, data: ReplayBufferSamples, discounts: float | Tensor) -> Info:
        """
        One step on ``(Q(s, a) - r - discount V(s'))²``.

        :param data: a batch of transitions
        :param discounts: gamma, or one for each transition (n-step returns), (B, 1)
        :return: quantities to log
        """
        critic = self.policy.critic
        with th.no_grad():
            next_value, info = self.next_value(data.next_observations)
            target = data.rewards + (1 - data.dones) * discounts * next_value.unsqueeze(-1)
        values = critic(data.observations, data.actions)
        loss = 0.5 * th.stack([F.mse_loss(value, target) for value in values]).sum()
        critic.optimizer.zero_grad()
        loss.backward()
        critic.optimizer.step()
        return {"train/critic_loss": loss.detach(), "rfm/q_target": target.mean(), **info}

    def next_value(self, obs: PyTorchObs) -> tuple[Tensor, Info]:
        """
        The value of states by the target critics, over M candidates.

        ``V = sum_m softmax(q / lambda)_m q_m``: the expectation of drawing one candidate by
        softmax, as the authors do. With entropy the soft value of the flow's own law,
        ``V = mean_m(q_m - lambda log pi(a_m | s))`` (Remark 6): lambda times the logarithm of
        ``int exp(Q / lambda)`` where the flow draws the Boltzmann law, less where it does not.

        :param obs: B observations
        :return: V (B), and quantities to log
        """
        critic, temperature = self.policy.critic_target, self.policy.actor.temperature()
        if self.divergence is None:
            _, q = self.candidates(obs, critic)
            value, info = (th.softmax(q / temperature, 0) * q).sum(0), {}
        else:
            actor = self.policy.actor
            points, log_pi = actor.candidates_with_log_prob(
                actor.condition(obs), actor.flow.n_candidates, self.divergence
            )
            q = self.q_of_points(points, obs, critic)
            value = (q - temperature * log_pi).mean(0)
            info = {"rfm/policy_entropy": -log_pi.mean()}
        return value, {**info, "rfm/candidate_spread": q.std(0, correction=0).mean()}

    def update_actor(self, obs: PyTorchObs) -> Info:
        """
        One step of regression on the posterior mean (Theorem 1).

        ``x_t`` is mixed from noise and one of the policy's candidates, chosen by softmax of Q.

        :param obs: B observations
        :return: quantities to log
        """
        actor, critic = self.policy.actor, self.policy.critic
        with th.no_grad():
            temperature = actor.temperature()
            points, q = self.candidates(obs, critic)
            x_1 = take(points, choose(q, temperature))
            t = stratified_times(x_1, actor.flow.t_range)
            coefficients = actor.flow.interpolant(t.unsqueeze(-1))
            x_t = coefficients.alpha * x_1 + coefficients.beta * th.randn_like(x_1)
            features, support = critic_features(critic, obs), actor.flow.support
            law = Boltzmann(critic, features, temperature, support, self.bfloat16)
            posterior = self.estimator(law, coefficients, x_t, policy_samples=points)
            target = self.regression_target(posterior, coefficients, x_t)
            scale = self.loss_weighting.scale(actor.flow.parametrization, coefficients)
        prediction = actor.network(actor.condition(obs), x_t, t)
        loss = F.mse_loss(scale * prediction, scale * target)
        actor.optimizer.zero_grad()
        loss.backward()
        th.nn.utils.clip_grad_norm_(actor.flow_parameters(), self.max_grad_norm)
        actor.optimizer.step()
        info = {"train/actor_loss": loss.detach(), **posterior_info(posterior, target)}
        return {**info, **self.update_temperature(points)}

    def regression_target(
        self, posterior: Posterior, coefficients: Coefficients, x_t: Tensor
    ) -> Tensor:
        """
        The parametrization's function of the posterior means, the action end within the bound.

        :param posterior: the posterior given ``x_t``
        :param coefficients: the interpolant, (B, 1) each
        :param x_t: (B, D)
        :return: (B, D)
        """
        flow = self.policy.actor.flow
        ends = flow.tied_ends(coefficients, x_t, posterior.mean.x_1)
        return flow.parametrization.target(coefficients, ends)

    def update_temperature(self, points: Tensor) -> Info:
        """
        One step of the dual that tunes the temperature towards the target entropy, where it is set.

        :param points: candidates, (M, B, D)
        :return: quantities to log
        """
        actor = self.policy.actor
        info = {"rfm/temperature": actor.temperature().detach()}
        if self.target_entropy is None:
            return info
        entropy = gaussian_entropy(actor.flow.support.to_action(points))
        actor.temperature.optimizer.zero_grad()
        entropy_dual_loss(actor.temperature, entropy, self.target_entropy).backward()
        actor.temperature.optimizer.step()
        return {**info, "rfm/entropy": entropy}


def stratified_times(like: Tensor, t_range: tuple[float, float]) -> Tensor:
    """
    Uniform times, one in each of B equal parts of the range, in increasing order.

    :param like: (B, D)
    :param t_range: first and last time
    :return: (B)
    """
    low, high = t_range
    batch_size = len(like)
    parts = th.arange(batch_size, device=like.device) + th.rand(batch_size, device=like.device)
    return low + (high - low) * parts / batch_size


def posterior_info(posterior: Posterior, target: Tensor) -> Info:
    """
    Diagnostics of a batch of posteriors whose times increase along the batch.

    :param posterior: the posteriors
    :param target: what the network regresses on, (B, D)
    :return: effective sample size (mean, and by thirds of t), coefficient, root mean square target
    """
    ess = posterior.ess
    low, middle, high = (part.mean() for part in ess.tensor_split(3))
    return {
        "rfm/ess": ess.mean(),
        "rfm/ess_low_t": low,
        "rfm/ess_middle_t": middle,
        "rfm/ess_high_t": high,
        "rfm/cv_coefficient": posterior.coefficient.mean(),
        "rfm/target_norm": target.square().mean().sqrt(),
    }
