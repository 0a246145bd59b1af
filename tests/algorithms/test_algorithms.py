"""What every algorithm promises a user of Stable-Baselines3, on small environments."""

import inspect
import re
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from environments import Bandit, Reach
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rfm import AUTHORS, RFMDiffusion, RFMFlow
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.config import GROUPS, Settings
from sb3_rfm.common.groups import ENTROPY_FLOOR
from sb3_rfm.experiments.hyperparams import (
    complete,
    constructor_arguments,
    merged,
    parse_overrides,
)
from sb3_rfm.sampling import Euler, Linear, Noise, make_estimator
from sb3_rfm.sampling.divergences import ExactDivergence, Hutchinson
from sb3_rfm.sampling.loss_weightings import make_loss_weighting

ALGORITHMS = [RFMFlow, RFMDiffusion]
SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [16]},
    "buffer_size": 500,
    "learning_starts": 20,
    "batch_size": 8,
    "estimator": {"n_particles": 4},
    "candidates": {"n": 3, "evaluate": 4},
    "flow": {"steps": 2},
    "seed": 0,
    "device": "cpu",
}
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def small(
    algorithm: type[FlowActorCritic], env: Any = None, policy: str = "MlpPolicy", **changes: Any
) -> FlowActorCritic:
    return algorithm(policy, Bandit() if env is None else env, **merged(SMALL, changes))


def state(model: FlowActorCritic) -> dict[str, th.Tensor]:
    return {key: value.clone() for key, value in model.policy.state_dict().items()}


def same(one: dict[str, th.Tensor], two: dict[str, th.Tensor]) -> bool:
    return one.keys() == two.keys() and all(th.equal(one[key], two[key]) for key in one)


@each_algorithm
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"actor_update": {"every": 1}, "candidates": {"n": 1, "evaluate": 1}},
        {"temperature": "auto_0.5"},
        {"temperature": "lin_0.1"},
        {"temperature": 0.05},
        pytest.param({"temperature": lambda progress: 0.01 + progress}, id="temperature schedule"),
        {"flow": {"parametrization": "velocity"}},
        {"flow": {"parametrization": "noise"}},
        {"flow": {"support": "tanh"}, "estimator": {"name": "diagonal_centred"}},
        {"flow": {"support": "tanh", "interpolant": "ve"}, "estimator": {"name": "isotropic"}},
        {"estimator": 0.0, "flow": {"interpolant": "vp_linear", "solver": "euler_maruyama"}},
        {"flow": {"solver": "heun", "interpolant": Linear()}},
        pytest.param(
            {"action_noise": NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))}, id="action noise"
        ),
        {"critic_update": {"entropy": True}},
        {
            "critic_update": {"entropy": "hutchinson"},
            "flow": {"support": "tanh"},
            "estimator": {"name": "noise_expectation"},
            "n_steps": 3,
        },
        {"actor_update": {"loss_weighting": "velocity"}},
        {"actor_update": {"loss_weighting": "min_snr"}, "flow": {"parametrization": "noise"}},
        {"n_steps": 3},
        {"train_freq": (2, "episode"), "gradient_steps": -1},
    ],
    ids=str,
)
def test_trains_with_each_setting(
    algorithm: type[FlowActorCritic], changes: dict[str, Any]
) -> None:
    model = small(algorithm, **changes)
    before = state(model)
    model.learn(40)
    after = state(model)
    assert all(value.isfinite().all() for value in after.values())
    for part in ("actor.network", "critic.qf0", "critic_target.qf0"):
        assert any(
            not th.equal(before[key], after[key]) for key in before if key.startswith(part)
        ), part
    moves = changes.get("temperature") != 0.05
    assert moves != th.equal(
        before["actor.temperature.log_value"], after["actor.temperature.log_value"]
    )


