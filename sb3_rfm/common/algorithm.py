"""The shell of every algorithm: Stable-Baselines3's constructor, training loop and saving."""

import inspect
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
from stable_baselines3.common.utils import (
    FloatSchedule,
    get_parameters_by_name,
)

from sb3_rfm.common.actor import RFMActor
from sb3_rfm.common.arguments import (
    SHARED,
    check_arguments,
    check_episodes,
    check_noise,
    check_policy,
    plain_arguments,
    without_sde,
)
from sb3_rfm.common.batches import sample_on_host, uploaded
from sb3_rfm.common.boltzmann import CriticViewLike
from sb3_rfm.common.critic_watch import CriticWatch
from sb3_rfm.common.critics import Critic
from sb3_rfm.common.cuda_graphs import GraphedUpdate, Update, check_cuda_graph, set_capturable
from sb3_rfm.common.examples import ExamplesLike
from sb3_rfm.common.loading import Loading
from sb3_rfm.common.noise import NOISE_COLORS, PinkNoise
from sb3_rfm.common.optimization import move_towards, set_learning_rate
from sb3_rfm.common.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, RFMPolicy
from sb3_rfm.common.recording import Recorded
from sb3_rfm.common.regression import Info
from sb3_rfm.common.row import Row
from sb3_rfm.common.selection import ChoiceLike
from sb3_rfm.common.temperature import TemperatureLike, parse_temperature
from sb3_rfm.export.weights import Exchange
from sb3_rfm.sampling.divergences import DivergenceLike
from sb3_rfm.sampling.interpolants import InterpolantLike
from sb3_rfm.sampling.loss_weightings import LossWeightingLike
from sb3_rfm.sampling.parametrizations import ParametrizationLike
from sb3_rfm.sampling.posterior_mean import EstimatorLike
from sb3_rfm.sampling.solvers import SolverLike
from sb3_rfm.sampling.supports import SupportLike

N_STEPS = 3
"""Steps of the returns that critics learn unless they are told: docs/results.md has the runs."""

PARTS_OF_BEFORE = ("actor.temperature.optimizer",)
"""What older files hold of parts that there are no more."""


def temperature_of_before(temperature: TemperatureLike | None) -> TemperatureLike | None:
    """
    The temperature's rule in a model saved while there was one relative to the spread of Q.

    :param temperature: the saved model's
    :return: the rule that takes its place, from the saved value of lambda
    """
    relative = isinstance(temperature, str) and temperature.partition("_")[0] == "relative"
    return "auto" if relative else temperature


