"""What a user picks: each algorithm is a row of choices and a docstring."""

from sb3_rfm.algorithms.dpmd import DPMD
from sb3_rfm.algorithms.dqs import DQS
from sb3_rfm.algorithms.idem import IDEM
from sb3_rfm.algorithms.qne import QNE
from sb3_rfm.algorithms.qsm import QSM
from sb3_rfm.algorithms.qvpo import QVPO
from sb3_rfm.algorithms.rfm_diffusion import RFMDiffusion
from sb3_rfm.algorithms.rfm_flow import RFMFlow
from sb3_rfm.algorithms.sac import SAC
from sb3_rfm.algorithms.sdac import SDAC

__all__ = ["DPMD", "DQS", "IDEM", "QNE", "QSM", "QVPO", "SAC", "SDAC", "RFMDiffusion", "RFMFlow"]