def test_authors_settings_construct() -> None:
    model = RFMFlow("MlpPolicy", Bandit(), **AUTHORS, buffer_size=10)
    assert model.actor.flow.support.bounded is False
    assert model.method.estimator.n_particles == 100


@each_algorithm
def test_signature_shows_the_groups_of_defaults(algorithm: type[FlowActorCritic]) -> None:
    parameters = inspect.signature(algorithm).parameters
    assert len(parameters) <= 32
    assert set(GROUPS) < {field.name for field in fields(Settings)}
    for field in fields(Settings):
        assert parameters[field.name].default == getattr(algorithm.defaults, field.name)
    assert all(
        p.default is not inspect.Parameter.empty
        for name, p in parameters.items()
        if name not in ("policy", "env")
    )


@each_algorithm
def test_logs_the_documented_keys(algorithm: type[FlowActorCritic]) -> None:
    model = small(algorithm, temperature="auto", critic_update={"entropy": True})
    model.learn(40, log_interval=10**6)
    logged = {key for key in model.logger.name_to_value if key.startswith(("rfm/", "train/"))}
    page = (Path(__file__).parents[2] / "docs" / "logging.md").read_text()
    assert logged >= {
        "rfm/ess",
        "rfm/ess_low_t",
        "rfm/cv_coefficient",
        "rfm/target_norm",
        "rfm/temperature",
        "rfm/policy_entropy",
    }
    assert [key for key in sorted(logged) if f"`{key}`" not in page] == []


