"""Weights for exchange: tensors in safetensors, a header in JSON, nothing that runs code."""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from sb3_rfm.export.onnx import export_onnx
from sb3_rfm.utils.files import with_suffix, write_whole
from sb3_rfm.utils.version import __version__

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy

FORMAT_VERSION = 1
METADATA_KEY = "sb3_rfm"
SUFFIX = ".safetensors"
CHECKED = ("algorithm", "observation_space", "action_space", "architecture")
"""What of a file has to be equal to the model's; ``settings`` and ``versions`` inform."""
POLICY_OPTIONS = (
    "net_arch",
    "activation_fn",
    "share_features_extractor",
    "features_extractor_class",
    "features_extractor_kwargs",
    "normalize_images",
)
EARLIER = {"normalize_observations": False}
"""The architecture of which a file says nothing that was written before there was the option."""
MEANING = ("interpolant", "parametrization", "support")
"""Pieces of the flow without which the same weights are another policy."""
MAIN_MODULES = ("__main__", "__mp_main__")
"""What Python calls the module of a program, in the process itself and in those it spawns."""


def plain(value: Any) -> Any:
    """
    A value as JSON can hold it: the same text for equal values, in every process.

    :param value: anything
    :return: numbers, strings, lists and dicts; a class or a function by its full name, a dataclass
        as its name and fields, anything else as its type's name
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if is_dataclass(value):
        own = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__qualname__, **own}
    if isinstance(value, Callable) and hasattr(value, "__qualname__"):  # type: ignore[arg-type]
        return f"{value.__module__}.{value.__qualname__}"
    return plain(type(value))


def _limits(limits: np.ndarray) -> Any:
    """The bounds of a Box: one number where all are equal, else the nested list."""
    first = limits.reshape(-1)[:1]
    return plain(first[0]) if len(first) and (limits == first).all() else plain(limits.tolist())


def describe_space(space: spaces.Space) -> dict[str, Any]:
    """
    A space as plain JSON.

    :param space: a Box, Discrete, MultiDiscrete, MultiBinary or a Dict of them
    :return: its type and what defines it
    :raises ValueError: another kind of space
    """
    kind: dict[str, Any] = {"type": type(space).__name__}
    if isinstance(space, spaces.Box):
        low, high = _limits(space.low), _limits(space.high)
        return {
            **kind,
            "shape": [*space.shape],
            "dtype": str(space.dtype),
            "low": low,
            "high": high,
        }
    if isinstance(space, spaces.Discrete):
        return {**kind, "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {**kind, "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {**kind, "shape": [*space.shape]}
    if isinstance(space, spaces.Dict):
        return {**kind, "spaces": {key: describe_space(part) for key, part in space.items()}}
    allowed = "a Box, Discrete, MultiDiscrete, MultiBinary or a Dict of them"
    raise ValueError(f"the space of a file of weights must be {allowed}; got {space}")


def describe(model: BaseAlgorithm) -> dict[str, Any]:
    """
    What a model's weights belong to, as plain JSON.

    :param model: an algorithm of this package
    :return: format version, algorithm, spaces, architecture, settings and versions
    :raises ValueError: a space that cannot be described
    """
    policy: Any = model.policy
    architecture = {name: plain(getattr(policy, name)) for name in POLICY_OPTIONS}
    architecture["n_critics"] = policy.critic.n_critics
    architecture["normalize_observations"] = getattr(policy, "normalize_observations", False)
    if hasattr(policy, "critic_options"):
        architecture["critic_kwargs"] = plain(policy.critic_options.plain())
    flow = getattr(policy.actor, "flow", None)
    if flow is not None:
        architecture.update({name: plain(getattr(flow, name)) for name in MEANING})
    names = ("n_candidates", "n_eval_candidates", "ent_coef", "target_entropy")
    settings = getattr(model, "settings", None) or {n: getattr(model, n, None) for n in names}
    versions = {name: version(name) for name in ("stable_baselines3", "torch")}
    return {
        "format_version": FORMAT_VERSION,
        "algorithm": type(model).__name__,
        "observation_space": describe_space(policy.observation_space),
        "action_space": describe_space(policy.action_space),
        "architecture": architecture,
        "settings": plain(settings),
        "versions": {"sb3_rfm": __version__, **versions},
    }


def tensors(model: BaseAlgorithm) -> dict[str, Tensor]:
    """
    The tensors of a file of weights: the policy's, critics included, each once (the actor holds the
    critic a second time), and the variables that Stable-Baselines3 keeps beside it (SAC's entropy
    coefficient). Optimizers are not among them.

    :param model: an algorithm of this package
    :return: the model's own tensors by name
    """
    beside = {name: getattr(model, name) for name in model._get_torch_save_params()[1]}
    policy = model.policy.state_dict(prefix="policy.", keep_vars=True)
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in {**policy, **beside}.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def save_weights(model: BaseAlgorithm, path: str | Path) -> Path:
    """
    Write a model's weights; the file appears as a whole or not at all.

    :param model: an algorithm of this package
    :param path: of the file; ``.safetensors`` is appended where it has no suffix
    :return: the path that was written
    :raises ValueError: a space that cannot be described
    :raises OSError: the file cannot be written
    """
    from safetensors.torch import save

    content = {name: t.detach().cpu().contiguous() for name, t in tensors(model).items()}
    header = json.dumps(describe(model), sort_keys=True, allow_nan=False)
    target = with_suffix(path, SUFFIX)
    write_whole(target, save(content, {METADATA_KEY: header}))
    return target


def read_header(path: str | Path) -> dict[str, Any]:
    """
    What a file of weights says of itself; no tensor is read.

    :param path: of the file; ``.safetensors`` is appended where it has no suffix
    :return: the JSON of :func:`describe`
    :raises FileNotFoundError: there is no such file
    :raises ValueError: not a file of :func:`save_weights`, or of a later format
    """
    path = with_suffix(path, SUFFIX)
    wrong = f"{path} is not a file of save_weights"
    with _opened(path) as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        raise ValueError(f"{wrong}: its metadata have no entry {METADATA_KEY!r}")
    try:
        header = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{wrong}: its header is not JSON ({error})") from None
    if not isinstance(header, dict) or header.get("format_version") != FORMAT_VERSION:
        got = header.get("format_version") if isinstance(header, dict) else header
        raise ValueError(
            f"{path}: format_version must be {FORMAT_VERSION}, the one that this version of "
            f"sb3_rfm ({__version__}) reads; got {got!r}"
        )
    if isinstance(header.get("architecture"), dict):
        header["architecture"] = {**EARLIER, **header["architecture"]}
    return header


def load_weights(model: BaseAlgorithm, path: str | Path) -> None:
    """
    Read weights into a model that was constructed as the saved one was.

    Everything is checked first: algorithm, spaces, architecture, and each tensor's name, shape and
    type. After an error the model is as it was. Optimizers, counters and the replay buffer stay as
    they are.

    :param model: the model that takes the weights
    :param path: of the file; ``.safetensors`` is appended where it has no suffix
    :raises FileNotFoundError: there is no such file
    :raises ValueError: the file is not one of :func:`save_weights`, or does not fit the model; the
        message names each thing that was got and that was expected
    """
    path = with_suffix(path, SUFFIX)
    header, own = read_header(path), describe(model)
    faults = [fault for key in CHECKED for fault in _differences(key, header.get(key), own[key])]
    expected = tensors(model)
    with _opened(path) as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        for name in sorted(expected.keys() | found.keys()):
            got = _signature(found[name]) if name in found else "none"
            faults += _differences(f"tensor {name}", got, _expected(expected.get(name)))
        if faults:
            raise ValueError(f"{path} does not fit this model:\n" + "\n".join(faults))
        content = {name: file.get_tensor(name) for name in expected}
    with th.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(content[name])


def _opened(path: Path) -> Any:
    """The file, for reading; an error in plain words where it is something else."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, struct.error) as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None


