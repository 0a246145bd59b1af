"""Loading that refuses what would not arrive, and gives the replay buffer what does."""

import inspect
from collections import deque
from typing import Any

import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

from sb3_rfm.common.arguments import check_arguments, plain_arguments, without_sde
from sb3_rfm.common.flat_names import refuse_flat_names
from sb3_rfm.utils.names import near

NOT_SAVED = ("policy", "env", "device", "_init_setup_model")
BESIDES = ("num_timesteps",)
"""What ``load`` takes besides the constructor's arguments."""


def algorithm_name(kind: type) -> str:
    """
    The algorithm that a class is: the one that gives the settings, of which a user's class may be a
    subclass.

    :param kind: a class of this package, or a subclass of one
    :return: its name
    """
    own = "defaults" if hasattr(kind, "defaults") else "policy_defaults"
    return next(base.__name__ for base in kind.__mro__ if own in vars(base))


def argument_names(kind: type) -> list[str]:
    """
    The names of a constructor's arguments, those that it hands on to its bases included.

    :param kind: a class
    :return: the names
    """
    signatures = [inspect.signature(base.__init__) for base in kind.__mro__]  # type: ignore[misc]
    catches_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [p for s in signatures for p in s.parameters.values() if p.kind not in catches_all]
    return list(dict.fromkeys(p.name for p in named if p.name != "self"))


class Loading(OffPolicyAlgorithm):
    """An algorithm whose ``load`` and ``load_replay_buffer`` do what they are told, or say why."""

    _saved_by: str | None = None
    _counted_steps = False
    """Whether the buffer that Stable-Baselines3 chose was one of n-step returns."""

    def _setup_model(self) -> None:
        self._check_saved_by()
        self._forget_other_environments()
        # what SB3 chooses and writes there is not the user's: a loaded model chooses anew
        given = self.replay_buffer_class, self.replay_buffer_kwargs
        self.replay_buffer_kwargs = dict(self.replay_buffer_kwargs)
        if given[0] is None and self._counted_steps and self.n_steps == 1:
            self.replay_buffer_class = NStepReplayBuffer  # as before, which can count to one
            self.replay_buffer_kwargs.update(n_steps=1, gamma=self.gamma)
        super()._setup_model()
        self.replay_buffer_class, self.replay_buffer_kwargs = given
        self._counted_steps = given[0] is None and type(self.replay_buffer) is NStepReplayBuffer

    def _forget_other_environments(self) -> None:
        """Where a loaded model has another number of environments: learn() begins episodes anew."""
        noise, obs = self.action_noise, self._last_obs
        if isinstance(noise, VectorizedActionNoise) and noise.n_envs != self.n_envs:
            self.action_noise = noise.base_noise  # of which learn() makes as many as it needs
        first = next(iter(obs.values())) if isinstance(obs, dict) else obs
        if first is not None and len(first) != self.n_envs:
            self._last_obs = None

    def _check_saved_by(self) -> None:
        """Refuse a file of another algorithm: its settings would stand in this one's place."""
        own = algorithm_name(type(self))
        saved_by = self._saved_by or own
        if saved_by != own:
            raise ValueError(
                f"path must be a file that {own} saved; got one of {saved_by}: {saved_by}.load"
            )
        self._saved_by = own

    @classmethod
    def load(
        cls,
        path: Any,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Any:
        """
        Load a model, as any Stable-Baselines3 algorithm does.

        :param path: of the file
        :param env: the environment to go on with, None where only predictions are needed
        :param device: of PyTorch
        :param custom_objects: what takes the place of objects in the file
        :param print_system_info: whether to print versions
        :param force_reset: whether the environment is reset before training goes on
        :param kwargs: arguments of the constructor that take the place of what was saved; the
            number of environments may be another, too; a dict for a group of settings changes
            those that it names
        :return: the model
        :raises ValueError: a file of another algorithm, an argument that is not allowed, or one
            with which the networks are others than those saved
        :raises TypeError: an argument that there is not, or of the wrong type
        """
        if hasattr(cls, "defaults"):
            refuse_flat_names(kwargs)
        known = [name for name in argument_names(cls) if name not in NOT_SAVED]
        for name in kwargs:
            if name not in (*known, *BESIDES):
                raise TypeError(
                    f"{cls.__name__}.load has no argument {name!r}: {near(name, known)}"
                )
        kwargs = plain_arguments(kwargs)
        check_arguments(kwargs)
        if kwargs.get("policy_kwargs"):
            kwargs["policy_kwargs"] = without_sde(kwargs["policy_kwargs"])
        window = kwargs.pop("stats_window_size", None)
        try:
            model = super().load(
                path, env, device, custom_objects, print_system_info, force_reset, **kwargs
            )
        except RuntimeError as error:
            if not kwargs or "state_dict" not in str(error):
                raise
            given = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
            raise ValueError(
                f"with {given} the networks are not those of {path}: {error}"
            ) from error
        if window is not None:
            model._stats_window_size = window
            for name in ("ep_info_buffer", "ep_success_buffer"):
                if getattr(model, name) is not None:
                    setattr(model, name, deque(getattr(model, name), maxlen=window))
        return model

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer, as any Stable-Baselines3 algorithm does. Where the model chose the
        kind of buffer itself, ``n_steps`` and ``gamma`` are the model's.

        :param path: of the file
        :param truncate_last_traj: whether an episode of a ``HerReplayBuffer`` that is under way
            ends there
        :raises ValueError: a buffer of another number of environments, or of other observations or
            actions; the model keeps its own
        """
        own = getattr(self, "replay_buffer", None)
        super().load_replay_buffer(path, truncate_last_traj)
        loaded: Any = self.replay_buffer
        named = (
            ("n_envs =", loaded.n_envs, self.n_envs),
            ("observations of shape", loaded.obs_shape, getattr(own, "obs_shape", None)),
            ("actions of dimension", loaded.action_dim, getattr(own, "action_dim", None)),
        )
        for what, got, wanted in named:
            if wanted is not None and got != wanted:
                self.replay_buffer = own
                raise ValueError(
                    f"path must hold a replay buffer with {what} {wanted}, as the model has; got "
                    f"{got} in {path}"
                )
        if self.replay_buffer_class is None:
            self.replay_buffer = self._with_steps(loaded)

    def _with_steps(self, buffer: ReplayBuffer) -> ReplayBuffer:
        """A buffer of Stable-Baselines3's choice, whose returns are over the model's steps."""
        if type(buffer) is ReplayBuffer and self.n_steps > 1:
            if buffer.optimize_memory_usage:
                raise ValueError(
                    f"n_steps={self.n_steps} needs a replay buffer without optimize_memory_usage"
                )
            stepped = NStepReplayBuffer.__new__(NStepReplayBuffer)  # which stores the same
            vars(stepped).update(vars(buffer))
            buffer = stepped
        if type(buffer) is NStepReplayBuffer:
            buffer.n_steps, buffer.gamma = self.n_steps, self.gamma
        return buffer
