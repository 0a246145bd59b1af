"""SAC with a selection among candidates: SB3's own where there is one candidate."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch as th
from environments import Bandit
from gymnasium import spaces
from small_sac import SMALL
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_rfm import SAC, RFMFlow
from sb3_rfm.common.boltzmann import critic_features, minimum_q
from sb3_rfm.experiments.hyperparams import (
    algorithm_class,
    complete,
    constructor_arguments,
    parse_overrides,
)


def small(env: Any = None, policy: str = "MlpPolicy", cls: Any = SAC, **changes: Any) -> Any:
    return cls(policy, Bandit() if env is None else env, **{**SMALL, **changes})


def observations(model: Any, count: int = 6) -> np.ndarray:
    return np.stack([model.observation_space.sample() for _ in range(count)])


def q_of(model: Any, obs: np.ndarray, actions: np.ndarray) -> th.Tensor:
    inputs = th.as_tensor(obs)
    scaled = th.as_tensor(model.policy.scale_action(actions))
    return minimum_q(model.critic, critic_features(model.critic, inputs), scaled)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ent_coef": 0.1, "n_steps": 3, "policy_kwargs": {"net_arch": [16, 8], "n_critics": 3}},
        {"use_sde": True, "policy_kwargs": {"share_features_extractor": True}},
    ],
    ids=str,
)
def test_one_candidate_is_stable_baselines3s(changes: dict[str, Any]) -> None:
    """Bit for bit: what is learned, what was replayed, and what is predicted."""
    models = []
    for cls in (stable_baselines3.SAC, SAC):
        model = small(Bandit(length=10), cls=cls, learning_starts=50, **changes).learn(300)
        models.append(model)
    theirs, ours = models
    state, own = theirs.policy.state_dict(), ours.policy.state_dict()
    assert all(th.equal(state[name], own[name]) for name in state)
    assert np.array_equal(theirs.replay_buffer.actions, ours.replay_buffer.actions)
    obs = observations(ours)
    for deterministic in (True, False):
        th.manual_seed(1)
        expected = theirs.predict(obs, deterministic=deterministic)[0]
        th.manual_seed(1)
        assert np.array_equal(expected, ours.predict(obs, deterministic=deterministic)[0])


def test_candidates_change_what_is_explored_and_nothing_else() -> None:
    donor, many = (small(n_candidates=n).learn(60) for n in (1, 4))
    assert not np.array_equal(donor.replay_buffer.actions, many.replay_buffer.actions)
    states = []
    for n_candidates in (1, 4):
        model = small(n_candidates=n_candidates, n_eval_candidates=n_candidates)
        model.replay_buffer = donor.replay_buffer
        model.set_logger(donor.logger)
        th.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  (SB3's buffers draw from it)
        model.train(5, 8)
        states.append(model.policy.state_dict())
    assert all(th.equal(states[0][name], states[1][name]) for name in states[0])


def test_evaluation_takes_the_best_of_the_mode_and_fixed_noises() -> None:
    model = small(n_eval_candidates=32).learn(60)
    obs = observations(model)
    inputs = th.as_tensor(obs)
    with th.no_grad():
        mode = th.tanh(model.actor.get_action_dist_params(inputs)[0])
        candidates = model.actor.candidates(inputs, 32, deterministic=True)
    assert th.equal(candidates[0], mode)
    assert (candidates[1:] != mode).all()
    actions = model.predict(obs, deterministic=True)[0]
    th.manual_seed(5)
    assert np.array_equal(actions, model.predict(obs, deterministic=True)[0])
    best = q_of(model, obs, candidates.numpy()).amax(0)
    assert th.allclose(q_of(model, obs, actions), best)
    assert (best > q_of(model, obs, mode.numpy())).any()


@pytest.mark.parametrize("ent_coef", [0.05, 1.0, 0.0])
def test_exploration_draws_by_softmax_of_q_over_the_entropy_coefficient(
    ent_coef: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, n_draws = small(n_candidates=4, ent_coef=ent_coef), 10_000
    four = th.tensor([[0.9, 0.9], [-0.9, 0.3], [0.1, -0.8], [0.0, 0.0]])
    monkeypatch.setattr(
        model.actor, "candidates", lambda obs, n, _: four[:n, None].expand(n, len(obs), 2)
    )
    obs = np.zeros((1, 3), np.float32)
    q = q_of(model, obs, four[:, None].numpy())[:, 0].detach()
    assert q.std() > 0.02  # a premise: the candidates differ
    actions = th.as_tensor(model.predict(np.repeat(obs, n_draws, 0))[0])
    frequency = th.bincount(th.cdist(actions, four).argmin(1), minlength=4) / n_draws
    if ent_coef == 0:
        assert frequency[q.argmax()] == 1
        return
    expected = th.softmax(q / ent_coef, 0)
    error = (expected * (1 - expected) / n_draws).sqrt()
    assert ((frequency - expected).abs() < 4 * error).all()


@pytest.mark.parametrize(("ent_coef", "tuned"), [("auto_0.5", True), (0.3, False)])
def test_the_actors_temperature_is_the_entropy_coefficient(ent_coef: Any, tuned: bool) -> None:
    model = small(ent_coef=ent_coef, n_candidates=2)
    first = model.actor.log_temperature.exp().item()
    assert first == pytest.approx(0.5 if tuned else 0.3)
    model.learn(60)
    now = model.actor.log_temperature.exp().item()
    assert now == pytest.approx(model.log_ent_coef.exp().item() if tuned else 0.3)
    assert (now != first) == tuned


def test_optimizers_own_their_part_only() -> None:
    model = small(n_candidates=2)
    actor, critic = (
        {id(p) for group in part.optimizer.param_groups for p in group["params"]}
        for part in (model.actor, model.critic)
    )
    assert critic == {id(p) for p in model.critic.parameters()}
    assert not actor & critic
    assert actor | critic == {id(p) for p in model.actor.parameters()}


def test_saves_and_loads_model_policy_and_actor(tmp_path: Path) -> None:
    env = Bandit()
    model = small(env, n_candidates=3, n_eval_candidates=5).learn(60)
    for part, name in ((model, "model"), (model.policy, "policy"), (model.actor, "actor")):
        part.save(tmp_path / name)
    loaded = SAC.load(tmp_path / "model", env=env)
    assert (loaded.n_candidates, loaded.n_eval_candidates) == (3, 5)
    policy, actor = (
        type(part).load(tmp_path / name)
        for part, name in ((model.policy, "policy"), (model.actor, "actor"))
    )
    obs = observations(model)
    for deterministic in (True, False):
        th.manual_seed(0)
        expected = model.predict(obs, deterministic=deterministic)[0]
        for one in (model.policy, model.actor, loaded, policy, actor):
            th.manual_seed(0)
            assert np.array_equal(expected, one.predict(obs, deterministic=deterministic)[0])
    assert loaded.actor.critic is loaded.critic
    assert loaded.policy_kwargs == model.policy_kwargs == {"net_arch": [16]}
    loaded.learn(30)
    more = SAC.load(tmp_path / "model", n_eval_candidates=64)
    assert more.actor.n_eval_candidates == 64
    best, before = (q_of(model, obs, m.predict(obs, deterministic=True)[0]) for m in (more, model))
    assert (best > before).any()


def test_weights_of_stable_baselines3s_sac_can_be_taken() -> None:
    theirs, ours = small(cls=stable_baselines3.SAC).learn(60), small(n_eval_candidates=16)
    missing, unexpected = ours.policy.load_state_dict(theirs.policy.state_dict(), strict=False)
    assert unexpected == []
    assert all(n.startswith("actor.critic.") or n == "actor.log_temperature" for n in missing)
    obs = observations(ours)
    mode, best = (model.predict(obs, deterministic=True)[0] for model in (theirs, ours))
    assert (q_of(ours, obs, best) >= q_of(ours, obs, mode) - 1e-6).all()


@pytest.mark.parametrize(
    ("policy", "observation"),
    [("MultiInputPolicy", "dict"), ("CnnPolicy", "image"), ("MlpPolicy", "float64")],
)
@pytest.mark.parametrize("share", [False, True])
def test_observations(policy: str, observation: str, share: bool, tmp_path: Path) -> None:
    kwargs = {"net_arch": [16], "share_features_extractor": share}
    changes = {"policy_kwargs": kwargs, "buffer_size": 50, "batch_size": 4, "n_candidates": 3}
    model = small(Bandit(observation=observation), policy, n_eval_candidates=4, **changes)
    model.learn(24)
    obs = model.observation_space.sample()
    action, _ = model.predict(obs, deterministic=True)
    assert model.action_space.contains(action)
    assert (model.actor.features_extractor is model.critic.features_extractor) == share
    model.policy.save(tmp_path / "policy")
    loaded = type(model.policy).load(tmp_path / "policy")
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], action)
    assert (loaded.actor.features_extractor is loaded.critic.features_extractor) == share


def test_vectorised_environments_and_boxes() -> None:
    box = spaces.Box(np.array([-0.5, 2.0]), np.array([3.0, 2.5]), dtype=np.float64)
    env = make_vec_env(lambda: Bandit(box), n_envs=3)
    model = small(env, n_candidates=4, n_eval_candidates=4).learn(60)
    action, _ = model.predict(model.observation_space.sample(), deterministic=True)
    assert box.contains(action)


def test_hindsight_replay() -> None:
    from environments import Reach

    her = {"replay_buffer_class": HerReplayBuffer, "learning_starts": 45, "n_candidates": 2}
    assert small(Reach(), "MultiInputPolicy", **her).learn(60)._n_updates > 0


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"n_candidates": 0}, ValueError),
        ({"n_eval_candidates": 2.5}, TypeError),
        ({"n_candidates": True}, TypeError),
        ({"n_candidates": 2, "use_sde": True}, ValueError),
        ({"n_eval_candidates": 2, "use_sde": True}, ValueError),
    ],
    ids=str,
)
def test_refuses_arguments(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(changes))):
        small(**changes)


def test_arguments_are_stable_baselines3s_and_our_own() -> None:
    theirs, ours = (inspect.signature(cls).parameters for cls in (stable_baselines3.SAC, SAC))
    assert list(ours) == [*theirs, "n_candidates", "n_eval_candidates", "on_nan"]
    assert {name: ours[name].default for name in theirs} == {
        name: p.default for name, p in theirs.items()
    }
    assert ours["n_candidates"].default == ours["n_eval_candidates"].default == 1


def test_the_command_lines_sac() -> None:
    cls = algorithm_class("sac")
    assert cls is SAC
    given = parse_overrides(["n_candidates:8", "buffer_size:9"])
    arguments = constructor_arguments(cls, given, 2)
    model = cls("MlpPolicy", "Pendulum-v1", **arguments)
    assert (model.actor.n_candidates, model.actor.n_eval_candidates) == (8, 1)
    written = complete(cls, arguments)
    assert (written["n_candidates"], written["n_eval_candidates"]) == (8, 1)
    assert written["learning_rate"] == 3e-4


def test_two_algorithms_can_share_their_policy_kwargs() -> None:
    shared = {"net_arch": [16], "n_critics": 3, "critic_kwargs": {"layer_norm": True}}
    models = [
        cls("MlpPolicy", Bandit(), policy_kwargs=shared, buffer_size=9) for cls in (SAC, RFMFlow)
    ]
    assert set(shared) == {"net_arch", "n_critics", "critic_kwargs"}
    first, second = (model.critic.state_dict() for model in models)
    assert {n: p.shape for n, p in first.items()} == {n: p.shape for n, p in second.items()}


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
def test_trains_on_a_gpu(tmp_path: Path) -> None:
    model = small(device="cuda", n_candidates=3, n_eval_candidates=4).learn(60)
    model.actor.save(tmp_path / "actor")
    loaded = type(model.actor).load(tmp_path / "actor", device="cpu")
    obs = observations(model)
    both = [one.predict(obs, deterministic=True)[0] for one in (model, loaded)]
    assert np.allclose(*both, atol=1e-3)
