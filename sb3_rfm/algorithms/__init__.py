"""What a user picks: each algorithm is a row of choices and a docstring."""

from sb3_rfm.algorithms.dacer import DACER
from sb3_rfm.algorithms.dacerv2 import DACERv2
from sb3_rfm.algorithms.dpmd import DPMD
from sb3_rfm.algorithms.dqs import DQS
from sb3_rfm.algorithms.flame import FLAME
from sb3_rfm.algorithms.flame_m import FLAME_M
from sb3_rfm.algorithms.flowrl import FlowRL
from sb3_rfm.algorithms.fpmd import FPMD
from sb3_rfm.algorithms.fpmd_m import FPMD_M
from sb3_rfm.algorithms.idem import IDEM
from sb3_rfm.algorithms.lsac import LSAC
from sb3_rfm.algorithms.orwcfm import ORWCFM
from sb3_rfm.algorithms.qne import QNE
from sb3_rfm.algorithms.qsm import QSM
from sb3_rfm.algorithms.qvpo import QVPO
from sb3_rfm.algorithms.rfm_diffusion import RFMDiffusion
from sb3_rfm.algorithms.rfm_flow import RFMFlow
from sb3_rfm.algorithms.sac import SAC
from sb3_rfm.algorithms.sdac import SDAC

__all__ = [
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
    "DACERv2",
    "FlowRL",
    "RFMDiffusion",
    "RFMFlow",
]
