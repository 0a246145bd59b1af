"""RFMFlow: a flow policy trained by reverse flow matching."""

from sb3_rfm.rfm_flow.rfm_flow import RFMFlow

__all__ = ["RFMFlow"]
