"""A run's replay buffer is as long as the run, and longer when it goes on."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from small_comparisons import ENV, a_run
from small_runs import TINY, settings_with
from stable_baselines3 import SAC

from sb3_rfm.checkpoints.replay import grow
from sb3_rfm.experiments.resources import Resources
from sb3_rfm.experiments.run import resume, start
from sb3_rfm.experiments.settings import buffer_length, make_model

pytestmark = pytest.mark.usefixtures("here")


def test_a_buffer_made_longer_is_one_that_always_was():
    observations = np.arange(9, dtype=np.float32)

    def filled(size, number):
        model = SAC("MlpPolicy", ENV, buffer_size=size)
        for value in observations[:number]:
            new = np.full((1, 3), value, np.float32)
            model.replay_buffer.add(new, new + 1, new[:, :1], new[0, :1], np.zeros(1), [{}])
        return model.replay_buffer

    for number in (3, 5, 7):  # partly full, just full, gone round
        buffer = filled(5, number)
        grow(buffer, 9)
        kept = min(number, 5)
        assert (buffer.pos, buffer.full, buffer.size()) == (kept, False, kept)
        assert buffer.rewards.shape == (9, 1)
        np.testing.assert_array_equal(
            buffer.rewards[:kept, 0], observations[number - kept : number]
        )
        assert buffer.next_observations.shape == (9, 1, 3)
    grow(buffer, 4)
    assert buffer.buffer_size == 9  # what it holds is kept


def test_a_run_that_goes_on_has_room_for_all_of_it(tmp_path):
    settings = a_run().settings
    resources = Resources("cpu", progress=False)
    folder, _ = start(_with_steps(settings, 40, 20), tmp_path, resources)
    resume(folder.path, resources, steps=60)
    saved = SAC("MlpPolicy", ENV)
    saved.load_replay_buffer(folder.latest_checkpoint() / "replay_buffer.pkl")
    assert saved.replay_buffer.buffer_size == 60
    assert buffer_length(_with_steps(settings, 10**7, 0)) == 1_000_000  # the algorithm's own


def _with_steps(settings, steps, every):
    return replace(settings, steps=steps, checkpoint_freq=every)


def test_a_buffer_no_longer_than_the_run_changes_nothing():
    final = []
    for size in (60, 500):  # full at the last step, and never
        arguments = TINY | {"buffer_size": size, "seed": 0}
        final.append(SAC("MlpPolicy", "Pendulum-v1", **arguments).learn(60).policy.state_dict())
    assert all(th.equal(final[0][name], final[1][name]) for name in final[0])
    model, chosen = make_model(settings_with().resolved(), "cpu")
    assert model.replay_buffer.buffer_size == chosen["buffer_size"] == 60
