"""What is kept of normalised observations, in every way of saving."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit, observations
from normalised_models import OFF, Far, actions, each_class, each_shell, small

import sb3_rfm
from sb3_rfm.common.observations import PRIOR_STEPS
from sb3_rfm.export import weights


@each_class
def test_a_loaded_model_is_frozen_until_it_trains(name: str, tmp_path: Path) -> None:
    small(name).learn(20).save(tmp_path / "model")
    loaded = getattr(sb3_rfm, name).load(tmp_path / "model")
    before = copy.deepcopy(loaded.policy.normalizer.state_dict())
    assert before["statistics"][0, 0] == PRIOR_STEPS + 20
    loaded.predict(observations(loaded))
    loaded.policy.set_training_mode(True)
    actions(loaded)
    after = loaded.policy.normalizer.state_dict()
    assert all(th.equal(before[key], after[key]) for key in before)
    loaded.set_env(Bandit())
    loaded.learn(12, reset_num_timesteps=False)
    assert after["statistics"][0, 0] == PRIOR_STEPS + 32


@each_class
def test_the_state_holds_it_once(name: str) -> None:
    model = small(name).learn(20)
    own = [key for key in model.policy.state_dict() if "normalizer" in key]
    assert own == [f"normalizer.{part}" for part in ("mean", "scale", "statistics")]
    assert all(model.policy.state_dict()[key].is_floating_point() for key in own)
    written = weights.tensors(model)
    assert [key for key in written if "normalizer" in key] == [f"policy.{key}" for key in own]
    owners = (model.policy, model.actor, model.critic, model.critic_target)
    assert len({id(owner.normalizer) for owner in owners}) == 1
    owned = {id(t) for t in model.policy.normalizer.buffers()}
    for optimizer in (model.actor.optimizer, model.critic.optimizer):
        assert not owned & {id(p) for group in optimizer.param_groups for p in group["params"]}


@each_class
def test_it_comes_back(name: str, tmp_path: Path) -> None:
    model = small(name, Far(Bandit()), seed=1).learn(20)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    model.actor.save(tmp_path / "actor")
    model.save_weights(tmp_path / "weights")
    other = small(name, seed=2)
    addresses = [tensor.data_ptr() for tensor in other.policy.normalizer.buffers()]
    other.set_parameters(tmp_path / "model")
    third = small(name, seed=3)
    third.load_weights(tmp_path / "weights")
    loaded = {
        "model": type(model).load(tmp_path / "model"),
        "policy": type(model.policy).load(tmp_path / "policy"),
        "actor": type(model.actor).load(tmp_path / "actor"),
        "parameters": other,
        "weights": third,
        "copy": copy.deepcopy(model.policy),
    }
    obs = observations(model) + 1000
    expected = model.predict(obs, deterministic=True)[0]
    for how, one in loaded.items():
        assert np.array_equal(one.predict(obs, deterministic=True)[0], expected), how
        normalizer = one.normalizer if how in ("actor", "policy", "copy") else one.actor.normalizer
        assert th.equal(normalizer.statistics, model.policy.normalizer.statistics), how
        assert normalizer is not model.policy.normalizer
    other.learn(12)  # in place: a CUDA graph reads them there
    assert [tensor.data_ptr() for tensor in other.policy.normalizer.buffers()] == addresses


@each_shell
def test_any_state_gives_finite_actions(name: str) -> None:
    model = small(name).learn(12)
    random = {key: th.rand_like(value) for key, value in model.policy.state_dict().items()}
    model.policy.load_state_dict(random)
    assert np.isfinite(actions(model)).all()
    model.policy.normalizer.update(np.ones((1, 3), np.float32))
    assert np.isfinite(actions(model)).all()


@each_shell
def test_weights_with_and_without_do_not_mix(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {True: small(name), False: small(name, policy_kwargs=OFF)}
    for asked, model in models.items():
        model.save_weights(tmp_path / str(asked))
        with pytest.raises(
            ValueError, match=f"normalize_observations: got {asked}, expected {not asked}"
        ):
            models[not asked].load_weights(tmp_path / str(asked))
    monkeypatch.setattr(weights, "describe", without_the_option)
    models[False].save_weights(tmp_path / "earlier")
    monkeypatch.undo()
    models[False].load_weights(tmp_path / "earlier")
    with pytest.raises(ValueError, match="normalize_observations: got False, expected True"):
        models[True].load_weights(tmp_path / "earlier")


def without_the_option(model: Any, describe: Any = weights.describe) -> dict[str, Any]:
    """The header of a file that was written before there was the option."""
    header = describe(model)
    del header["architecture"]["normalize_observations"]
    return header


@pytest.mark.slow
def test_the_graph_for_onnx_normalises(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    model = small()
    model.policy.normalizer.mean.fill_(1000)
    session = runtime.InferenceSession(model.export_onnx(tmp_path / "policy"))
    obs = observations(model) + 1000
    (got,) = session.run(None, {"observation": obs})
    np.testing.assert_allclose(got, model.predict(obs, deterministic=True)[0], atol=1e-4)
