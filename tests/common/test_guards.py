"""Numbers that are not finite are named or left out; critics that diverge are reported."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from environments import Bandit
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecNormalize,
)

from sb3_rfm import QSM, SAC, RFMFlow
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.finite import LARGEST, NonFiniteError, not_finite


class Broken(gym.Wrapper):
    """At one step something is not finite."""

    def __init__(self, env: gym.Env, at: int, what: str, value: float = np.nan) -> None:
        super().__init__(env)
        self.at, self.what, self.value, self.n_steps = at, what, value, 0
        self.seen: list[np.ndarray] = []

    def step(self, action: Any) -> Any:
        assert np.isfinite(action).all()
        obs, reward, *rest = self.env.step(action)
        self.n_steps += 1
        if self.n_steps == self.at:
            if self.what == "reward":
                reward = self.value
            elif isinstance(obs, dict):
                obs = {**obs, "b": np.full_like(obs["b"], self.value)}
            else:
                obs = obs.copy()
                obs[1] = self.value
        return obs, reward, *rest


def model(
    what: str, at: int = 130, value: float = np.nan, observation: str = "vector", **changes: Any
) -> FlowActorCritic:
    policy = "MultiInputPolicy" if observation == "dict" else "MlpPolicy"
    settings: dict[str, Any] = {
        "learning_starts": 100,
        "batch_size": 16,
        "buffer_size": 500,
        "seed": 0,
        "device": "cpu",
        "policy_kwargs": {"net_arch": [8]},
        "actor_update": {"every": 10},
        **changes,
    }
    env = Broken(Bandit(observation=observation, length=10), at, what, value)
    return RFMFlow(policy, env, **settings)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_reward_that_is_not_finite_is_named_with_its_step(value: float) -> None:
    one = model("reward", value=value)
    with pytest.raises(NonFiniteError, match=rf"^reward\[0\] is {value} at step 130 "):
        one.learn(200)
    assert one.replay_buffer is not None
    assert one.replay_buffer.size() == 129  # nothing of that step was stored


def test_observation_is_named_with_its_place() -> None:
    with pytest.raises(NonFiniteError, match=r"^observation\[0, 1\] is nan at step 125 "):
        model("observation", at=125).learn(200)
    with pytest.raises(NonFiniteError, match=r"^observation\['b'\]\[0, 0\] is nan at step 125 "):
        model("observation", at=125, observation="dict").learn(200)


def test_last_observation_of_an_episode_is_watched_too() -> None:
    with pytest.raises(NonFiniteError, match=r"terminal observation of environment 0\[1\] is nan"):
        model("observation", at=120).learn(200)


@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("at", [50, 120, 125])
@pytest.mark.parametrize(("observation", "n_steps"), [("vector", 1), ("vector", 3), ("dict", 1)])
def test_skip_leaves_the_transition_out(what: str, at: int, observation: str, n_steps: int) -> None:
    one = model(what, at, observation=observation, on_nan="skip", n_steps=n_steps).learn(200)
    buffer: Any = one.replay_buffer
    # an observation spoils two transitions unless it ended an episode (length 10)
    lost = 2 if what == "observation" and at % 10 else 1
    assert one.n_skipped == lost
    assert buffer.size() == 200 - lost
    stored = buffer.observations, buffer.next_observations
    for part in stored if observation == "vector" else [p for d in stored for p in d.values()]:
        assert np.isfinite(part).all()
    assert np.isfinite(buffer.rewards).all()
    assert bool(buffer.timeouts[at - 2]), "returns over several steps end before the gap"
    assert all(bool(p.isfinite().all()) for p in one.policy.parameters())
    assert one.num_timesteps == 200


class Recorded(VecEnvWrapper):
    """Keeps what the environments gave."""

    def __init__(self, env: VecEnv) -> None:
        super().__init__(env)
        self.obs: list[Any] = []
        self.rewards: list[np.ndarray] = []
        self.dones: list[np.ndarray] = []

    def reset(self) -> Any:
        self.obs.append(self.venv.reset())
        return self.obs[-1]

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.obs.append(obs)
        self.rewards.append(rewards)
        self.dones.append(dones)
        return obs, rewards, dones, infos


class Source(gym.Env):
    """
    Observations around a thousand; at some steps one number is wrong.

    :param wrong: step, of all episodes together (0 is the first reset) -> (what, value)
    :param observation: "vector" or "dict"
    """

    def __init__(self, wrong: dict[int, tuple[str, float]], observation: str = "vector") -> None:
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        is_dict = observation == "dict"
        self.observation_space = spaces.Dict({"a": box, "b": box}) if is_dict else box
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.wrong, self.total = wrong, 0

    def observe(self) -> Any:
        what, value = self.wrong.get(self.total, ("", 0.0))
        obs = self.np_random.normal(1000.0, 3.0, 2).astype(np.float32)
        if what == "observation":
            obs[1] = value
        if isinstance(self.observation_space, spaces.Dict):
            return {"a": np.float32([self.total, 0.0]), "b": obs}
        return obs

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Any:
        self.t, self.total = self.t + 1, self.total + 1
        what, value = self.wrong.get(self.total, ("", 0.0))
        reward = value if what == "reward" else float(self.np_random.normal(5.0))
        return self.observe(), reward, False, self.t >= 10, {}


def sources(*wrong: Any, observation: str = "vector") -> DummyVecEnv:
    return DummyVecEnv([lambda w=w: Source(w, observation) for w in wrong])


def watched_by(env: VecEnv, algorithm: Any = RFMFlow, **changes: Any) -> Any:
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    settings = {"learning_starts": 10**6, "buffer_size": 500, "seed": 0, "device": "cpu"}
    return algorithm(policy, env, **settings, policy_kwargs={"net_arch": [8]}, **changes)


def moments(rows: Any) -> Any:
    """VecNormalize's averages of some rows, one update a step."""
    averages = RunningMeanStd(shape=rows[0].shape[1:])
    for row in rows:
        if len(row):
            averages.update(row)
    return averages.mean, averages.var, averages.count


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e37])
@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("observation", ["vector", "dict"])
def test_averages_count_all_but_what_is_wrong(what: str, value: float, observation: str) -> None:
    wrong = {0: (what, value), 13: (what, value), 20: (what, value), 21: (what, value)}
    below = Recorded(sources(wrong, {}, {13: (what, value)}, observation=observation))
    env = VecNormalize(below, gamma=0.9)
    one = watched_by(env, on_nan="skip").learn(90)
    keys = ("a", "b") if observation == "dict" else (None,)
    # what Recorded sees is watched already: look at the environments' own numbers
    bad = {(0, 0), (13, 0), (20, 0), (21, 0), (13, 2)}
    for key in keys:
        rows = [obs if key is None else obs[key] for obs in below.obs]
        good = [np.array([(t, i) not in bad or what == "reward" for i in range(3)])
                for t in range(31)]  # fmt: skip
        rms: Any = env.obs_rms if key is None else env.obs_rms[key]
        expected = moments([row[g] for row, g in zip(rows, good, strict=True)])
        np.testing.assert_allclose([*rms.mean, *rms.var], [*expected[0], *expected[1]], rtol=1e-5)
        assert rms.count == pytest.approx(expected[2])
        if key != "a":
            assert abs(rms.mean - 1000.0).max() < 3
    returns, seen = np.zeros(3), []
    for t, (reward, done) in enumerate(zip(below.rewards, below.dones, strict=True), start=1):
        returns = 0.9 * returns + reward
        seen.append(returns[[(t, i) not in bad or what != "reward" for i in range(3)]])
        returns = np.where(done, 0.0, returns)
    mean, var, count = moments(seen)
    assert [env.ret_rms.mean, env.ret_rms.var] == pytest.approx([mean, var], rel=1e-5)
    assert env.ret_rms.count == pytest.approx(count)
    assert np.isfinite(env.returns).all()
    assert one.replay_buffer.size() == 30


