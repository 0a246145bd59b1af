"""
Files that were saved before modules moved, and before settings had groups.

``data/earlier_names/`` was written at commit bdfcb55, on Pendulum-v1 after 12 steps of two units:
a checkpoint of ``RFMFlow(estimator=Bounded(n_particles=4), candidate_choice=Softmax())``, a saved
``SAC`` (its archive compressed later), and the deterministic actions of both.

``flat_settings/`` there was written in the same way at commit c025ecf, the last one whose settings
had no groups: ``QVPO``, and ``RFMFlow`` with the settings that :data:`FLAT` says again; its policy
alone and its weights.
"""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from sb3_rfm import QVPO, SAC, RFMFlow, load_checkpoint
from sb3_rfm.common.config import (
    ActorUpdateSettings,
    CandidateSettings,
    CriticUpdateSettings,
    EstimatorSettings,
    FlowSettings,
    Settings,
)
from sb3_rfm.common.flat_names import FLAT_NAMES
from sb3_rfm.common.policies import FlowPolicy
from sb3_rfm.common.selection import Best, Softmax
from sb3_rfm.sampling import Bounded
from sb3_rfm.utils.moved import MOVED, PACKAGE

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parents[1] / "data" / "earlier_names"
ACTIONS = json.loads((DATA / "actions.json").read_text("utf-8"))
OBSERVATIONS = np.array(ACTIONS["observations"], np.float32)


FLAT = Settings(
    flow=FlowSettings(steps=3, t_range=(0.1, 0.9)),
    estimator=EstimatorSettings(
        Bounded(n_particles=4), n_particles=None, q_aggregation="mean", use_target_critic=True
    ),
    candidates=CandidateSettings(train=3, evaluate=5, select="best", noise="temperature_0.1"),
    actor_update=ActorUpdateSettings(every=3, average=0.01),
    critic_update=CriticUpdateSettings(learning_rate=2e-3),
)


def classes(name: str) -> list[str]:
    module = import_module(f"{PACKAGE}.{name}")
    return [key for key, value in vars(module).items() if isinstance(value, type)]


def actions(model: SAC | RFMFlow) -> np.ndarray:
    return model.predict(OBSERVATIONS, deterministic=True)[0]


def test_a_saved_model_acts_as_it_did():
    model = SAC.load(DATA / "sac.zip", env=gym.make("Pendulum-v1"), device="cpu")
    np.testing.assert_allclose(actions(model), ACTIONS["sac"], atol=1e-5)
    assert model.policy_class.__module__ == "sb3_rfm.algorithms.sac_policy"
    model.learn(4)


def test_a_checkpoint_goes_on_with_its_pieces(tmp_path):
    model = load_checkpoint(RFMFlow, DATA / "checkpoint", gym.make("Pendulum-v1"), device="cpu")
    np.testing.assert_allclose(actions(model), ACTIONS["rfm_flow"], atol=1e-5)
    assert (model.estimator.name, model.candidates.select) == (Bounded(n_particles=4), Softmax())
    assert model.estimator.n_particles is None  # the object has its own
    assert (model.num_timesteps, model.replay_buffer.size()) == (12, 12)
    model.learn(4, reset_num_timesteps=False)
    model.save(tmp_path / "model")
    assert RFMFlow.load(tmp_path / "model").candidates.select == Softmax()


def flat_actions(name: str) -> np.ndarray:
    return np.array(json.loads((DATA / "flat_settings" / "actions.json").read_text())[name])


def test_flat_settings_are_found_in_their_groups(tmp_path):
    path = DATA / "flat_settings" / "rfm_flow.zip"
    model = RFMFlow.load(path, env=gym.make("Pendulum-v1"), device="cpu")
    assert model.settings == FLAT
    assert not vars(model).keys() & FLAT_NAMES.keys()
    np.testing.assert_allclose(actions(model), flat_actions("rfm_flow"), atol=1e-5)
    model.learn(4, reset_num_timesteps=False)
    model.save(tmp_path / "model")
    assert RFMFlow.load(tmp_path / "model").settings == FLAT


def test_they_may_be_changed_while_they_are_loaded():
    path = DATA / "flat_settings" / "rfm_flow.zip"
    model = RFMFlow.load(path, candidates={"evaluate": 7}, estimator="bounded", temperature=0.5)
    assert model.candidates == replace(FLAT.candidates, evaluate=7)
    assert model.actor.n_eval_candidates == 7
    assert model.estimator == replace(FLAT.estimator, name="bounded", n_particles=8)
    assert model.settings.temperature == 0.5


def test_what_load_is_given_besides_settings_stands():
    path = DATA / "flat_settings" / "rfm_flow.zip"
    assert RFMFlow.load(path, bfloat16=True).method.bfloat16 is True
    assert RFMFlow.load(path, bfloat16=False).method.bfloat16 is False
    with pytest.raises(ValueError, match="bfloat16 must satisfy: True, False or 'auto'; got 'x'"):
        RFMFlow.load(path, bfloat16="x")


def test_flat_settings_of_weighted_actions():
    model = QVPO.load(DATA / "flat_settings" / "qvpo.zip", env=gym.make("Pendulum-v1"))
    assert model.settings == QVPO.defaults
    np.testing.assert_allclose(actions(model), flat_actions("qvpo"), atol=1e-5)
    model.learn(4, reset_num_timesteps=False)


def test_a_policy_saved_alone_acts_as_it_did(tmp_path):
    policy = FlowPolicy.load(DATA / "flat_settings" / "policy.pth", device="cpu")
    expected = flat_actions("rfm_flow")
    np.testing.assert_allclose(actions(policy), expected, atol=1e-5)
    assert policy.actor.candidates == replace(
        FLAT.candidates, train=None, select=Best(), noise_color="white"
    )
    policy.save(tmp_path / "policy")
    np.testing.assert_allclose(actions(FlowPolicy.load(tmp_path / "policy")), expected, atol=1e-5)


def test_weights_go_into_a_model_of_today():
    kinds = {"policy_kwargs": {"net_arch": [2]}, "buffer_size": 20, "device": "cpu"}
    model = RFMFlow("MlpPolicy", gym.make("Pendulum-v1"), **kinds, **vars(FLAT))
    model.load_weights(DATA / "flat_settings" / "weights")
    np.testing.assert_allclose(actions(model), flat_actions("rfm_flow"), atol=1e-5)


@pytest.mark.parametrize("earlier", MOVED)
def test_an_earlier_name_is_the_module_of_today(earlier):
    today = import_module(f"{PACKAGE}.{MOVED[earlier]}")
    assert import_module(f"{PACKAGE}.{earlier}") is today
    for name in classes(MOVED[earlier]):
        saved = f"c{PACKAGE}.{earlier}\n{name}\n.".encode()  # pickle's protocol 0
        assert pickle.loads(saved) is getattr(today, name)


def test_a_name_that_no_module_had_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"sb3_rfm\.nothing"):
        import_module("sb3_rfm.nothing")
    with pytest.raises(ModuleNotFoundError, match=r"baselines\.nothing"):
        import_module("sb3_rfm.baselines.nothing")


def test_nothing_is_imported_before_a_file_asks_for_it():
    script = """
import pickle, sys
import sb3_rfm
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("sb3_rfm", "torch")))
print(pickle.loads(b"csb3_rfm.sampling.bounded\\nBounded\\n.").__module__)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    ours = "sb3_rfm sb3_rfm.utils sb3_rfm.utils.moved sb3_rfm.utils.version"
    assert run.stdout.splitlines() == [ours, "sb3_rfm.sampling.estimators.bounded"], run.stderr
