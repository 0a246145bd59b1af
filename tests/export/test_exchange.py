"""Weights in safetensors and policies in ONNX."""

import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from environments import Bandit, observations
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

import sb3_rfm
from sb3_rfm.experiments.hyperparams import merged
from sb3_rfm.export import weights
from sb3_rfm.export.onnx import export_onnx
from sb3_rfm.export.weights import load_weights, read_header, save_weights
from sb3_rfm.utils import files

safetensors_torch = pytest.importorskip("safetensors.torch")

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [16]},
    "buffer_size": 50,
    "seed": 0,
    "device": "cpu",
}
SAMPLING: dict[str, Any] = {
    "flow": {"steps": 2},
    "estimator": {"n_particles": 4},
    "candidates": {"n": 2, "evaluate": 6},
}
WITHOUT_PARTICLES = ("DPMD", "QSM", "QVPO")
NAMES = ("RFMFlow", "RFMDiffusion", "QNE", "DQS", "IDEM", "SDAC", "DPMD", "QSM", "QVPO", "SAC")


def small(name: str = "RFMFlow", env: Any = None, policy: str = "MlpPolicy", **changes: Any) -> Any:
    sampling = {"n_candidates": 2, "n_eval_candidates": 6} if name == "SAC" else dict(SAMPLING)
    if name in WITHOUT_PARTICLES:
        del sampling["estimator"]
    settings = merged({**SMALL, **sampling}, changes)
    return getattr(sb3_rfm, name)(policy, Bandit() if env is None else env, **settings)


def actions(model: Any) -> np.ndarray:
    return model.predict(observations(model), deterministic=True)[0]


def state(model: Any) -> dict[str, th.Tensor]:
    return {key: value.clone() for key, value in model.policy.state_dict().items()}


def same(one: dict[str, th.Tensor], two: dict[str, th.Tensor]) -> bool:
    return one.keys() == two.keys() and all(th.equal(one[key], two[key]) for key in one)


# Weights


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_back(name: str, tmp_path: Path) -> None:
    model, other = small(name, seed=1), small(name, seed=2)
    path = save_weights(model, tmp_path / "weights")
    assert path == tmp_path / "weights.safetensors"
    assert not np.array_equal(actions(model), actions(other))
    load_weights(other, tmp_path / "weights")
    assert same(state(model), state(other))
    assert np.array_equal(actions(model), actions(other))


@pytest.mark.parametrize(
    ("policy", "observation"), [("MultiInputPolicy", "dict"), ("CnnPolicy", "image")]
)
@pytest.mark.parametrize("share", [False, True])
def test_weights_of_other_observations(
    policy: str, observation: str, share: bool, tmp_path: Path
) -> None:
    kwargs = {"net_arch": [16], "share_features_extractor": share}
    models = [
        small("RFMFlow", Bandit(observation=observation), policy, policy_kwargs=kwargs, seed=seed)
        for seed in (1, 2)
    ]
    models[0].save_weights(tmp_path / "weights")
    models[1].load_weights(tmp_path / "weights")
    assert same(state(models[0]), state(models[1]))


def test_training_goes_on_after_loading(tmp_path: Path) -> None:
    models = [small("SAC", seed=seed, learning_starts=5, batch_size=4) for seed in (1, 2)]
    models[0].learn(20)
    save_weights(models[0], tmp_path / "weights")
    load_weights(models[1], tmp_path / "weights")
    assert th.equal(models[0].log_ent_coef, models[1].log_ent_coef)
    before = state(models[1])
    models[1].learn(20)
    assert not same(before, state(models[1]))


def test_each_tensor_is_there_once_and_the_header_is_json(tmp_path: Path) -> None:
    model = small(
        temperature=lambda progress: progress + 0.1,
        flow={"support": "tanh"},
        estimator={"name": "noise_expectation"},
    )
    path = model.save_weights(tmp_path / "weights.safetensors")
    content = safetensors_torch.load_file(path)
    assert {id(t) for t in model.policy.state_dict(keep_vars=True).values()} == {
        id(dict(weights.tensors(model))[name]) for name in content
    }
    header = read_header(path)
    assert header == json.loads(json.dumps(weights.describe(model)))
    assert header["algorithm"] == "RFMFlow"
    assert header["versions"]["torch"].startswith(th.__version__.split("+")[0])
    assert header["settings"] == weights.plain(model.settings)
    assert header["settings"]["flow"]["steps"] == 2
    assert header["settings"]["estimator"]["name"] == "noise_expectation"
    assert header["architecture"]["critic_kwargs"]["network"] == "mlp"
    assert header["action_space"] == {
        "type": "Box", "shape": [2], "dtype": "float32", "low": -1.0, "high": 1.0
    }  # fmt: skip
    assert "0x" not in json.dumps(header)  # no addresses: the same in every process
    assert b"\x80\x04" not in path.read_bytes()[: 8 + 8000]  # no pickle's beginning


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), {"low": "-inf", "high": "inf"}),
        (spaces.Box(np.array([0, 1]), np.array([2, 3]), dtype=np.float64), {"low": [0.0, 1.0]}),
        (spaces.Discrete(3, start=1), {"n": 3, "start": 1}),
        (spaces.MultiDiscrete([2, 3]), {"nvec": [2, 3]}),
        (spaces.MultiBinary(4), {"shape": [4]}),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"type": "Dict"}),
    ],
    ids=lambda value: None if isinstance(value, dict) and "env" in value else str(value),
)
def test_spaces_are_plain_json(space: spaces.Space, expected: dict[str, Any]) -> None:
    described = weights.describe_space(space)
    assert {key: described[key] for key in expected} == expected
    assert json.loads(json.dumps(described, allow_nan=False)) == described