def _signature(view: Any) -> str:
    """Type and shape of a tensor in the file."""
    return f"{view.get_dtype()} {list(view.get_shape())}"


def _expected(tensor: Tensor | None) -> str:
    """Type and shape of the model's tensor, in the file's words."""
    if tensor is None:
        return "none"
    letter = "F" if tensor.is_floating_point() else "I" if tensor.dtype.is_signed else "U"
    name = "BF16" if tensor.dtype is th.bfloat16 else f"{letter}{8 * tensor.element_size()}"
    name = "BOOL" if tensor.dtype is th.bool else name
    return f"{name} {list(tensor.shape)}"


def _differences(name: str, got: Any, expected: Any) -> list[str]:
    """One line for each thing that differs, however deep it lies."""
    if isinstance(got, dict) and isinstance(expected, dict):
        keys = sorted(got.keys() | expected.keys())
        pairs = ((f"{name}: {key}", got.get(key), expected.get(key)) for key in keys)
        return [line for pair in pairs for line in _differences(*pair)]
    same = got == expected or _same_class(got, expected)
    return [] if same else [f"  {name}: got {got!r}, expected {expected!r}"]


def _same_class(one: Any, two: Any) -> bool:
    """
    Whether two names may be of one class or function: that of a program's main module is found in
    another module wherever the program is imported.
    """
    if not (isinstance(one, str) and isinstance(two, str)):
        return False
    return any(
        first.startswith(f"{main}.") and f".{second}".endswith(first.removeprefix(main))
        for first, second in ((one, two), (two, one))
        for main in MAIN_MODULES
    )


class Export:
    """The methods of an algorithm that write and read weights, and export its policy."""

    policy: "BasePolicy"

    def save_weights(self, path: str | Path) -> Path:
        """
        Write the weights to a safetensors file, which holds no code: see
        :func:`sb3_rfm.export.weights.save_weights`.

        :param path: of the file; ``.safetensors`` is appended where it has no suffix
        :return: the path that was written
        :raises ValueError: a space that cannot be described
        """
        return save_weights(self, path)  # type: ignore[arg-type]

    def load_weights(self, path: str | Path) -> None:
        """
        Read weights that :meth:`save_weights` wrote, after checking that all of them fit: see
        :func:`sb3_rfm.export.weights.load_weights`.

        :param path: of the file; ``.safetensors`` is appended where it has no suffix
        :raises FileNotFoundError: there is no such file
        :raises ValueError: the file does not fit this model, which is left as it was
        """
        load_weights(self, path)  # type: ignore[arg-type]

    def export_onnx(self, path: str | Path) -> Path:
        """
        Write the deterministic policy as one ONNX graph: see
        :func:`sb3_rfm.export.onnx.export_onnx`.

        :param path: of the file; ``.onnx`` is appended where it has no suffix
        :return: the path that was written
        :raises ValueError: observations other than one Box, or a policy that cannot be exported
        :raises ImportError: the extra ``onnx`` is not installed
        """
        return export_onnx(self.policy, path)