@pytest.mark.parametrize("norm_obs", [True, False])
def test_averages_that_are_not_counted_stay(norm_obs: bool) -> None:
    env = VecNormalize(sources({13: ("observation", np.nan)}), training=False, norm_obs=norm_obs)
    before = env.ret_rms.copy()
    one = watched_by(env, on_nan="skip").learn(30)
    assert vars(env.ret_rms) == vars(before)
    assert one.n_skipped == 2


def test_the_environment_is_as_it_was_after_learning() -> None:
    env = VecNormalize(sources({}))
    chain = env.venv
    evaluated = VecNormalize(DummyVecEnv([lambda: Monitor(Source({}))]))
    evaluation = EvalCallback(evaluated, eval_freq=5, n_eval_episodes=1, verbose=0)
    one = watched_by(env, on_nan="skip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.learn(20, evaluation)
    assert one.env is env
    assert env.venv is chain
    plain = sources({})
    two = watched_by(plain, on_nan="raise")
    seen: list[Any] = []
    two.learn(5, lambda local, _: seen.append(local["env"]) or True)
    assert two.env is plain
    assert all(isinstance(one, DummyVecEnv) for one in seen)
    assert seen[0].envs is plain.envs


@pytest.mark.parametrize("normalized", [False, True])
def test_what_is_stacked_is_left_out_as_long_as_it_is_held(normalized: bool) -> None:
    env: VecEnv = sources({13: ("observation", np.nan), 30: ("observation", np.nan)}, {})
    env = VecFrameStack(env, 3)
    env = VecNormalize(env) if normalized else env
    one = watched_by(env, on_nan="skip").learn(80)
    # 12 -> 13 to 15 -> 16; 29 -> 30, which ended an episode, and the next one's first three
    assert one.n_skipped == 8
    stored = one.replay_buffer.observations[: one.replay_buffer.size()].reshape(-1, 3, 2)
    assert (stored[:, 2] > 900).all(), "no frame that was made up"
    earlier = stored[:, :2] > 900  # none, or the zeros before an episode's first frame
    assert (earlier[:, :1] <= earlier[:, 1:]).all()
    assert (stored[:, :2][~earlier] == 0).all()


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("value", [np.nan, 1e37])
def test_the_first_observation_is_watched(normalized: bool, value: float) -> None:
    def env() -> VecEnv:
        made = sources({0: ("observation", value)})
        return VecNormalize(made) if normalized else made

    with pytest.raises(NonFiniteError, match=r"^observation\[0, 1\] is (nan|1e\+37) at step 0 "):
        watched_by(env()).learn(30)
    one = watched_by(env(), on_nan="skip").learn(30)
    assert one.n_skipped == 1
    assert np.abs(one.replay_buffer.observations[: one.replay_buffer.size()] - 1000).max() < 100


def test_a_new_episodes_first_observation_is_none_of_the_old_ones() -> None:
    class BadReset(Source):
        def reset(self, **kwargs: Any) -> Any:
            obs, info = super().reset(**kwargs)
            return (obs * np.float32(np.nan) if self.total == 10 else obs), info

    one = watched_by(DummyVecEnv([lambda: BadReset({})]), on_nan="skip").learn(30)
    assert one.n_skipped == 1
    assert one.replay_buffer.size() == 29
    with pytest.raises(NonFiniteError, match=r"^observation\[0, 0\] is nan at step 10 "):
        watched_by(DummyVecEnv([lambda: BadReset({})])).learn(30)


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_numbers_too_large_for_float32_are_named(what: str) -> None:
    size = LARGEST * 1.01
    place = r"reward\[0\]" if what == "reward" else r"observation\[0, 1\]"
    with pytest.raises(NonFiniteError, match=rf"^{place} is 1.01e\+15 at step 13 .*at most 1e\+15"):
        watched_by(sources({13: (what, size)})).learn(30)
    env = sources(dict.fromkeys(range(100), (what, float(LARGEST) * 0.99)))
    one = watched_by(env)
    one.learning_starts, one.batch_size = 20, 16
    one.learn(40)  # which can be computed with
    assert all(bool(p.isfinite().all()) for p in one.policy.parameters())


def test_lists_and_numbers_are_watched_too() -> None:
    value = {"a": [0.0, np.nan], "b": np.float64(np.inf), "c": 3, "d": "nan", "e": None}
    found = list(not_finite("x", value))
    assert found == ["x['a'][1] is nan", "x['b'] is inf"]

    class Lists(Source):
        def observe(self) -> Any:
            return super().observe().tolist()

    env = DummyVecEnv([lambda: Lists({10: ("observation", np.nan)})])
    one = watched_by(env, on_nan="skip").learn(30)
    assert one.n_skipped == 2  # the end of an episode, and the beginning of the next
    assert np.isfinite(one.replay_buffer.next_observations).all()


def test_returns_that_are_not_finite_are_not_averaged() -> None:
    env = DummyVecEnv([lambda: Monitor(Source({13: ("reward", np.nan)}))])
    one = watched_by(env, on_nan="skip").learn(30)
    assert len(one.ep_info_buffer) == 2  # of three episodes
    assert np.isfinite([info["r"] for info in one.ep_info_buffer]).all()


class BrokenNoise(NormalActionNoise):
    """Not finite once, for one environment."""

    calls = resets = 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return super().__call__() * (np.nan if self.calls == 13 else 1.0)

    def reset(self) -> None:
        self.resets += 1


def test_an_action_that_is_not_finite_never_reaches_the_environment() -> None:
    env = Broken(Bandit(), 10**9, "")  # which asserts that actions are finite
    noise = BrokenNoise(np.zeros(2), np.ones(2))
    with pytest.raises(
        NonFiniteError, match=r"^action\[0, 0\] is nan at step 13 .*look at action_noise"
    ):
        watched_by(DummyVecEnv([lambda: env]), action_noise=noise).learn(30)
    noise = BrokenNoise(np.zeros(2), np.ones(2))
    one = watched_by(DummyVecEnv([lambda: env]), action_noise=noise, on_nan="skip").learn(30)
    assert one.n_skipped == 1
    assert one.replay_buffer.size() == 29
    one = watched_by(DummyVecEnv([lambda: env]))
    one.learning_starts = 0
    next(one.actor.network.parameters()).data.fill_(np.nan)
    with pytest.raises(NonFiniteError, match=r"the policy's actor\.network.* is nan"):
        one.learn(1)


@pytest.mark.parametrize("algorithm", [RFMFlow, SAC])
def test_nothing_is_learnt_from_nothing(algorithm: Any) -> None:
    env = sources(dict.fromkeys(range(100), ("observation", np.nan)))
    one = watched_by(env, algorithm, on_nan="skip")
    one.learning_starts = 10
    one.learn(30)
    assert (one.n_skipped, one.replay_buffer.size(), one._n_updates) == (30, 0, 0)


@pytest.mark.parametrize("algorithm", [RFMFlow, SAC])
def test_an_update_names_what_the_buffer_holds(algorithm: Any) -> None:
    one = watched_by(sources({}), algorithm).learn(30)
    one.replay_buffer.rewards[7, 0] = np.nan
    one.learning_starts, one.batch_size = 0, 64
    with pytest.raises(NonFiniteError, match=r"the replay buffer's rewards\[7, 0\] is nan"):
        one.learn(1, reset_num_timesteps=False)


def test_an_error_of_numbers_is_a_value_error() -> None:
    """So that a search prunes the trial."""
    assert issubclass(NonFiniteError, ValueError)
    assert issubclass(NonFiniteError, FloatingPointError)


@pytest.mark.parametrize("algorithm", [RFMFlow, QSM])
def test_update_that_is_not_finite(algorithm: type[FlowActorCritic]) -> None:
    """A critic's weight overflows: named, or the update is left out and the weights stay."""
    for on_nan in ("raise", "skip"):
        one = algorithm(
            "MlpPolicy", Bandit(), learning_starts=50, batch_size=16, on_nan=on_nan,
            buffer_size=500, policy_kwargs={"net_arch": [8]}, bfloat16=False,
        )  # fmt: skip
        one.learn(60)
        for target in one.critic_target.q_networks:
            target[-1].bias.data.fill_(th.inf)
        before = [p.clone() for p in one.policy.parameters()]
        if on_nan == "raise":
            with pytest.raises(NonFiniteError, match=r"is (nan|inf) at update \d+, step \d+"):
                one.learn(10, reset_num_timesteps=False)
            continue
        one.replay_buffer.dones[:] = 0  # every target bootstraps
        one._update_critic(one.replay_buffer.sample(16))
        pairs = zip(before, one.policy.parameters(), strict=True)
        assert all(th.equal(a, b) for a, b in pairs)


def sac(what: str, **changes: Any) -> SAC:
    env = Broken(Bandit(length=10), 130 if what else 10**9, what)
    settings: dict[str, Any] = {"learning_starts": 100, "batch_size": 16, "buffer_size": 500}
    return SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, **settings, **changes)


