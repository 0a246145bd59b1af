"""RFMDiffusion: a diffusion policy trained by reverse flow matching."""

from sb3_rfm.rfm_diffusion.rfm_diffusion import RFMDiffusion

__all__ = ["RFMDiffusion"]
