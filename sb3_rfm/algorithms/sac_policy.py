"""SAC's policies: Stable-Baselines3's, whose actor selects among candidates by the critic."""

from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac import policies
from torch import Tensor

from sb3_rfm.common.boltzmann import critic_features, minimum_q
from sb3_rfm.common.critics import PLAIN, Critic, CriticOptions
from sb3_rfm.common.noise import fixed_noise
from sb3_rfm.common.observations import (
    NormalizedInputs,
    ObservationNormalizer,
    make_normalizer,
)
from sb3_rfm.common.selection import gather_selected, select_by_softmax
from sb3_rfm.sampling.registry import require, require_int


class SACActor(NormalizedInputs, policies.Actor):
    """
    Stable-Baselines3's squashed Gaussian, which draws M candidate actions and selects among them by
    the critic.

    While exploring, a candidate is selected with probability softmax(Q / ent_coef); deterministic
    prediction takes the best of the mode and M - 1 fixed, evenly spread quantiles of the Gaussian.
    With one candidate it is Stable-Baselines3's actor.

    :param args: arguments of Stable-Baselines3's actor
    :param n_candidates: candidates a state, M, while exploring
    :param n_eval_candidates: the same for ``predict(deterministic=True)``
    :param critic: the critic that selects; the policy gives its own once that is built
    :param normalizer: the policy's, of observations; None where they are not normalised
    :param kwargs: arguments of Stable-Baselines3's actor
    :raises ValueError: fewer than one candidate, or more with gSDE
    """

    critic: Critic
    log_temperature: Tensor

    def __init__(
        self,
        *args: Any,
        n_candidates: int = 1,
        n_eval_candidates: int = 1,
        critic: Critic | None = None,
        normalizer: ObservationNormalizer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name, value in (
            ("n_candidates", n_candidates),
            ("n_eval_candidates", n_eval_candidates),
        ):
            require_int(name, value)
            one = "1 with use_sde=True, whose noise is one matrix for all the samples of a state"
            require(value == 1 or not self.use_sde, name, value, one)
        self.n_candidates, self.n_eval_candidates = n_candidates, n_eval_candidates
        self.register_buffer("log_temperature", th.zeros(()))
        self._borrow(normalizer)
        if critic is not None:
            self.critic = critic

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "n_candidates": self.n_candidates,
            "n_eval_candidates": self.n_eval_candidates,
            "critic": self.critic,
            "normalizer": self.normalizer,
        }

    def candidates(self, obs: PyTorchObs, n_candidates: int, deterministic: bool = False) -> Tensor:
        """
        Samples of the squashed Gaussian.

        :param obs: B observations
        :param n_candidates: M
        :param deterministic: the mode, then fixed noises
        :return: actions in [-1, 1], (M, B, D)
        """
        mean, log_std, _ = self.get_action_dist_params(obs)
        if deterministic:
            noise = fixed_noise(n_candidates, mean.shape[-1], mean.device)
        else:
            noise = th.randn((n_candidates, *mean.shape), device=mean.device)
        return th.tanh(mean + log_std.exp() * noise)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """
        Choose an action for each observation.

        :param obs: B observations
        :param deterministic: the best of the fixed candidates, instead of a draw
        :return: actions in [-1, 1], (B, D)
        """
        n_candidates = self.n_eval_candidates if deterministic else self.n_candidates
        if n_candidates == 1:
            return super().forward(obs, deterministic)
        actions = self.candidates(obs, n_candidates, deterministic)
        q = minimum_q(self.critic, critic_features(self.critic, obs), actions)
        temperature = self.log_temperature.exp()
        return gather_selected(
            actions, q.argmax(0) if deterministic else select_by_softmax(q, temperature)
        )


def check_optimizer(optimizer_class: Any, optimizer_kwargs: Any) -> None:
    """
    Refuse what the critics' optimizer cannot be made of.

    :param optimizer_class: a subclass of PyTorch's ``Optimizer``, or None
    :param optimizer_kwargs: a dict without a learning rate, which the algorithm sets, or None
    """
    is_class = isinstance(optimizer_class, type) and issubclass(optimizer_class, th.optim.Optimizer)
    if optimizer_class is not None and not is_class:
        raise TypeError(
            "critic_optimizer_class must be a subclass of torch.optim.Optimizer, or None; "
            f"got {optimizer_class!r}"
        )
    if not isinstance(optimizer_kwargs, dict | None):
        raise TypeError(f"critic_optimizer_kwargs must be a dict or None; got {optimizer_kwargs!r}")
    without_rate = "lr" not in (optimizer_kwargs or {})
    allowed = "arguments but lr, which the algorithm's learning rate sets"
    require(without_rate, "critic_optimizer_kwargs", optimizer_kwargs, allowed)


class SACPolicy(policies.SACPolicy):
    """
    Stable-Baselines3's policy with :class:`SACActor` and :class:`sb3_rfm.common.critics.Critic`.

    :param args: arguments of Stable-Baselines3's policy
    :param critic_kwargs: options of the critics, a dict of what
        :class:`sb3_rfm.common.critics.CriticOptions` holds
    :param normalize_observations: whether observations are normalised by the running mean and
        variance of those seen in training
        (:class:`sb3_rfm.common.observations.ObservationNormalizer`)
    :param critic_optimizer_class: the critics' optimizer; None for ``optimizer_class``
    :param critic_optimizer_kwargs: its arguments but the learning rate; None for
        ``optimizer_kwargs``, or for none where there is a ``critic_optimizer_class``
    :param n_candidates: candidates a state while exploring; the algorithm passes its own
    :param n_eval_candidates: the same for ``predict(deterministic=True)``
    :param kwargs: arguments of Stable-Baselines3's policy
    :raises TypeError: a class that is no optimizer's, or arguments that are no dict
    :raises ValueError: a learning rate among the optimizer's arguments
    """

    actor: SACActor
    critic: Critic
    critic_target: Critic

    def __init__(
        self,
        *args: Any,
        critic_kwargs: dict[str, Any] | None = None,
        normalize_observations: bool = False,
        critic_optimizer_class: type[th.optim.Optimizer] | None = None,
        critic_optimizer_kwargs: dict[str, Any] | None = None,
        n_candidates: int = 1,
        n_eval_candidates: int = 1,
        **kwargs: Any,
    ) -> None:
        check_optimizer(critic_optimizer_class, critic_optimizer_kwargs)
        # what _build needs, which SB3's constructor calls
        self.critic_options = CriticOptions.parse(critic_kwargs, PLAIN)
        self.normalize_observations = normalize_observations
        self.critic_optimizer_class = critic_optimizer_class
        self.critic_optimizer_kwargs = critic_optimizer_kwargs
        self.candidate_kwargs: dict[str, Any] = {
            "n_candidates": n_candidates,
            "n_eval_candidates": n_eval_candidates,
        }
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.normalizer = make_normalizer(
            self.observation_space, self.normalize_observations, self.normalize_images
        )
        super()._build(lr_schedule)
        if self.critic_optimizer_class or self.critic_optimizer_kwargs is not None:
            optimizer_class: Any = self.critic_optimizer_class or self.optimizer_class
            self.critic.optimizer = optimizer_class(
                self.critic.optimizer.param_groups[0]["params"],
                lr=lr_schedule(1),
                **(self.critic_optimizer_kwargs or {}),
            )
        self.actor.critic = self.critic  # after the optimizers: the actor's does not own it

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SACActor:
        """
        Build an actor.

        :param features_extractor: one to share; None for one of its own
        :return: the actor
        """
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        actor = SACActor(**kwargs, **self.candidate_kwargs, normalizer=self.normalizer)
        return actor.to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Critic:
        """
        Build a critic.

        :param features_extractor: one to share; None for one of its own
        :return: the critic
        """
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        critic = Critic(**kwargs, options=self.critic_options, normalizer=self.normalizer)
        return critic.to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            **self.candidate_kwargs,
            "critic_kwargs": self.critic_options.plain(),
            "normalize_observations": self.normalize_observations,
            "critic_optimizer_class": self.critic_optimizer_class,
            "critic_optimizer_kwargs": self.critic_optimizer_kwargs,
            "share_features_extractor": self.share_features_extractor,  # SB3's forgets it
        }


class CnnPolicy(SACPolicy, policies.CnnPolicy):
    """:class:`SACPolicy` for images: ``features_extractor_class`` is NatureCNN unless given."""


class MultiInputPolicy(SACPolicy, policies.MultiInputPolicy):
    """
    :class:`SACPolicy` for Dict observations: ``features_extractor_class`` is CombinedExtractor
    unless given.
    """


MlpPolicy = SACPolicy