def test_sac_is_guarded_too(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"^reward\[0\] is nan at step 130 "):
        sac("reward").learn(200)
    one = sac("observation", on_nan="skip").learn(200)
    assert one.n_skipped == one.logger.name_to_value["rfm/n_skipped"] == 1  # it ended an episode
    one.save(tmp_path / "model")
    assert SAC.load(tmp_path / "model").on_nan == "skip"


@pytest.mark.parametrize("on_nan", ["raise", "skip"])
def test_sacs_own_update_that_is_not_finite_is_an_error(on_nan: str) -> None:
    one = sac("", on_nan=on_nan)
    one.learn(150)
    for target in one.critic_target.q_networks:
        target[-1].bias.data.fill_(th.inf)
    with pytest.raises(NonFiniteError, match=r"train/critic_loss is (nan|inf) at update 5\d"):
        one.learn(10, reset_num_timesteps=False)


def test_diverging_critics_are_reported_each_time() -> None:
    one = model("reward", at=10**9, gamma=0.9)
    one.learn(150)
    assert 0 <= one.logger.name_to_value["rfm/q_over_bound"] < 2
    before = deepcopy(one.get_parameters())
    for _ in range(2):
        for critic in (*one.critic.q_networks, *one.critic_target.q_networks):
            critic[-1].bias.data.fill_(1e4)
        with pytest.warns(UserWarning, match="critics diverge") as caught:
            one.learn(20, reset_num_timesteps=False)
        assert len([w for w in caught if "diverge" in str(w.message)]) == 1
        one.set_parameters(deepcopy(before))
        one.learn(1, reset_num_timesteps=False)
        assert one.logger.name_to_value["rfm/q_over_bound"] < 1


@pytest.mark.parametrize("wrong", ["ignore", None, True])
def test_on_nan_is_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match="on_nan"):
        model("reward", on_nan=wrong)
    with pytest.raises(ValueError, match="on_nan"):
        sac("reward", on_nan=wrong)
