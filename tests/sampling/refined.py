"""Refinements that tests of particles and of estimates share."""

import pytest

from sb3_rfm.sampling import MCMC, SMC

every_refinement = pytest.mark.parametrize(
    "refinement", [MCMC(), MCMC(3, 0.3), SMC(), SMC(3, 4, 0.5, 0.8)], ids=repr
)
each = pytest.mark.parametrize("refinement", [MCMC(), SMC()], ids=repr)