def test_a_space_that_cannot_be_described_is_named() -> None:
    with pytest.raises(ValueError, match="got Text"):
        weights.describe_space(spaces.Text(3))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"name": "RFMDiffusion"}, ["algorithm: got 'RFMFlow', expected 'RFMDiffusion'"]),
        ({"env": Bandit(spaces.Box(-2, 2, (2,)))}, ["action_space: low: got -1.0, expected -2.0"]),
        ({"env": Bandit(observation="float64")}, ["observation_space: dtype: got 'float32'"]),
        ({"policy_kwargs": {"net_arch": [8]}}, ["net_arch: got [16], expected [8]"]),
        ({"policy_kwargs": {"net_arch": [16], "n_critics": 1}}, ["qf1.0.bias: got 'F32 [16]'"]),
        ({"policy_kwargs": {"net_arch": [16], "activation_fn": nn.Tanh}}, ["activation.Tanh"]),
        ({"flow": {"parametrization": "velocity"}}, ["parametrization: type: got 'Data'"]),
        (
            {"policy_kwargs": {"net_arch": [16], "critic_kwargs": {"layer_norm": False}}},
            ["critic_kwargs: layer_norm: got True, expected False", "expected 'none'"],
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) and "env" in value else str(value),
)
def test_a_file_that_does_not_fit_changes_nothing(
    other: dict[str, Any], named: list[str], tmp_path: Path
) -> None:
    path = small(seed=1).save_weights(tmp_path / "weights")
    model = small(**other, seed=2)
    before = state(model)
    with pytest.raises(ValueError, match="does not fit") as error:
        model.load_weights(path)
    assert all(text in str(error.value) for text in named), str(error.value)
    assert same(before, state(model))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: {k: v for k, v in t.items() if not k.endswith("log_value")}, "got 'none'"),
        (lambda t: {**t, "policy.stray": th.zeros(1)}, "stray: got 'F32 [1]', expected 'none'"),
        (lambda t: {k: v.double() for k, v in t.items()}, "got 'F64 [], expected 'F32"),
        (lambda t: {k: v.unsqueeze(0) for k, v in t.items()}, "expected 'F32 []'"),
    ],
    ids=["missing", "unknown", "type", "shape"],
)
def test_each_tensor_is_checked(change: Any, named: str, tmp_path: Path) -> None:
    path = small(seed=1).save_weights(tmp_path / "weights")
    content = change(safetensors_torch.load_file(path))
    header = {weights.METADATA_KEY: json.dumps(read_header(path))}
    safetensors_torch.save_file(content, path, header)
    model = small(seed=2)
    before = state(model)
    with pytest.raises(ValueError, match="does not fit") as error:
        model.load_weights(path)
    assert named.replace("[],", "[]',") in str(error.value)
    assert same(before, state(model))


def test_what_is_not_a_file_of_weights(tmp_path: Path) -> None:
    model = small()
    with pytest.raises(FileNotFoundError, match="no file"):
        model.load_weights(tmp_path / "nowhere")
    path = tmp_path / "code.safetensors"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="not a safetensors file"):
        model.load_weights(path)
    safetensors_torch.save_file({"a": th.zeros(1)}, path)
    with pytest.raises(ValueError, match="no entry 'sb3_rfm'"):
        model.load_weights(path)
    for text, message in (("{", "not JSON"), ('{"format_version": 99}', "got 99"), ("3", "got 3")):
        safetensors_torch.save_file({"a": th.zeros(1)}, path, {weights.METADATA_KEY: text})
        with pytest.raises(ValueError, match=message):
            model.load_weights(path)
    whole = model.save_weights(tmp_path / "whole").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a safetensors file"):
        model.load_weights(path)


