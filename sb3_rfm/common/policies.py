"""One policy for every algorithm: the actor, the critic and the target critic, with optimizers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn

from sb3_rfm.common.actor import FlowActor
from sb3_rfm.common.batches import HOST
from sb3_rfm.common.behaviour import BehaviourValue
from sb3_rfm.common.config import Settings
from sb3_rfm.common.critics import Critic, CriticOptions
from sb3_rfm.common.earlier import settings_of_flow
from sb3_rfm.common.observations import NORMALIZE_OBSERVATIONS, make_normalizer
from sb3_rfm.common.optimization import make_optimizer
from sb3_rfm.common.targets import WeightedActions
from sb3_rfm.sampling.registry import require_int


class FlowPolicy(BasePolicy):
    """
    Policy class (actor, critic and target critic) of every algorithm here.

    :param observation_space: observation space
    :param action_space: action space, a bounded Box
    :param lr_schedule: learning rate schedule
    :param net_arch: widths of the hidden layers, a list, or a dict with ``pi`` (flow network) and
        ``qf`` (critics)
    :param activation_fn: activation function of both
    :param features_extractor_class: features extractor; flattening unless given
    :param features_extractor_kwargs: its keyword arguments
    :param normalize_images: whether to divide images by 255
    :param optimizer_class: the optimizer
    :param optimizer_kwargs: its keyword arguments, without the learning rate; Adam's and AdamW's
        steps are fused unless they say otherwise
    :param n_critics: number of critic networks
    :param share_features_extractor: share the features extractor between actor and critic (the
        actor's loss trains it)
    :param critic_kwargs: options of the critics, a dict of what
        :class:`sb3_rfm.common.critics.CriticOptions` holds: ``dict(layer_norm=False)``,
        ``dict(network="simba")``, ``dict(activation_fn="GELU")``
    :param normalize_observations: whether observations are normalised by the running mean and
        variance of those seen in training
        (:class:`sb3_rfm.common.observations.ObservationNormalizer`)
    :param settings: how actions are drawn and selected; the algorithm passes its own
    """

    actor: FlowActor
    critic: Critic
    critic_target: Critic
    behaviour: BehaviourValue | None
    _told: list[nn.Module] | None = None
    default_features_extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        share_features_extractor: bool = False,
        critic_kwargs: dict[str, Any] | None = None,
        normalize_observations: bool = NORMALIZE_OBSERVATIONS,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class or self.default_features_extractor,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
            normalize_images=normalize_images,
        )
        require_int("n_critics", n_critics)
        self.net_arch = [256, 256] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.n_critics = n_critics
        self.share_features_extractor = share_features_extractor
        self.critic_options = CriticOptions.parse(critic_kwargs)
        self.settings = Settings() if settings is None else settings
        self.normalize_observations = normalize_observations
        self.normalizer = make_normalizer(
            observation_space, normalize_observations, normalize_images
        )
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        actor_arch, _ = get_actor_critic_arch(self.net_arch)
        self.critic, critic_target = self._make_critic_and_average()
        shared = self.critic.features_extractor if self.share_features_extractor else None
        actor_kwargs = self._update_features_extractor(self._net_kwargs(actor_arch), shared)
        self.actor = FlowActor(**actor_kwargs, critic=self.critic, settings=self.settings).to(
            self.device
        )
        self.critic_target = critic_target  # last in the state dict, where nothing is another's
        self.behaviour = self._make_behaviour()
        self.actor.optimizer = self._make_optimizer(self.actor.flow_parameters(), lr_schedule)
        own = self.critic.q_networks if self.share_features_extractor else [self.critic]
        learnt = [p for net in own for p in net.parameters()]
        if self.behaviour is not None:
            learnt += self.behaviour.parameters_to_learn()
        self.critic.optimizer = self._make_optimizer(learnt, lr_schedule)

    def _make_critic_and_average(self) -> tuple[Critic, Critic]:
        """A critic and its average, which begins as it is and stays in evaluation mode."""
        critic, average = self.make_critic(), self.make_critic()
        average.load_state_dict(critic.state_dict())
        average.set_training_mode(False)
        return critic, average

    def _make_behaviour(self) -> BehaviourValue | None:
        """Values of the behaviour, where the actor's objective asks for them."""
        objective = self.settings.actor_update.make_objective()
        if not (isinstance(objective, WeightedActions) and objective.needs_behaviour):
            return None
        critic, critic_target = self._make_critic_and_average()
        _, critic_arch = get_actor_critic_arch(self.net_arch)
        network = self.critic_options.build(
            critic.features_extractor.features_dim, critic_arch, self.activation_fn
        )
        return BehaviourValue(critic, critic_target, network).to(self.device)

    def averages(self) -> list[tuple[Critic, Critic]]:
        """
        The critics, which have one unit.

        :return: each with its average
        """
        pairs = [(self.critic, self.critic_target)]
        if self.behaviour is not None:
            pairs.append((self.behaviour.critic, self.behaviour.critic_target))
        return pairs

    def _net_kwargs(self, net_arch: list[int]) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "net_arch": net_arch,
            "activation_fn": self.activation_fn,
            "normalize_images": self.normalize_images,
            "normalizer": self.normalizer,
        }

    def _make_optimizer(
        self, parameters: list[nn.Parameter], lr_schedule: Schedule
    ) -> th.optim.Optimizer:
        return make_optimizer(
            self.optimizer_class, parameters, lr_schedule(1), self.optimizer_kwargs
        )

    def make_critic(self) -> Critic:
        """
        Build a critic with a features extractor of its own.

        :return: the critic
        """
        _, critic_arch = get_actor_critic_arch(self.net_arch)
        kwargs = self._update_features_extractor(self._net_kwargs(critic_arch), None)
        kwargs.update(
            n_critics=self.n_critics,
            share_features_extractor=self.share_features_extractor,
            options=self.critic_options,
        )
        return Critic(**kwargs).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            n_critics=self.n_critics,
            share_features_extractor=self.share_features_extractor,
            lr_schedule=self._dummy_schedule,  # a policy loaded alone is not trained
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
            critic_kwargs=self.critic_options.plain(),
            normalize_observations=self.normalize_observations,
            settings=self.settings,
        )
        return data

    @classmethod
    def load(cls, path: str, device: th.device | str = "auto") -> "FlowPolicy":
        """
        Load a policy that was saved alone, as any of Stable-Baselines3's.

        :param path: of the file
        :param device: of PyTorch
        :return: the policy
        """
        device = get_device(device)
        saved = th.load(path, map_location=device, weights_only=False)
        given = saved["data"]
        if "flow" in given:  # saved before settings had groups
            given["settings"] = settings_of_flow(given.pop("flow"))
        policy = cls(**given)
        policy.load_state_dict(saved["state_dict"])
        policy.to(device)
        return policy

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """
        Select an action for each observation; see :meth:`FlowActor.forward`.

        :param obs: B observations
        :param deterministic: the best of a fixed set of candidates, instead of a draw
        :return: actions in [-1, 1], (B, D)
        """
        return self.actor(obs, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self(observation, deterministic)

    @property
    def device(self) -> th.device:
        """Where observations are sent: acting by CUDA graphs takes them from the host."""
        if "actor" in self._modules and self.actor.graphs is not None:
            return HOST
        return super().device

    def set_training_mode(self, mode: bool) -> None:
        """
        Put actor and critic in training or evaluation mode; the target critic stays in evaluation
        mode.

        :param mode: true for training
        """
        if self._told is None:
            self.actor.set_training_mode(mode)  # and the critic's: the actor holds it
        elif mode != self.training:
            for module in self._told:
                module.__dict__["training"] = mode
        self.training = mode

    @contextmanager
    def keeping_modules(self) -> Iterator[None]:
        """
        Tell modules of a mode one by one, without looking for them anew, within a ``with`` block:
        training changes it three times a step. Policies that hold a module which overrides
        ``train``, or a scripted one, are told as ever.
        """
        self.set_training_mode(self.training)
        told = list(self.actor.modules())
        plain = all(type(module).train is nn.Module.train for module in told)
        if plain and not any(isinstance(module, th.jit.ScriptModule) for module in told):
            self._told = told
        try:
            yield
        finally:
            self._told = None


class CnnPolicy(FlowPolicy):
    """:class:`FlowPolicy` for images: ``features_extractor_class`` is NatureCNN unless given."""

    default_features_extractor = NatureCNN


class MultiInputPolicy(FlowPolicy):
    """
    :class:`FlowPolicy` for Dict observations: ``features_extractor_class`` is CombinedExtractor
    unless given.
    """

    default_features_extractor = CombinedExtractor


MlpPolicy = FlowPolicy

RFMPolicy = FlowPolicy
"""In files that were saved before, the policy's class."""