def policy_of_before(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    The policy's arguments in a model that was saved before LayerNorm in the critics and normalised
    observations were defaults.

    :param policy_kwargs: the saved model's
    :return: with what were the defaults then
    """
    given = policy_kwargs.get("critic_kwargs") or {}
    plain = {} if given.get("network", "mlp") != "mlp" else {"layer_norm": False}
    return {**policy_kwargs, "normalize_observations": False, "critic_kwargs": {**plain, **given}}


SelfBoltzmann = TypeVar("SelfBoltzmann", bound="BoltzmannAlgorithm")


class BoltzmannAlgorithm(Recorded, Loading, Exchange, OffPolicyAlgorithm):
    """
    Off-policy actor-critic: a flow or diffusion regressed on the Boltzmann law of its critic.

    Subclasses are rows of choices (:class:`Row`): they give defaults and no code.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or a subclass of :class:`RFMPolicy`
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
    :param critic_learning_rate: of the critics, a number or a schedule (paper: 1e-3)
    :param temperature: lambda: "auto" (from 1) or "auto_0.5", tuned so that the candidates'
        Gaussian entropy meets ``target_entropy``, and moved with the unit of the critics' values; a
        positive number in units of return (paper: .02); a schedule; or "lin_0.05" (falls linearly)
    :param target_entropy: nats; "auto" is minus the action's dimension, what SAC uses; "auto_0.5"
        that share of it
    :param estimator: how the posterior mean is estimated: "bounded" (Stein kernel in the box),
        "bounded_uncoupled" (cheaper), "diagonal_centred" (the authors' release), "diagonal" (eq.
        20), "isotropic" (eq. 21), "noise" (eta = 0), "gradient" (eta = 1), a number, an object
    :param n_particles: particles a posterior, K; a state's, which its times share, where the
        estimator is bounded (paper: 100)
    :param n_candidates: actions drawn a state, M, to act and in the critics' target (paper: 32)
    :param n_training_candidates: the same in the actor's update; by default as many, and at least 2
        where the temperature is tuned
    :param n_eval_candidates: the same for ``predict(deterministic=True)``, which takes the best
        (paper: 32)
    :param candidate_choice: which candidate acts while exploring, and what the critics' target
        expects: "softmax" (of Q / lambda; paper), "best", or an object
    :param exploration_noise: standard deviation of the noise on the action that explores, in half
        widths of the action box; "temperature_0.1" for that multiple of lambda (paper: 0)
    :param noise_color: how the noise from which exploring actions are drawn goes on from step to
        step: "white" (independent; paper) or "pink" (correlated over up to hundreds of steps, so
        that an action's deviation lasts; each action alone has the same law)
    :param target_noise: as ``exploration_noise``, on the actions of the critics' target (paper: 0)
    :param examples: what ``x_t`` is mixed from: "policy" (a candidate, by softmax; paper), "best"
        (the best candidate), "replay" (the batch's action); or weighted actions that the network
        regresses on without an estimator: "exponential", "advantage"; or an object
    :param n_times: times t of each state in the actor's update, T; with the bounded estimator they
        share the state's particles. The update takes a T-th of the batch's states, so that it
        regresses on as many ``x_t`` for a T-th of the evaluations of Q (paper: 1)
    :param critic_view: the value of the actor's Boltzmann law: "min" of the critics (paper),
        "mean", "target_min", "target_mean", or an object
    :param sampling_steps: solver steps an action (paper: 10)
    :param time_shift: k of the solver's times ``k s / (1 + (k - 1) s)``, s uniform: above 1 the
        steps are short near the action, where few uniform ones draw the law too narrow (paper: 1)
    :param one_step_policy: whether a second network is distilled from the flow, noise to action in
        one step, which acts and draws the critics' target (the flow keeps its own solver steps)
    :param interpolant: "linear", "vp_cosine", "vp_linear", "ve", or an object
    :param parametrization: what the network predicts: "velocity" (paper), "data", "noise", "score",
        or an object
    :param solver: "euler" (paper), "heun", "ddim", "ancestral", "euler_maruyama", or an object
    :param support: "box" (the flow lives in the action box), "tanh" (paper: in a latent, with the
        Jacobian), "clipped" or "extrapolated" (unbounded; the critic sees the clipped action, or
        the point itself)
    :param t_range: times drawn in training, 0 < low < high < 1 (paper: .01 to .99)
    :param loss_weighting: the error that the regression squares, over time: "uniform" (the
        prediction's own; paper), "velocity", "data", "noise", "score" (that function's, whatever
        the network predicts), "min_snr", or an object
    :param entropy_backup: whether the critics' target is the soft value
        ``mean_m(q_m - lambda log pi(a_m | s'))`` of Remark 6, log pi along the ODE (paper: False);
        or "hutchinson" or an object: how log pi is computed
    :param reward_scale: what rewards are multiplied by in the critics' target (paper: 1)
    :param policy_delay: critic updates an actor update (paper: 1)
    :param policy_tau: Polyak step of an averaged network that draws the critics' target; None for
        none (paper)
    :param max_grad_norm: largest norm of the actor's gradient; infinity for none (paper: 10)
    :param bfloat16: draw training candidates, and run the critics' middle layers on candidates and
        particles, in bfloat16; "auto" where that is faster (AMX, a GPU, some processors with
        AVX512-BF16). ``predict`` and every loss stay in float32
    :param on_nan: "raise" at the first observation, reward, action or loss that is not finite (or
        larger than 1e15), or "skip" transitions and updates that have one
    :param cuda_graph: capture each update as a CUDA graph and replay it; on a GPU, with Adam or
        AdamW. New; its speed has not been measured
    :param stats_window_size: episodes that the logged returns average
    :param tensorboard_log: folder of the TensorBoard log
    :param policy_kwargs: arguments of the policy: net_arch, activation_fn, n_critics,
        normalize_observations, optimizer_class, ...
    :param verbose: 0 for no output, 1 for messages, 2 for debugging
    :param seed: seed of the pseudo-random generators
    :param device: "auto", "cpu", "cuda"
    :param _init_setup_model: whether to build the networks at construction
    :raises ValueError: an argument or an action space that is not allowed
    """

    row: ClassVar[Row] = Row()
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
    policy: RFMPolicy
    actor: RFMActor
    critic: Critic
    critic_target: Critic
    noise_process: PinkNoise | None

    def __init_subclass__(cls) -> None:
        """Show the row's values as the defaults of the constructor."""
        super().__init_subclass__()
        own = {field.name: getattr(cls.row, field.name) for field in fields(Row)}
        signature = inspect.signature(cls.__init__)
        cls.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[
                p.replace(default=own[p.name]) if p.name in own else p
                for p in list(signature.parameters.values())[1:]
            ]
        )

    def __init__(
        self,
        policy: str | type[RFMPolicy],
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
        critic_learning_rate: float | Schedule | None = None,
        temperature: TemperatureLike | None = None,
        target_entropy: str | float | None = None,
        estimator: EstimatorLike | None = None,
        n_particles: int | None = None,
        n_candidates: int | None = None,
        n_training_candidates: int | None = None,
        n_eval_candidates: int | None = None,
        candidate_choice: ChoiceLike | None = None,
        exploration_noise: float | str | None = None,
        noise_color: str | None = None,
        target_noise: float | str | None = None,
        examples: ExamplesLike | None = None,
        n_times: int | None = None,
        critic_view: CriticViewLike | None = None,
        sampling_steps: int | None = None,
        time_shift: float | None = None,
        one_step_policy: bool | None = None,
        interpolant: InterpolantLike | None = None,
        parametrization: ParametrizationLike | None = None,
        solver: SolverLike | None = None,
        support: SupportLike | None = None,
        t_range: tuple[float, float] | None = None,
        loss_weighting: LossWeightingLike | None = None,
        entropy_backup: bool | DivergenceLike | None = None,
        reward_scale: float | None = None,
        policy_delay: int | None = None,
        policy_tau: float | None = None,
        max_grad_norm: float | None = None,
        bfloat16: bool | str | None = None,
        on_nan: str = "raise",
        cuda_graph: bool = False,
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
        check_policy(policy, RFMPolicy)
        given["policy_kwargs"] = without_sde(policy_kwargs)
        self.choices = self.row.replaced(given)
        self.on_nan, self.cuda_graph = on_nan, cuda_graph
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
        # load() writes its keyword arguments into __dict__: they replace what was saved
        given = {field.name: self.__dict__.get(field.name) for field in fields(Row)}
        given["temperature"] = temperature_of_before(given["temperature"])
        self.choices = self.choices.replaced(plain_arguments(given))
        # and there callbacks look for hyperparameters, as in any algorithm of SB3's
        self.__dict__.update(vars(self.choices))
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
        self.policy_kwargs = {**given, "flow": self.choices.flow()}
        super()._setup_model()
        self.policy_kwargs = user_kwargs
        self._create_aliases()
        self.critic_lr_schedule = FloatSchedule(self.choices.critic_learning_rate)
        self.temperature_rule = parse_temperature(self.choices.temperature)
        process, own = NOISE_COLORS[self.choices.noise_color], self.__dict__.get("noise_process")
        if process is None:
            self.noise_process = None
        elif not isinstance(own, process):  # a loaded model goes on with its own
            self.noise_process = process()
        self._check_on_nan()
        self.learner = self.choices.learner(self.policy, skips=self.on_nan == "skip")
        self.batch_norm_stats = get_parameters_by_name(self.critic, ["running_"])
        self.batch_norm_stats_target = get_parameters_by_name(self.critic_target, ["running_"])
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
        infos: list[Info] = []
        for _ in range(gradient_steps):
            data = self._sample(batch_size)
            with_actor = self._n_updates % self.choices.policy_delay == 0
            infos.append(self.updates[with_actor](data))
            self._n_updates += 1
        self._record(infos)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        with self.actor.drawing_from(self.noise_process):
            return super()._sample_action(learning_starts, action_noise, n_envs)

    def _sample(self, batch_size: int) -> ReplayBufferSamples:
        """A batch of transitions on the device of the networks, without waiting for it."""
        buffer = self.replay_buffer
        assert buffer is not None
        if self.device.type == "cuda":
            sample_on_host(buffer)  # here, because SB3 gives a loaded buffer its device
        data = buffer.sample(batch_size, env=self._vec_normalize_env)
        self._see_rewards(data)
        return uploaded(data, self.device) if self.device.type == "cuda" else data

    def _make_updates(self) -> None:
        """Updates without and with the actor's, captured as CUDA graphs where that is asked for."""
        self.updates: dict[bool, Update] = {
            with_actor: partial(self._update, with_actor=with_actor) for with_actor in (False, True)
        }
        graphed = self.cuda_graph and self.device.type == "cuda"
        for owner in (self.actor, self.critic):
            set_capturable(owner.optimizer, graphed, self.device)
        if graphed:
            self.updates = {key: GraphedUpdate(update) for key, update in self.updates.items()}

    def _update(self, data: ReplayBufferSamples, with_actor: bool) -> Info:
        """One update on a batch, targets included."""
        discounts = self.gamma if data.discounts is None else data.discounts
        info = self.learner.update_critic(data, discounts)
        if with_actor:
            info.update(self.learner.update_actor(data.observations, data.actions))
            self._average_policy()
        move_towards(self.critic_target.parameters(), self.critic.parameters(), self.tau)
        move_towards(self.batch_norm_stats_target, self.batch_norm_stats, 1.0)
        return info

    def _average_policy(self) -> None:
        """Move the averaged network towards the actor's, where there is one."""
        averaged, tau = self.actor.averaged_network, self.choices.policy_tau
        if averaged is not None and tau is not None:
            move_towards(averaged.parameters(), self.actor.drawing_network.parameters(), tau)

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
        self: SelfBoltzmann,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfBoltzmann:
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
            "learner",
            "actor",
            "critic",
            "critic_target",
            "batch_norm_stats",
            "batch_norm_stats_target",
            "updates",
            "_unread",
        ]
        return [*super()._excluded_save_params(), *aliases]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []
