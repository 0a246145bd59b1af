"""SAC: Stable-Baselines3's, with RFM's selection among candidates and RFM's critic options."""

import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.sac.sac import SAC as SB3SAC

from sb3_rfm.algorithms.sac_policy import (
    CnnPolicy,
    MlpPolicy,
    MultiInputPolicy,
    SACActor,
    SACPolicy,
)
from sb3_rfm.common.arguments import check_policy, plain_arguments, plain_number
from sb3_rfm.common.critics import Critic, move_unit
from sb3_rfm.common.loading import Loading
from sb3_rfm.common.observing import Observing
from sb3_rfm.export.weights import Export

LEAST_TEMPERATURE = 1e-8
"""In the place of ``ent_coef=0``: the best candidate, without a division by zero."""


def with_arguments_of(base: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Show a base's arguments in the place of a constructor's ``*args`` and ``**kwargs``, for ``help``
    and for the command line, which checks names by the signature.

    :param base: the class to which the constructor hands them on
    :return: a decorator of the constructor
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(init).parameters.values()
        keyword_only = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
        theirs = inspect.signature(base.__init__)  # type: ignore[misc]
        init.__signature__ = theirs.replace(  # type: ignore[attr-defined]
            parameters=[*theirs.parameters.values(), *keyword_only]
        )
        return init

    return decorate


class SAC(Observing, Loading, Export, SB3SAC):
    """
    Stable-Baselines3's SAC with the selection among candidates of :class:`sb3_rfm.RFMFlow`, so
    that its effect can be told from that of the policy class.

    While exploring, one of M samples of the squashed Gaussian is selected with probability
    ``softmax(Q / ent_coef)``: SAC's policy is fitted to ``exp(Q / ent_coef)`` (arXiv 1812.05905),
    so its entropy coefficient is what RFM calls temperature. ``predict(deterministic=True)`` takes
    the best of M fixed candidates, the first of which is the mode. The updates are SAC's. With the
    defaults it is Stable-Baselines3's SAC, bit for bit.

    >>> from sb3_rfm import SAC
    >>> model = SAC("MlpPolicy", "Pendulum-v1", n_candidates=4, n_eval_candidates=32)

    :param args: Stable-Baselines3's arguments, in its order
    :param n_candidates: actions drawn a state while exploring, M
    :param n_eval_candidates: the same for ``predict(deterministic=True)``
    :param on_nan: "raise" at the first observation, reward, action or loss that is not finite (or
        larger than 1e15), or "skip" transitions that have one
    :param kwargs: Stable-Baselines3's arguments; ``policy_kwargs`` takes ``critic_kwargs``
        (:class:`sb3_rfm.common.critics.CriticOptions`), ``normalize_observations``, and, for an
        optimizer of the critics alone, ``critic_optimizer_class`` and ``critic_optimizer_kwargs``
    :raises ValueError: fewer than one candidate, more than one with ``use_sde=True``, or a critic
        option that is not allowed
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: SACPolicy
    actor: SACActor
    critic: Critic
    critic_target: Critic
    skips_updates = False
    policy_defaults: ClassVar[dict[str, Any]] = {}
    """Arguments of the policy, where ``policy_kwargs`` has no others."""

    @with_arguments_of(SB3SAC)
    def __init__(
        self,
        *args: Any,
        n_candidates: int = 1,
        n_eval_candidates: int = 1,
        on_nan: str = "raise",
        **kwargs: Any,
    ) -> None:
        kwargs = plain_arguments(kwargs)
        check_policy(args[0] if args else kwargs.get("policy"), SACPolicy)
        self.on_nan = on_nan
        self._check_on_nan()
        self.n_candidates = plain_number(n_candidates)
        self.n_eval_candidates = plain_number(n_eval_candidates)
        if kwargs.get("policy_kwargs"):  # SB3 writes into it, and another model may share it
            kwargs["policy_kwargs"] = dict(kwargs["policy_kwargs"])
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        # SB3 adds use_sde to what the user gave, and load() compares the two
        user_kwargs = {k: v for k, v in self.policy_kwargs.items() if k != "use_sde"}
        self.policy_kwargs = {
            **self.policy_defaults,
            **user_kwargs,
            "use_sde": self.use_sde,
            "n_candidates": self.n_candidates,
            "n_eval_candidates": self.n_eval_candidates,
        }
        super()._setup_model()
        self.policy_kwargs = user_kwargs
        self._pass_temperature()

    def _move_unit(self, batch_size: int) -> None:
        """Move the critics' unit by a batch of its own: the update is Stable-Baselines3's."""
        assert self.replay_buffer is not None
        data = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
        with th.no_grad():
            value = th.cat(self.critic_target(data.observations, data.actions), 1).mean(1)
            target = data.rewards.squeeze(1) + self.gamma * value
        move_unit((self.critic, self.critic_target), target)

    def _pass_temperature(self) -> None:
        """Give the actor the entropy coefficient, so that a policy saved alone keeps it."""
        if self.log_ent_coef is None:
            least = math.log(LEAST_TEMPERATURE)
            self.actor.log_temperature.copy_(self.ent_coef_tensor.log().clamp_min(least))
        else:
            self.actor.log_temperature.copy_(self.log_ent_coef.detach().squeeze())

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        if self._has_nothing_to_learn():
            return
        if self.critic.normalizes_values:
            self._move_unit(batch_size)
        super().train(gradient_steps, batch_size)
        self._pass_temperature()
        for key in ("train/critic_loss", "train/actor_loss"):
            self._check_update(key, self.logger.name_to_value[key])
        self.logger.record("rfm/n_skipped", self.n_skipped)
