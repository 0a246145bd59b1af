"""Weights in safetensors: they come back, are described, and fit or change nothing."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit
from gymnasium import spaces
from small_models import NAMES, actions, same, small, state
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_rfm.export import weights
from sb3_rfm.export.weights import load_weights, read_header, save_weights
from sb3_rfm.utils import files

safetensors_torch = pytest.importorskip("safetensors.torch")


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
