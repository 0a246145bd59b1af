"""The actor: candidate actions drawn by a flow, one of them selected by the critic."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from sb3_rfm.common.action_space import check_action_space
from sb3_rfm.common.boltzmann import critic_features, minimum_q
from sb3_rfm.common.config import Settings
from sb3_rfm.common.critics import Critic
from sb3_rfm.common.flow import VelocityField
from sb3_rfm.common.networks import FlowNetwork
from sb3_rfm.common.noise import PinkNoise, fixed_noise
from sb3_rfm.common.observations import NormalizedInputs, ObservationNormalizer
from sb3_rfm.common.selection import (
    SELECTIONS,
    Best,
    Selection,
    gather_selected,
    make_noise,
)
from sb3_rfm.common.temperature import Temperature, parse_temperature
from sb3_rfm.sampling.divergences import Divergence
from sb3_rfm.sampling.flow_density import FlowDensity

Act = Callable[[PyTorchObs, Tensor], Tensor]
"""B observations and noise (M, B, D) -> actions in [-1, 1], (B, D)."""


class FlowActor(NormalizedInputs, BasePolicy):
    """
    Draws M candidate actions by integrating the flow and selects among them by the critic.

    The actor holds the critic (the policy's own, not a copy), so that ``actor.predict`` is the
    policy's. While exploring, a candidate is selected by ``candidates.select``; deterministic
    prediction starts from a fixed set of noises, integrates without noise and takes the best.

    With ``flow.one_step`` a second network is regressed on where the flow carries each noise, and
    draws in the flow's place (distillation, as Park et al. 2025 do for flow Q-learning).

    :param observation_space: observation space
    :param action_space: action space, a bounded Box
    :param critic: the critic that selects
    :param settings: how actions are drawn and selected
    :param net_arch: widths of the flow network
    :param features_extractor: network that extracts features of the observation
    :param features_dim: number of features
    :param activation_fn: activation function
    :param normalize_images: whether to divide images by 255
    :param normalizer: the policy's, of observations; None where they are not normalised
    """

    action_space: spaces.Box

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        critic: Critic,
        settings: Settings,
        net_arch: list[int],
        features_extractor: nn.Module,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        normalizer: ObservationNormalizer | None = None,
    ) -> None:
        check_action_space(action_space)
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.settings = settings
        self.flow = settings.flow.build()
        first = th.tensor(self.flow.t_range[0])
        self.noise_scale = float(self.flow.interpolant(first).beta)
        self.candidates = settings.candidates
        self.select = SELECTIONS.resolve(self.candidates.select, Selection)
        self.exploration_noise = make_noise("candidates.noise", self.candidates.noise)
        self.n_eval_candidates = self.candidates.evaluate
        self.net_arch = net_arch
        self.features_dim = features_dim
        self.activation_fn = activation_fn
        self.action_dim = get_action_dim(action_space)
        two_times = self.flow.parametrization.two_times
        self.network = FlowNetwork(
            features_dim, self.action_dim, net_arch, activation_fn, two_times=two_times
        )
        self.one_step_network = deepcopy(self.network) if settings.flow.one_step else None
        averaged = settings.actor_update.average is not None
        self.averaged_network = deepcopy(self.acting_network) if averaged else None
        self.temperature = Temperature(parse_temperature(settings.temperature).value)
        self.noise_process: PinkNoise | None = None
        self.graphs: Mapping[bool, Act] | None = None
        self.critic = critic
        self._borrow(normalizer)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            critic=self.critic,
            settings=self.settings,
            net_arch=self.net_arch,
            features_extractor=self.features_extractor,
            features_dim=self.features_dim,
            activation_fn=self.activation_fn,
            normalizer=self.normalizer,
        )
        return data

    @property
    def acting_network(self) -> FlowNetwork:
        """The network that acts: the one-step network where there is one."""
        return self.one_step_network or self.network

    def flow_parameters(self) -> list[nn.Parameter]:
        """
        What the actor's optimizer owns: the flow network, the one-step network and the features
        extractor, not the critic.

        :return: the parameters
        """
        networks = [self.network, self.one_step_network, self.features_extractor]
        return [p for network in networks if network is not None for p in network.parameters()]

    def velocity(self, features: Tensor) -> VelocityField:
        """
        The flow network's velocity field at some states.

        :param features: of B observations, (B, F)
        :return: the field
        """
        return VelocityField(self.flow, self.network, self.network.condition(features))

    def acting_velocity(self, features: Tensor, target: bool = False) -> VelocityField:
        """
        The field that draws actions: the flow's, or the one-step network's.

        :param features: of B observations, (B, F)
        :param target: of the averaged network that draws the critics' target, where there is one
        :return: the field
        """
        flow = self.flow if self.one_step_network is None else self.flow.in_one_step()
        network = (self.averaged_network if target else None) or self.acting_network
        return VelocityField(flow, network, network.condition(features))

    def sample(
        self, velocity: VelocityField, n_candidates: int, deterministic: bool = False
    ) -> Tensor:
        """
        Draw points of a flow.

        :param velocity: :meth:`velocity` or :meth:`acting_velocity`, of B states
        :param n_candidates: M
        :param deterministic: fixed noise, and a solver without its own
        :return: (M, B, D)
        """
        noise = self.sample_noise(velocity.condition, n_candidates, deterministic)
        return self.carried(velocity, noise, deterministic)

    def carried(self, velocity: VelocityField, noise: Tensor, deterministic: bool) -> Tensor:
        """
        Where a flow carries noise.

        :param velocity: of B states
        :param noise: :meth:`sample_noise`, (M, B, D)
        :param deterministic: by a solver without noise of its own, in the steps of evaluation
        :return: (M, B, D)
        """
        if deterministic:
            velocity = replace(velocity, flow=velocity.flow.deterministic())
        return velocity.integrate(noise)

    def sample_noise(self, rows: Tensor, n_candidates: int, deterministic: bool = False) -> Tensor:
        """
        Points where the flow starts: noise, as it is at the first time; of the process of
        :meth:`drawing_from`, if there is one.

        :param rows: of B states, (B, width); of a population's, (P, B, width)
        :param n_candidates: M
        :param deterministic: fixed noise
        :return: (M, B, D) or (M, P, B, D)
        """
        shape = (n_candidates, *rows.shape[:-1], self.action_dim)
        if deterministic:
            noise = fixed_noise(n_candidates, self.action_dim, rows.device).expand(shape)
        elif self.noise_process is not None:
            noise = th.as_tensor(self.noise_process(shape), dtype=th.float32).to(rows.device)
        else:
            noise = th.randn(shape, device=rows.device)
        return self.noise_scale * noise

    @contextmanager
    def drawing_from(self, process: PinkNoise | None) -> Iterator[None]:
        """
        Start flows from the draws of a process, within a ``with`` block.

        :param process: the noise; None for independent draws
        """
        self.noise_process = process
        try:
            yield
        finally:
            self.noise_process = None

    @contextmanager
    def acting_by(self, graphs: Mapping[bool, Act] | None) -> Iterator[None]:
        """
        Compute :meth:`act` by CUDA graphs, within a ``with`` block; they are given observations and
        noise on the host.

        :param graphs: one for deterministic actions and one for others; None for none
        """
        self.graphs = graphs
        try:
            yield
        finally:
            self.graphs = None

    def sample_with_log_prob(
        self, velocity: VelocityField, n_candidates: int, divergence: Divergence
    ) -> tuple[Tensor, Tensor]:
        """
        Draw points of the flow by its solver without noise, with the log-density of their actions
        (Remark 6): ``log pi(a | s) = log p(x | s) - log |d action / d x|``.

        :param velocity: :meth:`velocity`, of B states
        :param n_candidates: M
        :param divergence: the rule for the log-volume of a step
        :return: points (M, B, D) and log-densities over [-1, 1]^D (M, B); nothing requires grad
        """
        flow = self.flow
        density = FlowDensity(
            interpolant=flow.interpolant,
            steps=flow.steps,
            t_range=(flow.t_range[0], 1.0),
            time_shift=flow.time_shift,
            solver=flow.solver,
            divergence=divergence,
        )
        shape = (n_candidates, *velocity.condition.shape[:-1], self.action_dim)
        noise = th.randn(shape, device=velocity.condition.device)
        points, log_density = density.sample_and_log_prob(velocity, noise)
        return points, log_density - flow.support.log_det(points)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """
        Select an action for each observation.

        :param obs: B observations
        :param deterministic: the best of a fixed set of candidates, instead of a draw
        :return: actions in [-1, 1], (B, D)
        """
        n_candidates = self.n_eval_candidates if deterministic else self.candidates.n
        rows = next(iter(obs.values())) if isinstance(obs, dict) else obs
        rows = rows.flatten(1) if rows.dim() > 1 else rows.unsqueeze(1)
        noise = self.sample_noise(rows, n_candidates, deterministic)
        if self.graphs is None:
            return self.act(obs, noise, deterministic)
        return self.graphs[deterministic](obs, noise)

    def act(self, obs: PyTorchObs, noise: Tensor, deterministic: bool) -> Tensor:
        """
        Carry noise to candidates and select one of them.

        :param obs: B observations
        :param noise: where the candidates start, (M, B, D)
        :param deterministic: the best of them, by a solver without noise of its own
        :return: actions in [-1, 1], (B, D)
        """
        points = self.carried(self.acting_velocity(self.features(obs)), noise, deterministic)
        action = self.selected(obs, self.flow.support.to_action(points), deterministic)
        return action if deterministic else self.exploration_noise(action, self.temperature())

    def selected(self, obs: PyTorchObs, actions: Tensor, deterministic: bool) -> Tensor:
        """
        One of the candidates of each state.

        :param obs: B observations
        :param actions: in [-1, 1], (M, B, D)
        :param deterministic: the best, instead of the rule's
        :return: (B, D)
        """
        if len(actions) == 1:
            return actions[0]
        q = minimum_q(self.critic, critic_features(self.critic, obs), actions)
        select = Best() if deterministic else self.select
        return gather_selected(actions, select(q, self.temperature()))

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self(observation, deterministic)
