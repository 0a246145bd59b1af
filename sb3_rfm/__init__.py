"""
Diffusion and flow policies for online reinforcement learning with Stable-Baselines3, by reverse
flow matching.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sb3_rfm.utils.moved import find_moved_modules
from sb3_rfm.utils.version import __version__

if TYPE_CHECKING:
    from sb3_rfm.algorithms import (
        DACER,
        DPMD,
        DQS,
        FLAME,
        FLAME_M,
        FPMD,
        FPMD_M,
        IDEM,
        LSAC,
        ORWCFM,
        QNE,
        QSM,
        QVPO,
        SAC,
        SDAC,
        DACERv2,
        FlowRL,
        RFMDiffusion,
        RFMFlow,
    )
    from sb3_rfm.algorithms.rfm_flow import AUTHORS
    from sb3_rfm.checkpoints.callback import CheckpointEverything, load_checkpoint
    from sb3_rfm.envs import make_dmc
    from sb3_rfm.population.training import train_population

__all__ = [
    "AUTHORS",
    "DACER",
    "DPMD",
    "DQS",
    "FLAME",
    "FLAME_M",
    "FPMD",
    "FPMD_M",
    "IDEM",
    "LSAC",
    "ORWCFM",
    "QNE",
    "QSM",
    "QVPO",
    "SAC",
    "SDAC",
    "CheckpointEverything",
    "DACERv2",
    "FlowRL",
    "RFMDiffusion",
    "RFMFlow",
    "__version__",
    "load_checkpoint",
    "make_dmc",
    "train_population",
]

_HOMES = {
    **dict.fromkeys(__all__, "sb3_rfm.algorithms"),
    "AUTHORS": "sb3_rfm.algorithms.rfm_flow",
    **dict.fromkeys(("CheckpointEverything", "load_checkpoint"), "sb3_rfm.checkpoints.callback"),
    "make_dmc": "sb3_rfm.envs",
    "train_population": "sb3_rfm.population.training",
}

find_moved_modules()


def __getattr__(name: str) -> Any:
    """
    Import a public name when it is first used, so that ``sb3_rfm.sampling`` needs nothing but
    torch.
    """
    if name not in _HOMES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