def test_an_interrupted_write_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    path = model.save_weights(tmp_path / "weights")
    earlier = path.read_bytes()

    def broken(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        small(seed=3).save_weights(path)
    assert path.read_bytes() == earlier
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_loading_unpickles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(seed=1).save_weights(tmp_path / "weights")
    model = small(seed=2)

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("unpickled")

    import cloudpickle

    for owner, name in ((pickle, "loads"), (pickle, "load"), (th, "load"), (cloudpickle, "loads")):
        monkeypatch.setattr(owner, name, forbidden)
    model.load_weights(path)


# ONNX


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


@pytest.mark.parametrize("main", ["__main__", "__mp_main__"])
def test_a_class_of_the_main_module_is_that_of_the_programs_own(main: str, tmp_path: Path) -> None:
    """A class is called otherwise where its program is imported, or spawned, than where it runs."""

    def extractor(module: str, name: str = "Extractor") -> type:
        return type(name, (FlattenExtractor,), {"__module__": module, "__qualname__": name})

    def model(kind: type, **kwargs: Any) -> Any:
        policy = {"net_arch": [16], "features_extractor_class": kind, **kwargs}
        return small(policy_kwargs=policy)

    for saved, loaded in ((main, "package.train"), ("train", main), (main, main)):
        path = save_weights(model(extractor(saved)), tmp_path / "weights")
        load_weights(model(extractor(loaded)), path)
    path = save_weights(model(extractor(main)), tmp_path / "weights")
    others = extractor("train", "Other"), extractor("train", "MyExtractor")
    for other in others:
        with pytest.raises(ValueError, match=rf"features_extractor_class: got '{main}.Extractor'"):
            load_weights(model(other), path)
    path = save_weights(model(extractor("train")), tmp_path / "weights")
    with pytest.raises(ValueError, match=r"features_extractor_class: got 'train.Extractor'"):
        load_weights(model(extractor("other")), path)


BOXES = {
    "no axis": spaces.Box(-1, 1, (), np.float32),
    "matrix": spaces.Box(-1, 3, (2, 3), np.float32),
    "float16": spaces.Box(-1, 1, (2,), np.float16),
    "float16, no axis": spaces.Box(-1, 1, (), np.float16),
    "float64, no axis": spaces.Box(0, 5, (), np.float64),
    "far away": spaces.Box(1e6, 1e6 + 1e-3, (2,), np.float64),
    "tiny": spaces.Box(-1e-30, 1e-30, (2,), np.float32),
    "huge": spaces.Box(-1e30, 1e30, (2,), np.float32),
    "of two sizes": spaces.Box(np.float32([-1e-3, 10]), np.float32([1e-3, 1e4])),
}


class AnyBox(Bandit):
    """Takes actions as Stable-Baselines3 sends them: float32 for a Box of float16."""

    def step(self, action: np.ndarray) -> Any:
        space = self.action_space
        assert action.shape == space.shape
        assert (space.low <= action).all()
        assert (action <= space.high).all()
        return self._observation(), 0.0, True, False, {}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_every_box_of_floats_is_trained_in_saved_and_exported(
    box: spaces.Box, tmp_path: Path
) -> None:
    from sb3_rfm.export.onnx import DeterministicPolicy

    model = small(env=AnyBox(box), learning_starts=5, batch_size=4).learn(12)
    expected = actions(model)
    assert expected.dtype == np.result_type(np.float32, box.dtype)
    assert expected.shape == (32, *box.shape)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(actions(type(model).load(tmp_path / "model")), expected)
    model.save_weights(tmp_path / "weights")
    other = small(env=AnyBox(box), seed=3)
    other.load_weights(tmp_path / "weights")
    np.testing.assert_array_equal(actions(other), expected)
    with th.no_grad():
        got = DeterministicPolicy(model.policy)(th.as_tensor(observations(model))).numpy()
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    width = box.high.astype(float) - box.low.astype(float)
    assert (np.abs(got.astype(float) - expected) <= 1e-6 * width).all()


@pytest.mark.usefixtures("onnx")
def test_the_graphs_actions_have_the_shape_and_type_of_predicts(tmp_path: Path) -> None:
    model = small(env=AnyBox(BOXES["float16, no axis"]))
    check(model, model.export_onnx(tmp_path / "policy"))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (spaces.Box(-3, 3, (2,), np.int8), "a Box of float32, float64 or float16, .* got int8"),
        (spaces.Box(0, 255, (), np.uint8), "got uint8"),
        (spaces.Box(-1, 1, (2,), np.longdouble), f"got {np.dtype(np.longdouble)}"),
        (spaces.Box(-1, 1, (0,), np.float32), r"have a coordinate; got shape \(0,\)"),
        (spaces.Box(-6e4, 6e4, (2,), np.float16), "finite in float16; got low -60000.0"),
        (spaces.Box(-3e38, 3e38, (2,), np.float32), "finite in float32; .* at index 0"),
    ],
    ids=str,
)
def test_a_box_that_cannot_be_scaled_is_named(box: spaces.Box, message: str) -> None:
    with pytest.raises(ValueError, match=f"action_space must .*{message}"):
        small(env=Bandit(box))


def test_noise_that_fails_without_an_axis_is_named() -> None:
    from stable_baselines3.common.noise import NormalActionNoise

    from sb3_rfm.common.noise import NormalNoise

    box, scale = BOXES["no axis"], np.ones(())
    with pytest.raises(ValueError, match=r"action_noise must be sb3_rfm.common.noise.NormalNoise"):
        small(env=AnyBox(box), action_noise=NormalActionNoise(0 * scale, scale))
    small(env=AnyBox(box), action_noise=NormalNoise(0 * scale, scale), learning_starts=0).learn(3)
