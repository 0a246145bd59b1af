"""What a training run is, and the model and environments that it asks for."""

from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_rfm.experiments.hyperparams import (
    algorithm_class,
    complete,
    constructor_arguments,
    merged,
    plain_values,
    read_hyperparams,
    with_schedules,
)
from sb3_rfm.experiments.wrappers import wrapper_class

if TYPE_CHECKING:
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

EVAL_SEED = 10_000  # evaluation episodes start elsewhere than training ones
MAX_EVAL_ENVS = 25  # the paper's number of evaluation episodes
ENV_KEYS = ("env_wrapper", "n_envs")  # hyperparameters of the environment, not of the algorithm


@dataclass(frozen=True)
class RunSettings:
    """
    What a run is. Hyperparameters come from ``zoo_hyperparams/``, then from ``hyperparams``.

    :param algo: a key of ``sb3_rfm.experiments.hyperparams.ALGORITHMS``
    :param env: Gymnasium id, or the short name of a DeepMind Control task
    :param steps: environment steps to train for; 0 for the YAML file's ``n_timesteps``
    :param seed: of networks, environment and exploration
    :param eval_freq: environment steps between two evaluations; 0 for a tenth of the run, at most
        10000
    :param eval_episodes: episodes of each evaluation
    :param checkpoint_freq: environment steps between two checkpoints; 0 for none but on a stop
    :param hyperparams: plain values that override the YAML file's
    """

    algo: str
    env: str
    steps: int = 0
    seed: int = 0
    eval_freq: int = 0
    eval_episodes: int = 5
    checkpoint_freq: int = 10_000
    hyperparams: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        algorithm_class(self.algo)
        least = {"steps": 0, "seed": 0, "eval_freq": 0, "eval_episodes": 1, "checkpoint_freq": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < bound:
                raise ValueError(f"{name} must be an integer of at least {bound}, got {value!r}.")

    @classmethod
    def stored(cls, config: dict[str, Any], path: Path) -> "RunSettings":
        """
        The settings of an earlier run.

        :param config: of its folder
        :param path: of that file
        :return: resolved settings
        :raises ValueError: when they are not those of this version
        """
        given = config["settings"]
        names = [each.name for each in fields(cls)]
        unknown = [name for name in given if name not in names] if isinstance(given, dict) else []
        if not isinstance(given, dict) or unknown or not {"algo", "env"} <= set(given):
            got = f"has {unknown[0]!r}" if unknown else f"is {given!r}"
            raise ValueError(
                f"{path}: settings must be of {', '.join(names)}; it {got}. Was it written by "
                "another version of sb3-rfm?"
            )
        return cls(**given)

    def resolved(self) -> "RunSettings":
        """
        The same with the full id of the environment, and every value of the YAML file filled in.

        :return: settings that need no YAML file any more
        :raises ValueError: when the environment is unknown
        """
        from sb3_rfm.envs import any_env_id

        env_id = any_env_id(self.env)
        given = merged(read_hyperparams(self.algo, env_id), self.hyperparams)
        hyperparams = plain_values(algorithm_class(self.algo), given)
        n_timesteps = hyperparams.pop("n_timesteps")
        if isinstance(n_timesteps, str) or n_timesteps != int(n_timesteps):
            raise ValueError(f"n_timesteps must be an integer, got {n_timesteps!r}.")
        steps = self.steps or int(n_timesteps)
        eval_freq = self.eval_freq or min(max(steps // 10, 1), 10_000)
        return replace(self, env=env_id, steps=steps, eval_freq=eval_freq, hyperparams=hyperparams)

    @property
    def n_envs(self) -> int:
        """Environments that are trained on at once."""
        n_envs = self.hyperparams.get("n_envs", 1)
        if not isinstance(n_envs, int) or n_envs < 1:
            raise ValueError(f"n_envs must be an integer of at least 1, got {n_envs!r}.")
        return n_envs

    def folder_name(self) -> str:
        """
        The name of the run's folder.

        :return: ``<algo>__<env with dashes>__seed<k>``
        """
        return f"{self.algo}__{self.env.replace('/', '-').replace(':', '-')}__seed{self.seed}"


def make_env(settings: RunSettings, training: bool) -> "VecEnv":
    """
    A training or an evaluation environment.

    :param settings: resolved
    :param training: with the run's seed and ``n_envs``, else seeded apart from it and with an
        environment per episode: acting for all at once is faster
    :return: monitored, wrapped and seeded
    """
    if training:
        return make_vector(settings, settings.n_envs, settings.seed)
    n_envs = min(settings.eval_episodes, MAX_EVAL_ENVS)
    return make_vector(settings, n_envs, EVAL_SEED + MAX_EVAL_ENVS * settings.seed)


def make_vector(
    settings: RunSettings, n_envs: int, seed: int, render_mode: str | None = None
) -> "VecEnv":
    """
    Environments of a run.

    :param settings: resolved
    :param n_envs: how many
    :param seed: of the first; the others' follow it
    :param render_mode: of ``gymnasium.make``; None draws no frames
    :return: monitored, wrapped and seeded
    :raises ValueError: when the environment or a wrapper cannot be made
    :raises ImportError: when it needs a package that is missing
    """
    import gymnasium as gym
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_rfm.envs import any_env_id, naming_what_is_missing
    from sb3_rfm.experiments.drawing import drawing_arguments
    from sb3_rfm.experiments.episodes import with_episode_ends

    env_id = any_env_id(settings.env)  # registered by now
    given: dict[str, Any] = {}
    if render_mode is not None:
        given = {"render_mode": render_mode, **drawing_arguments(env_id)}
    wrap = with_episode_ends(wrapper_class(settings.hyperparams.get("env_wrapper")))
    try:
        with naming_what_is_missing():
            return make_vec_env(
                partial(
                    gym.make, env_id, disable_env_checker=True, **given
                ),  # by its id, it would be made to draw frames
                n_envs=n_envs,
                seed=seed,
                wrapper_class=wrap,
            )
    except ModuleNotFoundError as error:
        raise ImportError(f"{settings.env} cannot be made: {error}", name=error.name) from error
    except gym.error.Error as error:  # one that is withdrawn, for example
        raise ValueError(f"{settings.env} cannot be made: {error}") from error


def buffer_length(settings: RunSettings) -> int | None:
    """
    The length of the replay buffer: no longer than the run, as it is saved whole with each
    checkpoint. One that never fills up samples the same transitions whatever its length.

    :param settings: resolved
    :return: transitions of all environments together; None for a buffer that saves memory, which
        is as long as the algorithm makes it
    """
    values = complete(algorithm_class(settings.algo), with_schedules(settings.hyperparams))
    if values["optimize_memory_usage"]:
        return None
    return min(values["buffer_size"], settings.steps)


def make_model(settings: RunSettings, device: str) -> "tuple[OffPolicyAlgorithm, dict[str, Any]]":
    """
    A new model with its training environment.

    :param settings: resolved
    :param device: of PyTorch
    :return: the model, and every hyperparameter of it as plain values
    :raises ValueError: when a hyperparameter is unknown or not allowed
    """
    from gymnasium import spaces

    from sb3_rfm.common.arguments import check_episodes

    env = make_env(settings, training=True)
    if not isinstance(env.action_space, spaces.Box):
        raise ValueError(
            f"env must have continuous actions (a Box), got {settings.env} with {env.action_space}."
        )
    algorithm = algorithm_class(settings.algo)
    own = {name: v for name, v in settings.hyperparams.items() if name not in ENV_KEYS}
    # a copy: Stable-Baselines3 writes into policy_kwargs
    arguments = constructor_arguments(algorithm, deepcopy(own), env.action_space.shape)
    check_episodes(arguments.get("train_freq"), settings.n_envs)
    arguments |= {"seed": settings.seed, "device": device}
    try:
        size = buffer_length(settings)
        if size is not None:
            arguments["buffer_size"] = size
        hyperparams = complete(algorithm, arguments)
        return algorithm(env=env, **arguments), hyperparams
    # of Stable-Baselines3 and PyTorch, about what the user gave: a wrong type, a keyword that a
    # policy or a buffer has not, a space that is not supported, a buffer that does not fit
    except (TypeError, AssertionError, NotImplementedError, MemoryError) as error:
        raise ValueError(f"{algorithm.__name__} cannot be made: {error}") from error
