"""The actor: candidate actions drawn by a flow, one of them chosen by the critic."""

from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from sb3_rfm.common.boltzmann import critic_features, minimum_q
from sb3_rfm.common.flow import Flow
from sb3_rfm.common.temperature import Temperature
from sb3_rfm.networks import FlowNetwork
from sb3_rfm.sampling.divergences import Divergence
from sb3_rfm.sampling.log_densities import FlowLaw
from sb3_rfm.sampling.sobol import sobol_points


@lru_cache(maxsize=16)
def fixed_noise(n_samples: int, dim: int, device: th.device) -> Tensor:
    """
    A fixed set of standard normal points that fills space evenly: the origin, then scrambled Sobol
    points.

    :param n_samples: number of points
    :param dim: dimension
    :param device: device of the result
    :return: (n_samples, 1, dim)
    """
    points = th.special.ndtri(sobol_points(n_samples, dim, device).clamp(1e-6, 1 - 1e-6))
    points[0] = 0.0
    return points.float()


def check_action_space(space: spaces.Box) -> None:
    """
    Refuse a Box without volume.

    :param space: a Box with finite bounds (SB3 has checked that)
    :raises ValueError: some lower bound is not below its upper bound
    """
    flat = np.flatnonzero(~(space.low < space.high).reshape(-1))
    if len(flat):
        low, high = space.low.reshape(-1)[flat[0]], space.high.reshape(-1)[flat[0]]
        raise ValueError(
            "action_space must have low < high in every coordinate; "
            f"got low {low}, high {high} at index {flat[0]}"
        )


class RFMActor(BasePolicy):
    """
    Draws M candidate actions by integrating the flow and chooses among them by the critic.

    The actor holds the critic (the policy's own, not a copy), so that ``actor.predict`` is the
    policy's. While exploring, a candidate is chosen with probability softmax(Q / temperature);
    deterministic prediction starts from a fixed set of noises, integrates without noise and takes
    the best.

    :param observation_space: observation space
    :param action_space: action space, a bounded Box
    :param critic: the critic that chooses
    :param flow: how actions are drawn
    :param net_arch: widths of the flow network
    :param features_extractor: network that extracts features of the observation
    :param features_dim: number of features
    :param activation_fn: activation function
    :param normalize_images: whether to divide images by 255
    """

    action_space: spaces.Box

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        critic: ContinuousCritic,
        flow: Flow,
        net_arch: list[int],
        features_extractor: nn.Module,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ) -> None:
        check_action_space(action_space)
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.flow = flow
        self.net_arch = net_arch
        self.features_dim = features_dim
        self.activation_fn = activation_fn
        self.action_dim = get_action_dim(action_space)
        self.n_eval_candidates = flow.n_eval_candidates
        self.network = FlowNetwork(features_dim, self.action_dim, net_arch, activation_fn)
        self.temperature = Temperature(flow.temperature)
        self.critic = critic

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            critic=self.critic,
            flow=self.flow,
            net_arch=self.net_arch,
            features_extractor=self.features_extractor,
            features_dim=self.features_dim,
            activation_fn=self.activation_fn,
        )
        return data

    def flow_parameters(self) -> list[nn.Parameter]:
        """
        What the actor's optimizer owns: the flow network and the features extractor, not the
        critic.

        :return: the parameters
        """
        return [*self.network.parameters(), *self.features_extractor.parameters()]

    def condition(self, obs: PyTorchObs) -> Tensor:
        """
        What the flow network needs of the observation, computed once a state.

        :param obs: B observations
        :return: (B, width)
        """
        return self.network.condition(self.extract_features(obs, self.features_extractor))

    def velocity(self, condition: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """
        The marginal velocity that the network's prediction implies; its action end is kept within
        the support's bound.

        :param condition: :meth:`condition`, (B, width)
        :param x: points, (*S, B, D)
        :param t: time, ()
        :return: (*S, B, D)
        """
        coefficients = self.flow.interpolant(t)
        ends = self.flow.parametrization.end_points(
            coefficients, x, self.network(condition, x, t).to(x.dtype)
        )
        ends = self.flow.tied_ends(coefficients, x, ends.x_1)
        return coefficients.d_alpha * ends.x_1 + coefficients.d_beta * ends.x_0

    def candidates(
        self, condition: Tensor, n_candidates: int, deterministic: bool = False
    ) -> Tensor:
        """
        Draw points of the flow.

        :param condition: :meth:`condition`, (B, width)
        :param n_candidates: M
        :param deterministic: fixed noise, and a solver without its own
        :return: (M, B, D)
        """
        shape = (n_candidates, condition.shape[0], self.action_dim)
        if deterministic:
            noise = fixed_noise(n_candidates, self.action_dim, condition.device).expand(shape)
            solver = self.flow.solver.deterministic()
        else:
            noise = th.randn(shape, device=condition.device)
            solver = self.flow.solver
        times = (self.flow.t_range[0], 1.0)
        start = self.flow.interpolant(th.tensor(times[0], device=condition.device)).beta * noise
        field = partial(self.velocity, condition)
        return solver.solve(field, start, self.flow.interpolant, self.flow.sampling_steps, times)

    def candidates_with_log_prob(
        self, condition: Tensor, n_candidates: int, divergence: Divergence
    ) -> tuple[Tensor, Tensor]:
        """
        Draw points of the flow by its solver without noise, with the log-density of their actions
        (Remark 6): ``log pi(a | s) = log p(x | s) - log |d action / d x|``.

        :param condition: :meth:`condition`, (B, width)
        :param n_candidates: M
        :param divergence: the rule for the log-volume of a step
        :return: points (M, B, D) and log-densities over [-1, 1]^D (M, B); nothing requires grad
        """
        law = FlowLaw(
            interpolant=self.flow.interpolant,
            steps=self.flow.sampling_steps,
            t_range=(self.flow.t_range[0], 1.0),
            solver=self.flow.solver,
            divergence=divergence,
        )
        noise = th.randn(
            (n_candidates, condition.shape[0], self.action_dim), device=condition.device
        )
        points, log_density = law.push_forward(partial(self.velocity, condition), noise)
        return points, log_density - self.flow.support.log_det(points)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """
        Choose an action for each observation.

        :param obs: B observations
        :param deterministic: the best of a fixed set of candidates, instead of a draw
        :return: actions in [-1, 1], (B, D)
        """
        condition = self.condition(obs)
        n_candidates = self.n_eval_candidates if deterministic else self.flow.n_candidates
        actions = self.flow.support.to_action(
            self.candidates(condition, n_candidates, deterministic)
        )
        if n_candidates == 1:
            return actions[0]
        q = minimum_q(self.critic, critic_features(self.critic, obs), actions)
        chosen = q.argmax(0) if deterministic else choose(q, self.temperature())
        return take(actions, chosen)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self(observation, deterministic)


def choose(q: Tensor, temperature: Tensor) -> Tensor:
    """
    Draw one candidate a state with probability softmax(Q / temperature), by the Gumbel-max rule.

    :param q: values of M candidates, (M, B)
    :param temperature: lambda, ()
    :return: indices, (B)
    """
    gumbel = -th.empty_like(q).exponential_().log()
    return (q / temperature + gumbel).argmax(0)


def take(candidates: Tensor, index: Tensor) -> Tensor:
    """
    The chosen candidate of each state.

    :param candidates: (M, B, D)
    :param index: (B)
    :return: (B, D)
    """
    return candidates[index, th.arange(candidates.shape[1], device=candidates.device)]
