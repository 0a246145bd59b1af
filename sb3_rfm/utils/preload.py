"""What has to be imported before something else."""

import contextlib
import importlib
import importlib.util


def import_triton() -> None:
    """
    Import triton where it is installed, as PyTorch's first optimizer does: to be done before a
    graphics driver is loaded, by whomever (see :mod:`sb3_rfm.utils.graphics`).
    """
    if importlib.util.find_spec("triton") is not None:
        with contextlib.suppress(Exception):  # as PyTorch does without a triton that is broken
            importlib.import_module("triton")
