"""
Files that were saved before modules moved.

``data/earlier_names/`` was written at commit bdfcb55, on Pendulum-v1 after 12 steps of two units:
a checkpoint of ``RFMFlow(estimator=Bounded(n_particles=4), candidate_choice=Softmax())``, a saved
``SAC`` (its archive compressed later), and the deterministic actions of both.
"""

import json
import os
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from sb3_rfm import SAC, RFMFlow, load_checkpoint
from sb3_rfm.common.selection import Softmax
from sb3_rfm.sampling import Bounded
from sb3_rfm.utils.moved import MOVED, PACKAGE

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).parent / "data" / "earlier_names"
ACTIONS = json.loads((DATA / "actions.json").read_text("utf-8"))
OBSERVATIONS = np.array(ACTIONS["observations"], np.float32)


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
    assert (model.estimator, model.candidate_choice) == (Bounded(n_particles=4), Softmax())
    assert (model.num_timesteps, model.replay_buffer.size()) == (12, 12)
    model.learn(4, reset_num_timesteps=False)
    model.save(tmp_path / "model")
    assert RFMFlow.load(tmp_path / "model").candidate_choice == Softmax()


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
