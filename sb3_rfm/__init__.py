"""
Diffusion and flow policies for online reinforcement learning with Stable-Baselines3, by reverse
flow matching.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_rfm.baselines import DPMD, DQS, IDEM, QNE, QSM, QVPO, SAC, SDAC
    from sb3_rfm.checkpoints import CheckpointEverything, load_checkpoint
    from sb3_rfm.envs import make_dmc
    from sb3_rfm.rfm_diffusion import RFMDiffusion
    from sb3_rfm.rfm_flow import RFMFlow

__version__ = "0.1.0"
_BASELINES = ("DPMD", "DQS", "IDEM", "QNE", "QSM", "QVPO", "SAC", "SDAC")
__all__ = [
    "DPMD",
    "DQS",
    "IDEM",
    "QNE",
    "QSM",
    "QVPO",
    "SAC",
    "SDAC",
    "CheckpointEverything",
    "RFMDiffusion",
    "RFMFlow",
    "__version__",
    "load_checkpoint",
    "make_dmc",
]


_HOMES = {
    "RFMFlow": "sb3_rfm.rfm_flow",
    "RFMDiffusion": "sb3_rfm.rfm_diffusion",
    **dict.fromkeys(_BASELINES, "sb3_rfm.baselines"),
    **dict.fromkeys(("CheckpointEverything", "load_checkpoint"), "sb3_rfm.checkpoints"),
    "make_dmc": "sb3_rfm.envs",
}


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
