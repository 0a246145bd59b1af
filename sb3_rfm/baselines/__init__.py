"""Algorithms of others, with the choices of ours that a comparison has to hold fixed."""

from sb3_rfm.baselines.dpmd import DPMD
from sb3_rfm.baselines.dqs import DQS
from sb3_rfm.baselines.idem import IDEM
from sb3_rfm.baselines.qne import QNE
from sb3_rfm.baselines.qsm import QSM
from sb3_rfm.baselines.qvpo import QVPO
from sb3_rfm.baselines.sac import SAC
from sb3_rfm.baselines.sdac import SDAC

__all__ = ["DPMD", "DQS", "IDEM", "QNE", "QSM", "QVPO", "SAC", "SDAC"]
