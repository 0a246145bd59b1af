"""The deterministic policy as one ONNX graph."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.distributions import Distribution

from sb3_rfm.utils.extras import missing_extra
from sb3_rfm.utils.files import with_suffix, write_whole

SUFFIX = ".onnx"
INPUT, OUTPUT = "observation", "action"


class DeterministicPolicy(nn.Module):
    """
    What ``predict(observation, deterministic=True)`` computes: preprocessing, the candidates from
    their fixed noise, every step of the solver, the critics' choice, and the action's units.

    :param policy: a policy of this package with Box observations and actions
    """

    low: Tensor
    width: Tensor

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__()
        space = policy.action_space
        assert isinstance(space, spaces.Box)
        self.policy = policy
        # as predict: the width in the space's own type, actions in what float32 makes of it
        dtype = np.result_type(np.float32, space.dtype)
        self.register_buffer("low", th.as_tensor(space.low.astype(dtype)))
        self.register_buffer("width", th.as_tensor((space.high - space.low).astype(dtype)))

    def forward(self, observation: Tensor) -> Tensor:
        """
        :param observation: in the observation space's type, (B, ...)
        :return: actions in the environment's units and the type that ``predict`` returns, (B, ...)
        """
        action = self.policy._predict(observation, deterministic=True)
        share = 0.5 * (action.reshape(-1, *self.low.shape) + 1.0)
        return self.low + share.to(self.low.dtype) * self.width


def export_onnx(policy: BasePolicy, path: str | Path) -> Path:
    """
    Write the deterministic policy as one ONNX graph, from ``observation`` (B, ...) to ``action``
    (B, ...), B free. Observations have their space's type, actions are in the environment's units
    and in the type that ``predict`` returns: float32, or float64 for a Box of float64.

    The policy's own normalisation of observations is part of the graph. ``VecNormalize`` is not:
    give the graph normalised observations where the policy was trained on such. The file appears as
    a whole or not at all, and the policy stays as it is.

    :param policy: ``model.policy``, or a policy that was loaded alone
    :param path: of the file; ``.onnx`` is appended where it has no suffix
    :return: the path that was written
    :raises ValueError: observations other than one Box, or an operation (of a features extractor,
        say) that ONNX does not have
    :raises ImportError: the extra ``onnx`` is not installed
    """
    space = policy.observation_space
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"export_onnx: the observation space must be a Box, the graph's one input; got {space}"
        )
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        package = str(error.name)
        raise ImportError(
            missing_extra("export_onnx needs", [package], "onnx"), name=package
        ) from None
    copy = deepcopy(policy).to("cpu")
    copy.set_training_mode(False)
    content = _graph(DeterministicPolicy(copy).eval(), space)
    target = with_suffix(path, SUFFIX)
    write_whole(target, content)
    return target


def _graph(module: DeterministicPolicy, space: spaces.Box) -> bytes:
    """
    The graph, serialised.

    :param module: the policy
    :param space: of the observations
    :return: an ONNX model
    :raises ValueError: an operation that ONNX does not have
    """
    observations = th.as_tensor(np.stack([np.zeros(space.shape, space.dtype)] * 2))
    try:
        with th.no_grad(), _quiet(), _without_distribution_checks(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module(observations)  # fixed noises are made once, here, and are constants of the graph
            program: Any = th.onnx.export(
                module,
                (observations,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"observation": {0: th.export.Dim("batch", min=1)}},
                dynamo=True,
                verbose=False,
            )
        return program.model_proto.SerializeToString()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(f"this policy cannot be exported to ONNX: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on its optimisations off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _without_distribution_checks() -> Iterator[None]:
    """
    No checks of a distribution's parameters: they branch on values, which a graph cannot (SAC's
    Gaussian).
    """
    default = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(default)