@each_algorithm
def test_same_seed_same_run(algorithm: type[FlowActorCritic]) -> None:
    runs = [state(small(algorithm, seed=seed).learn(40)) for seed in (3, 3, 4)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@each_algorithm
def test_deterministic_prediction_is_a_function(algorithm: type[FlowActorCritic]) -> None:
    model = small(algorithm).learn(40)
    obs = model.observation_space.sample()
    first = model.predict(obs, deterministic=True)[0]
    th.manual_seed(123)
    assert np.array_equal(first, model.predict(obs, deterministic=True)[0])
    batch = np.stack([model.observation_space.sample(), obs])
    assert np.allclose(first, model.predict(batch, deterministic=True)[0][1], atol=1e-6)
    draws = [model.predict(obs)[0] for _ in range(8)]
    assert len(np.unique(draws, axis=0)) > 1


@each_algorithm
def test_actor_predicts_what_the_policy_predicts(
    algorithm: type[FlowActorCritic], tmp_path: Path
) -> None:
    model = small(algorithm).learn(40)
    obs = np.stack([model.observation_space.sample() for _ in range(4)])
    expected = model.predict(obs, deterministic=True)[0]
    assert np.array_equal(expected, model.actor.predict(obs, deterministic=True)[0])
    model.policy.save(tmp_path / "policy.pth")
    model.actor.save(tmp_path / "actor.pth")
    for part, name in ((model.policy, "policy.pth"), (model.actor, "actor.pth")):
        loaded = type(part).load(str(tmp_path / name))
        assert np.array_equal(expected, loaded.predict(obs, deterministic=True)[0])


@each_algorithm
def test_save_and_load_restores_everything(
    algorithm: type[FlowActorCritic], tmp_path: Path
) -> None:
    env = Bandit()
    model = small(algorithm, env, temperature="auto").learn(40)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    th.manual_seed(99)
    loaded = algorithm.load(tmp_path / "model", env=env, device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert same(state(model), state(loaded))
    assert loaded._n_updates == model._n_updates > 0
    assert loaded.num_timesteps == 40
    assert np.array_equal(loaded.replay_buffer.rewards, model.replay_buffer.rewards)
    for owner in ("actor", "critic"):
        old, new = (_attribute(m, owner).optimizer.state_dict()["state"] for m in (model, loaded))
        assert len(old) == len(new) > 0, owner
        for index in old:
            assert th.equal(old[index]["exp_avg"], new[index]["exp_avg"]), owner
    loaded.set_logger(model.logger)
    for one in (model, loaded):
        th.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  (SB3's buffers draw from it)
        one.train(2, 8)
    assert same(state(model), state(loaded))


@each_algorithm
def test_load_takes_new_arguments(algorithm: type[FlowActorCritic], tmp_path: Path) -> None:
    small(algorithm).save(tmp_path / "model")
    changes = {
        "temperature": 0.5,
        "estimator": {"n_particles": 7, "name": "noise_expectation"},
        "critic_update": {"entropy": True},
    }
    loaded = algorithm.load(tmp_path / "model", env=Bandit(), **changes)
    assert loaded.method.estimator == make_estimator("noise_expectation", 7)
    assert loaded.method.divergence == ExactDivergence(ENTROPY_FLOOR)
    loaded.learn(40)
    assert loaded.actor.temperature().item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"candidates\.n must"):
        algorithm.load(tmp_path / "model", candidates={"n": 0})


@pytest.mark.parametrize(
    "changes",
    [
        {"critic_update": {"entropy": True}, "actor_update": {"loss_weighting": "velocity"}},
        {"critic_update": {"entropy": Hutchinson(2)}, "actor_update": {"loss_weighting": Noise()}},
    ],
    ids=str,
)
def test_settings_survive_saving(changes: dict[str, Any], tmp_path: Path) -> None:
    model = small(RFMFlow, **changes)
    model.save(tmp_path / "model")
    loaded = RFMFlow.load(tmp_path / "model", env=Bandit())
    assert loaded.settings == model.settings
    for name in ("divergence", "loss_weighting", "estimator"):
        assert getattr(loaded.method, name) == getattr(model.method, name), name
    loaded.learn(40)


def test_settings_are_plain_values_of_the_zoo() -> None:
    """From YAML and from the command line; ``False`` is a value, not an argument left out."""
    text = "{critic_update: {entropy: true}, actor_update: {loss_weighting: velocity}}"
    plain = yaml.safe_load(text)
    typed = parse_overrides(["critic_update.entropy:True", "actor_update.loss_weighting:velocity"])
    assert plain == merged({}, typed)
    model = small(RFMFlow, **constructor_arguments(RFMFlow, plain, 2))
    assert model.method.divergence == ExactDivergence(ENTROPY_FLOOR)
    assert model.method.loss_weighting == make_loss_weighting("velocity")
    assert merged(complete(RFMFlow, plain), plain) == complete(RFMFlow, plain)
    off = model.settings.changed({"critic_update": {"entropy": False}, "actor_update": None})
    assert off.critic_update.divergence() is None
    assert off.actor_update.loss_weighting == "velocity"


def _attribute(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = getattr(model, name)
    return model


@each_algorithm
def test_optimizers_own_their_part_only(algorithm: type[FlowActorCritic]) -> None:
    model = small(algorithm)
    owned = [
        {id(p) for group in part.optimizer.param_groups for p in group["params"]}
        for part in (model.actor, model.critic)
    ]
    assert not owned[0] & owned[1]
    assert owned[1] == {id(p) for p in model.critic.parameters()}
    assert not (owned[0] | owned[1]) & {id(p) for p in model.critic_target.parameters()}


@each_algorithm
def test_vectorised_environments_and_callbacks(
    algorithm: type[FlowActorCritic], tmp_path: Path
) -> None:
    class Count(BaseCallback):
        calls = 0

        def _on_step(self) -> bool:
            self.calls += 1
            return True

    env, count = make_vec_env(Bandit, n_envs=3), Count()
    evaluation = EvalCallback(
        Monitor(Bandit()), n_eval_episodes=2, eval_freq=10, log_path=str(tmp_path), verbose=0
    )
    checkpoint = CheckpointCallback(10, str(tmp_path), save_replay_buffer=True)
    model = small(algorithm, env, tensorboard_log=str(tmp_path / "tb")).learn(
        90, [count, evaluation, checkpoint]
    )
    assert count.calls == 30
    assert model.num_timesteps == 90
    assert len(np.load(tmp_path / "evaluations.npz")["results"]) == 3
    assert len(list(tmp_path.glob("rl_model_*.zip"))) == 3
    assert [folder.name for folder in (tmp_path / "tb").iterdir()] == [f"{algorithm.__name__}_1"]


@each_algorithm
@pytest.mark.parametrize(
    ("policy", "observation"),
    [("MultiInputPolicy", "dict"), ("CnnPolicy", "image"), ("MlpPolicy", "float64")],
)
@pytest.mark.parametrize("share", [False, True])
def test_observations(
    algorithm: type[FlowActorCritic], policy: str, observation: str, share: bool
) -> None:
    kwargs = {"net_arch": [16], "share_features_extractor": share}
    model = small(
        algorithm,
        Bandit(observation=observation),
        policy,
        policy_kwargs=kwargs,
        buffer_size=50,
        batch_size=4,
    )
    model.learn(24)
    action, _ = model.predict(model.observation_space.sample(), deterministic=True)
    assert model.action_space.contains(action)
    assert (model.actor.features_extractor is model.critic.features_extractor) == share


@each_algorithm
def test_hindsight_replay(algorithm: type[FlowActorCritic]) -> None:
    model = small(
        algorithm,
        Reach(),
        "MultiInputPolicy",
        replay_buffer_class=HerReplayBuffer,
        learning_starts=45,
    )
    model.learn(60)
    assert model._n_updates > 0


@each_algorithm
def test_normalisation_is_applied_when_sampling(algorithm: type[FlowActorCritic]) -> None:
    env = VecNormalize(make_vec_env(Bandit, n_envs=1))
    model = small(algorithm, env).learn(40)
    seen: list[th.Tensor] = []
    model.critic.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    env.obs_rms.mean += 100.0
    model.train(1, 8)
    assert bool((seen[0] <= -env.clip_obs + 1e-3).all())


@each_algorithm
def test_n_step_discounts_are_honoured(algorithm: type[FlowActorCritic]) -> None:
    """
    With n-step returns the buffer's discounts take gamma's place: gamma itself does not matter.
    """
    states = []
    for gamma, n_steps in ((0.9, 3), (0.5, 3), (0.9, 1), (0.5, 1)):
        model = small(algorithm, Bandit(length=50), n_steps=n_steps).learn(25)
        model.gamma = gamma
        th.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  (SB3's buffers draw from it)
        model.train(1, 8)
        states.append(state(model))
    assert same(states[0], states[1])
    assert not same(states[2], states[3])


def test_a_loaded_model_with_n_step_returns_warns_of_nothing(tmp_path: Path) -> None:
    """SB3 takes the buffer that it chose itself, saved and loaded, for one of the user's."""
    model = small(RFMFlow, Bandit(length=50), n_steps=3).learn(25)
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = RFMFlow.load(tmp_path / "model", env=Bandit(length=50))
    assert loaded.replay_buffer_kwargs == model.replay_buffer_kwargs
    for one in (model, loaded):
        assert type(one.replay_buffer) is NStepReplayBuffer
        assert one.replay_buffer.n_steps == 3
        assert one.replay_buffer.gamma == one.gamma
    with pytest.warns(UserWarning, match="`n_steps=2` is ignored"):
        small(RFMFlow, n_steps=2, replay_buffer_class=ReplayBuffer)


@each_algorithm
@pytest.mark.parametrize(
    "box",
    [
        spaces.Box(np.array([-0.5, 2.0]), np.array([3.0, 2.5]), dtype=np.float64),
        spaces.Box(-1e-3, 1e4, (1,), np.float32),
        spaces.Box(-1, 1, (2, 2), np.float32),
    ],
    ids=str,
)
def test_action_boxes(algorithm: type[FlowActorCritic], box: spaces.Box) -> None:
    env = Bandit(box, length=5)
    model = small(algorithm, env).learn(40)
    action, _ = model.predict(model.observation_space.sample(), deterministic=True)
    assert action.dtype == box.dtype
    assert action.shape == box.shape
    assert (np.concatenate(env.actions) >= box.low.min()).all()


@each_algorithm
@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.Box(-np.inf, np.inf, (1,)),
        spaces.Box(1.0, 1.0, (2,)),
        spaces.MultiBinary(2),
    ],
    ids=str,
)
def test_refuses_action_spaces(algorithm: type[FlowActorCritic], space: spaces.Space) -> None:
    with pytest.raises((ValueError, AssertionError), match=r"action space|action_space"):
        small(algorithm, Bandit(space))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": "automatic"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "auto", "candidates": {"train": 1}}, "candidates.train"),
        ({"estimator": "best"}, "estimator"),
        # the actor's noise is normal
        ({"estimator": make_estimator("noise_expectation", 8, "laplace")}, "estimator.name"),
        ({"estimator": "diagonal"}, "estimator"),
        ({"estimator": {"name": "diagonal", "n_times": 1}}, "estimator"),
        ({"estimator": "bounded", "flow": {"support": "tanh"}}, "estimator"),
        ({"flow": {"interpolant": "cubic"}}, "flow.interpolant"),
        ({"flow": {"parametrization": 3}}, "flow.parametrization"),
        ({"flow": {"solver": Euler}}, "flow.solver"),
        ({"flow": {"support": "sphere"}}, "flow.support"),
        ({"estimator": {"n_particles": 0}}, "estimator.n_particles"),
        ({"estimator": {"n_particles": 3, "n_times": 4}}, "n_particles"),
        ({"candidates": {"n": 2.5}}, "candidates.n"),
        ({"candidates": {"evaluate": -1}}, "candidates.evaluate"),
        ({"flow": {"steps": True}}, "flow.steps"),
        ({"flow": {"time_shift": 0.0}}, "flow.time_shift"),
        ({"flow": {"t_range": (0.0, 1.0)}}, "flow.t_range"),
        ({"actor_update": {"every": 0}}, "actor_update.every"),
        ({"actor_update": {"max_grad_norm": -1.0}}, "actor_update.max_grad_norm"),
        ({"target_entropy": "low"}, "target_entropy"),
        ({"actor_update": {"loss_weighting": "snr"}}, "actor_update.loss_weighting"),
        ({"actor_update": {"loss_weighting": True}}, "actor_update.loss_weighting"),
        ({"critic_update": {"entropy": "trace"}}, "critic_update.entropy"),
        ({"critic_update": {"entropy": 1}}, "critic_update.entropy"),
        ({"critic_update": {"entropy": Hutchinson}}, "critic_update.entropy"),
    ],
    ids=str,
)
def test_refuses_arguments(changes: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{re.escape(named)}\b.* must"):
        small(RFMFlow, **changes)


@each_algorithm
def test_random_weights_predict_finite_actions(algorithm: type[FlowActorCritic]) -> None:
    model = small(algorithm)
    model.policy.load_state_dict(
        {key: th.rand_like(value) for key, value in model.policy.state_dict().items()}
    )
    action, _ = model.predict(model.observation_space.sample(), deterministic=True)
    assert model.action_space.contains(action)


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
@each_algorithm
def test_trains_on_a_gpu(algorithm: type[FlowActorCritic], tmp_path: Path) -> None:
    model = small(algorithm, device="cuda", temperature="auto").learn(40)
    assert model.actor.network.point_layer.weight.is_cuda
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    obs = np.stack([model.observation_space.sample() for _ in range(4)])
    both = [one.predict(obs, deterministic=True)[0] for one in (model, loaded)]
    assert np.allclose(*both, atol=1e-3)
