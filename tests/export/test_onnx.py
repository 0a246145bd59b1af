"""Policies in ONNX: the graph predicts what the policy predicts."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from environments import Bandit, observations
from gymnasium import spaces
from small_models import BOXES, NAMES, AnyBox, actions, same, small, state
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_rfm.export.onnx import export_onnx


def session(path: Path) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"])


def check(model: Any, path: Path) -> None:
    """The graph's actions are ``predict``'s, for one and for many observations."""
    graph = session(path)
    obs = observations(model)
    for batch in (obs[:1], obs):
        (got,) = graph.run(None, {"observation": batch})
        expected = model.predict(batch, deterministic=True)[0]
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        width = (model.action_space.high - model.action_space.low).max()
        assert np.abs(got - expected).max() < 1e-4 * width


@pytest.fixture
def onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


FAST = ("RFMFlow", "RFMDiffusion", "SAC")


@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize(
    "name",
    [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n not in FAST)],
)
def test_the_graph_predicts_what_the_policy_predicts(name: str, tmp_path: Path) -> None:
    box = spaces.Box(np.array([-0.5, 2.0]), np.array([3.0, 2.5]), dtype=np.float64)
    model = small(name, Bandit(box), learning_starts=5, batch_size=4).learn(20)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")  # no environment, as where a policy is deployed
    before = state(loaded)
    loaded.policy.set_training_mode(True)
    path = export_onnx(loaded.policy, tmp_path / "policy")
    assert path == tmp_path / "policy.onnx"
    assert [file.name for file in tmp_path.glob("*onnx*")] == ["policy.onnx"]
    assert loaded.policy.training
    assert same(before, state(loaded))
    check(model, path)


@pytest.mark.usefixtures("onnx")
@pytest.mark.slow
@pytest.mark.parametrize("solver", ["heun", "ddim", "euler_maruyama"])
@pytest.mark.parametrize("support", ["tanh", "clipped"])
def test_each_solver_and_support_can_be_exported(solver: str, support: str, tmp_path: Path) -> None:
    model = small(
        flow={"solver": solver, "support": support}, estimator={"name": "noise_expectation"}
    )
    check(model, model.export_onnx(tmp_path / "policy"))


@pytest.mark.usefixtures("onnx")
def test_a_one_step_policy_can_be_exported(tmp_path: Path) -> None:
    model = small(flow={"one_step": True})
    check(model, model.export_onnx(tmp_path / "policy"))


@pytest.mark.usefixtures("onnx")
@pytest.mark.slow
def test_images_and_float64_observations_can_be_exported(tmp_path: Path) -> None:
    image = small(env=Bandit(observation="image"), policy="CnnPolicy")
    check(image, image.export_onnx(tmp_path / "image"))
    double = small(env=Bandit(observation="float64"))
    check(double, double.export_onnx(tmp_path / "double"))


def test_dict_observations_are_refused(tmp_path: Path) -> None:
    model = small(env=Bandit(observation="dict"), policy="MultiInputPolicy")
    with pytest.raises(ValueError, match=r"must be a Box.*got Dict"):
        model.export_onnx(tmp_path / "policy")
    assert not list(tmp_path.iterdir())


class Untraceable(FlattenExtractor):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        flat = super().forward(observations)
        return flat * (2.0 if flat.sum().item() > 0 else 1.0)


@pytest.mark.usefixtures("onnx")
def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    kwargs = {"net_arch": [16], "features_extractor_class": Untraceable}
    model = small(policy_kwargs=kwargs)
    with pytest.raises(ValueError, match="cannot be exported to ONNX"):
        model.export_onnx(tmp_path / "policy")
    assert not list(tmp_path.iterdir())


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"needs onnx, .*install the extra: .*'\.\[onnx\]'"):
        small().export_onnx(tmp_path / "policy")


def test_environments_units() -> None:
    """The module that is exported, without an exporter."""
    from sb3_rfm.export.onnx import DeterministicPolicy

    box = spaces.Box(np.array([[-0.5, 2.0]]), np.array([[3.0, 2.5]]), dtype=np.float32)
    model = small(env=gym.wrappers.TimeLimit(Bandit(box), 5))
    with th.no_grad():
        got = DeterministicPolicy(model.policy)(th.as_tensor(observations(model))).numpy()
    np.testing.assert_allclose(got, actions(model), atol=1e-6)


@pytest.mark.usefixtures("onnx")
def test_the_graphs_actions_have_the_shape_and_type_of_predicts(tmp_path: Path) -> None:
    model = small(env=AnyBox(BOXES["float16, no axis"]))
    check(model, model.export_onnx(tmp_path / "policy"))
