"""What has to be imported before something else."""

import contextlib
import importlib
import importlib.util
import warnings
from functools import cache


def import_triton() -> None:
    """
    Import triton where it is installed, as PyTorch's first optimizer does: to be done before a
    graphics driver is loaded, by whomever (see :mod:`sb3_rfm.utils.graphics`).
    """
    if importlib.util.find_spec("triton") is not None:
        with contextlib.suppress(Exception):  # as PyTorch does without a triton that is broken
            importlib.import_module("triton")


@cache
def load_jvp_rules() -> None:
    """
    Have PyTorch compile its rules for Jacobian-vector products, as the first of them does, without
    the warnings that its own code is deprecated.
    """
    import torch as th

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        th.func.jvp(th.relu, (th.zeros(1),), (th.ones(1),))
