"""The shell of every algorithm: Stable-Baselines3's constructor, training loop and saving."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    ReplayBufferSamples,
    Schedule,
    TensorDict,
)
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor

from sb3_rfm.common.actor import Act, FlowActor
from sb3_rfm.common.arguments import (
    SHARED,
    check_arguments,
    check_episodes,
    check_noise,
    check_policy,
    plain_arguments,
    without_sde,
)
from sb3_rfm.common.batches import uploaded
from sb3_rfm.common.config import (
    ActorUpdateSettings,
    CandidateSettings,
    CriticUpdateSettings,
    EstimatorSettings,
    FlowSettings,
    Settings,
)
from sb3_rfm.common.critic_watch import CriticWatch
from sb3_rfm.common.critics import Critic
from sb3_rfm.common.cuda_graphs import (
    Update,
    check_cuda_graph,
    graphed_act,
    graphed_updates,
    may_capture,
    set_capturable,
)
from sb3_rfm.common.device_replay import DeviceReplay, News
from sb3_rfm.common.earlier import policy_of_before, settings_of_before
from sb3_rfm.common.flat_names import refuse_flat_names
from sb3_rfm.common.loading import Loading
from sb3_rfm.common.method import Method
from sb3_rfm.common.networks import has_fast_bfloat16
from sb3_rfm.common.noise import NOISE_COLORS, PinkNoise
from sb3_rfm.common.optimization import Info, gradient_step, set_learning_rate
from sb3_rfm.common.policies import CnnPolicy, FlowPolicy, MlpPolicy, MultiInputPolicy
from sb3_rfm.common.replaying import Replaying
from sb3_rfm.common.temperature import DUAL_RATE, TemperatureLike, parse_temperature
from sb3_rfm.common.updates import Updates
from sb3_rfm.export.weights import Export
from sb3_rfm.sampling.posterior_mean import EstimatorLike

N_STEPS = 3
"""Steps of the returns that critics learn unless they are told (docs/studies/sound_critic.md)."""

PARTS_OF_BEFORE = ("actor.temperature.optimizer",)
"""What older files hold of parts that there are no more."""


SelfFlow = TypeVar("SelfFlow", bound="FlowActorCritic")


class FlowActorCritic(Updates, Replaying, Loading, Export, OffPolicyAlgorithm):
    """
    Off-policy actor-critic: a flow or diffusion regressed on the Boltzmann law of its critic.

    Subclasses are settings (:class:`sb3_rfm.common.config.Settings`): they give defaults and no
    code. ``print(RFMFlow.defaults)`` shows them.

    A group of settings is given as a dict of what to change, ``flow=dict(steps=10)``, or as an
    object, ``flow=FlowSettings(...)``, which replaces the class's; None is the class's.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or a subclass of
        :class:`FlowPolicy`
    :param env: a Gymnasium environment with a bounded Box action space, an SB3 vectorised one, or
        an id
    :param learning_rate: of the actor; a number or a schedule
    :param buffer_size: transitions that the replay buffer holds
    :param learning_starts: environment steps before the first update, acted at random
    :param batch_size: transitions an update
    :param tau: target network's Polyak step, in [0, 1]
    :param gamma: discount factor
    :param train_freq: update every so many steps, or ``(frequency, "step" or "episode")``
    :param gradient_steps: updates each time; -1 for as many as steps were taken
    :param action_noise: noise added to actions while exploring; none is needed
    :param replay_buffer_class: replay buffer, for instance ``HerReplayBuffer``
    :param replay_buffer_kwargs: its keyword arguments
    :param optimize_memory_usage: SB3's memory-efficient replay buffer
    :param n_steps: steps of the returns that the critics learn; None for 3, or for 1 where
        Stable-Baselines3 has no such returns (Dict observations, a ``replay_buffer_class`` of the
        user's, ``optimize_memory_usage``)
    :param flow: how an action is drawn: :class:`sb3_rfm.common.config.FlowSettings`
    :param estimator: how the regression's target is estimated:
        :class:`sb3_rfm.common.config.EstimatorSettings`, or the estimator's name or object alone
    :param candidates: how one action is picked among several:
        :class:`sb3_rfm.common.config.CandidateSettings`, or their number alone
    :param actor_update: the actor's regression:
        :class:`sb3_rfm.common.config.ActorUpdateSettings`
    :param critic_update: the critics' target: :class:`sb3_rfm.common.config.CriticUpdateSettings`
    :param temperature: lambda: "auto" (from 1) or "auto_0.5", tuned so that the candidates'
        Gaussian entropy meets ``target_entropy``, and moved with the unit of the critics' values; a
        positive number in units of return (paper: .02); a schedule; or "lin_0.05" (falls linearly)
    :param target_entropy: nats; "auto" is minus the action's dimension, what SAC uses; "auto_0.5"
        that share of it
    :param bfloat16: draw training candidates, and run the critics' middle layers on candidates and
        particles, in bfloat16; "auto" where that is faster (AMX, a GPU, some processors with
        AVX512-BF16). ``predict`` and every loss stay in float32
    :param on_nan: "raise" at the first observation, reward, action or loss that is not finite (or
        larger than 1e15), or "skip" transitions and updates that have one
    :param cuda_graph: capture updates and acting as CUDA graphs and replay them: True on a GPU,
        with Adam or AdamW and ``on_nan="raise"``; "auto" where that is so, and where a network of
        the user's cannot be captured without, with a warning
    :param stats_window_size: episodes that the logged returns average
    :param tensorboard_log: folder of the TensorBoard log
    :param policy_kwargs: arguments of the policy: net_arch, activation_fn, n_critics,
        normalize_observations, optimizer_class, ...
    :param verbose: 0 for no output, 1 for messages, 2 for debugging
    :param seed: seed of the pseudo-random generators
    :param device: "auto", "cpu", "cuda"
    :param _init_setup_model: whether to build the networks at construction
    :raises ValueError: an argument or an action space that is not allowed
    :raises TypeError: a setting outside of its group
    """

    defaults: ClassVar[Settings] = Settings()
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy_defaults: dict[str, Any] | None = None
    """
    Of ``policy_kwargs``: a policy normalises observations unless ``VecNormalize`` does. None in a
    model that was saved before there were such.
    """
    policy: FlowPolicy
    actor: FlowActor
    critic: Critic
    critic_target: Critic
    noise_process: PinkNoise | None = None
    method: Method
    _acts: Mapping[bool, Act] | None = None

    def __init_subclass__(cls) -> None:
        """Show the class's settings as the defaults of the constructor."""
        super().__init_subclass__()
        own = {field.name: getattr(cls.defaults, field.name) for field in fields(Settings)}
        signature = inspect.signature(cls.__init__)
        cls.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[
                p.replace(default=own[p.name]) if p.name in own else p
                for p in list(signature.parameters.values())[1:]
            ]
        )

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Say where a setting is that is given by its name of before there were groups."""
        refuse_flat_names(kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        policy: str | type[FlowPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int | None = None,
        flow: FlowSettings | Mapping[str, Any] | None = None,
        estimator: EstimatorSettings | Mapping[str, Any] | EstimatorLike | None = None,
        candidates: CandidateSettings | Mapping[str, Any] | int | None = None,
        actor_update: ActorUpdateSettings | Mapping[str, Any] | None = None,
        critic_update: CriticUpdateSettings | Mapping[str, Any] | None = None,
        temperature: TemperatureLike | None = None,
        target_entropy: str | float | None = None,
        bfloat16: bool | str = "auto",
        on_nan: str = "raise",
        cuda_graph: bool | str = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        given = plain_arguments(locals())
        check_arguments(given)
        check_policy(policy, FlowPolicy)
        given["policy_kwargs"] = without_sde(policy_kwargs)
        self.settings = self.defaults.changed(given)
        self.bfloat16, self.on_nan, self.cuda_graph = bfloat16, on_nan, cuda_graph
        super().__init__(
            policy,
            env,
            **{name: given[name] for name in SHARED},
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
            support_multi_env=True,
        )
        check_cuda_graph(cuda_graph, self.device, on_nan)  # a saved model may go to a CPU
        if _init_setup_model:
            outer = self._vec_normalize_env
            self.policy_defaults = {"normalize_observations": not (outer and outer.norm_obs)}
            self._setup_model()

    def _setup_model(self) -> None:
        if self.n_steps is None:
            self.n_steps = N_STEPS if self._may_count_steps() else 1
        settings_of_before(self.__dict__)
        # load() writes its keyword arguments into __dict__: they replace what was saved
        given = {field.name: self.__dict__.get(field.name) for field in fields(Settings)}
        self.settings = self.settings.changed(plain_arguments(given))
        # and there callbacks look for hyperparameters, as in any algorithm of SB3's
        self.__dict__.update(vars(self.settings))
        check_episodes(self.train_freq, self.n_envs)
        check_noise(self.action_noise, self.action_space.shape or ())
        chosen = {"n_steps": self.n_steps, "gamma": self.gamma}
        if self.replay_buffer_class is NStepReplayBuffer and self.replay_buffer_kwargs == chosen:
            self.replay_buffer_class = None  # SB3's choice, saved: it would take it for the user's
        user_kwargs = self.policy_kwargs
        if self.policy_defaults is None:
            given = policy_of_before(user_kwargs)
        else:
            given = {**self.policy_defaults, **user_kwargs}
        self.policy_kwargs = {**given, "settings": self.settings}
        super()._setup_model()
        self.policy_kwargs = user_kwargs
        self._create_aliases()
        self._find_statistics()
        self.critic_lr_schedule = FloatSchedule(self.settings.critic_update.learning_rate)
        self.temperature_rule = parse_temperature(self.settings.temperature)
        process, own = NOISE_COLORS[self.settings.candidates.noise_color], self.noise_process
        if process is None:
            self.noise_process = None
        elif not isinstance(own, process):  # a loaded model goes on with its own
            self.noise_process = process()
        self._check_on_nan()
        fast = self.bfloat16 == "auto" and has_fast_bfloat16(self.policy.device)
        bfloat16 = fast or self.bfloat16 is True
        self.method = Method.of(self.settings, self.actor.action_dim, bfloat16)
        self.__dict__.setdefault("critic_watch", CriticWatch())  # a loaded model has its own
        self._unread = []
        self._make_updates()

    def _may_count_steps(self) -> bool:
        """Whether Stable-Baselines3 chooses the replay buffer, and may choose n-step returns."""
        own = self.replay_buffer_class is None and not self.optimize_memory_usage
        return own and not isinstance(self.observation_space, spaces.Dict)

    @property
    def temperature(self) -> float:
        """The present temperature lambda of the policy; given at construction or to ``load``."""
        return self.actor.temperature().item()

    def _create_aliases(self) -> None:
        self.actor = self.policy.actor
        self.critic = self.policy.critic
        self.critic_target = self.policy.critic_target

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Update critic, actor and targets.

        :param gradient_steps: number of updates
        :param batch_size: transitions an update
        """
        if self._has_nothing_to_learn():
            return
        self.policy.set_training_mode(True)
        self._update_rates()
        infos: list[Mapping[str, Tensor]] = []
        for _ in range(gradient_steps):
            data = self._drawn(batch_size)
            with_actor = self._n_updates % self.settings.actor_update.every == 0
            infos.append(self.updates[with_actor](data))
            self._n_updates += 1
        self._record(infos)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        with self.actor.drawing_from(self.noise_process):
            return super()._sample_action(learning_starts, action_noise, n_envs)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Actions for observations, as any Stable-Baselines3 algorithm's.

        :param observation: one, or several
        :param state: returned as it is
        :param episode_start: not used
        :param deterministic: the best of a fixed set of candidates, instead of a draw
        :return: actions, and the state
        """
        with self.actor.acting_by(self._acts):
            return super().predict(observation, state, episode_start, deterministic)

    def _make_updates(self) -> None:
        """Updates without and with the actor's, captured as CUDA graphs where that is asked for."""
        self._skips = self.on_nan == "skip"
        self.temperature_optimizer = th.optim.SGD(self.actor.temperature.parameters(), DUAL_RATE)
        self.updates: dict[bool, Update] = {
            with_actor: partial(self._update_drawn, with_actor=with_actor)
            for with_actor in (False, True)
        }
        self._replay_there, self._judged = DeviceReplay([self], self.device), (None, False)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        graphed = may_capture(self.cuda_graph, self.device, self.on_nan, optimizers)
        self._graphs = []
        for optimizer in optimizers:
            set_capturable(optimizer, graphed, self.device)
        self._acts = None
        if not graphed and self.device.type == "cuda":
            self.updates = {key: self._sent(update) for key, update in self.updates.items()}
        if graphed:
            gives_way = self.cuda_graph == "auto"
            updates = graphed_updates(self.updates, self._replay_there, gives_way)
            acts = {
                best: graphed_act(
                    partial(self.actor.act, deterministic=best), self.device, gives_way
                )
                for best in (False, True)
            }
            self.updates, self._acts = dict(updates), dict(acts)
            self._graphs = [update.graph for update in updates.values()] + [*acts.values()]

    def forget_graphs(self) -> None:
        """Capture updates and acting anew: the parameters have moved in memory."""
        for graph in self._graphs:
            graph.forget()

    def _update_drawn(self, data: ReplayBufferSamples | News, with_actor: bool) -> Info:
        """An update on a batch, or on what makes one on the GPU."""
        if isinstance(data, News):
            data = self._replay_there.batch(data)
        return self._update(data, with_actor)

    def _sent(self, update: Update) -> Update:
        """An update of batches on the host."""
        return lambda data: update(uploaded(data, self.device))

    def _descend(self, part: str, loss: Tensor) -> None:
        if part == "temperature":
            gradient_step(self.temperature_optimizer, loss)
        else:
            limit = self.settings.actor_update.max_grad_norm if part == "actor" else None
            gradient_step(getattr(self, part).optimizer, loss, limit, self._skips)

    def _update_rates(self) -> None:
        """Bring learning rates and temperature to the present progress."""
        progress = self._current_progress_remaining
        learning_rate = self.lr_schedule(progress)
        self.logger.record("train/learning_rate", learning_rate)
        set_learning_rate(self.actor.optimizer, learning_rate)
        set_learning_rate(self.critic.optimizer, self.critic_lr_schedule(progress))
        if not self.temperature_rule.tuned:
            self.actor.temperature.assign(self.temperature_rule(progress))

    def learn(
        self: SelfFlow,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfFlow:
        """
        Train, as any Stable-Baselines3 algorithm does.

        :param total_timesteps: environment steps
        :param callback: callbacks called at every step
        :param log_interval: episodes between two logs
        :param tb_log_name: name of the TensorBoard run; the class name by default
        :param reset_num_timesteps: whether to count steps from zero
        :param progress_bar: show a progress bar (tqdm and rich)
        :return: self
        """
        name = type(self).__name__ if tb_log_name is None else tb_log_name
        with self.policy.keeping_modules():
            super().learn(
                total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar
            )
        self._read()
        return self

    def set_parameters(
        self,
        load_path_or_dict: str | TensorDict,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """
        Load parameters, as any Stable-Baselines3 algorithm does.

        :param load_path_or_dict: of a file that ``save`` wrote, or names and state dictionaries
        :param exact_match: whether all that there is has to be given
        :param device: where they are loaded to
        """
        given = load_path_or_dict
        if not isinstance(given, dict):
            _, given, _ = load_from_zip_file(given, device=device, load_data=False)
        given = {name: state for name, state in given.items() if name not in PARTS_OF_BEFORE}
        super().set_parameters(given, exact_match, device)
        self._make_updates()  # a graph holds the optimizers' tensors of before

    def _excluded_save_params(self) -> list[str]:
        aliases = [
            *("statistics", "target_statistics"),
            "method",
            "actor",
            "critic",
            "critic_target",
            "updates",
            "_acts",
            "temperature_optimizer",
            "_unread",
            "_replay_there",
            "_graphs",
            "_judged",
        ]
        return [*super()._excluded_save_params(), *aliases]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []
