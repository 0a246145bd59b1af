"""The laws on a box that are fitted to policy samples and to the target's slope."""

import pytest
import torch as th
from analytic import doubles, seeded

from sb3_rfm.sampling import Linear
from sb3_rfm.sampling.estimators.box_fits import guided_proposal, laplace_proposal
from sb3_rfm.sampling.estimators.proposals import bridge


@pytest.mark.parametrize("start", [-0.9, 0.2, 1.0])
@pytest.mark.parametrize("curvature", [0.0, 3.0, 400.0])
def test_local_is_the_posterior_of_a_quadratic(curvature, start):
    """Independent coordinates, steep or flat, the mode in the box or far outside."""
    slope = doubles(40.0, -3.0)

    def quadratic(x):
        return (slope * x - 0.5 * curvature * x.square()).sum(-1)

    law = bridge(Linear()(doubles(0.3)), doubles(0.5, -0.2).expand(3, 2))
    fitted = laplace_proposal(law, quadratic, doubles(start).expand(3, 2))
    x = th.linspace(-0.9, 0.9, 7, dtype=th.float64).view(7, 1, 1)
    target = slope * x - 0.5 * curvature * x.square()
    difference = fitted.log_prob(x) - law.log_prob(x) - target
    th.testing.assert_close(difference, difference[:1].expand_as(difference), rtol=0, atol=1e-8)


def test_local_needs_no_curvature_where_the_target_is_convex():
    law = bridge(Linear()(doubles(0.3)), doubles(0.5, -0.2).expand(3, 2))
    fitted = laplace_proposal(law, lambda x: 30 * x.square().sum(-1), doubles(0.1).expand(3, 2))
    th.testing.assert_close(fitted.scale, law.scale)
    assert fitted.loc.isfinite().all()


def test_guided_is_the_product_of_the_bridge_and_the_fitted_normal():
    law = bridge(Linear()(doubles(0.6)), doubles(0.5, -0.2).expand(3, 2))
    samples = th.randn(5, 3, 2, dtype=th.float64, generator=seeded(12)) * 0.3 + 0.4
    product = guided_proposal(law, samples, widening=1.7, floor=0.01)
    fitted = th.distributions.Normal(samples.mean(0), (1.7 * samples.var(0)).sqrt())
    x = th.linspace(-0.9, 0.9, 7, dtype=th.float64).view(7, 1, 1)
    difference = product.log_prob(x) - law.log_prob(x) - fitted.log_prob(x)
    th.testing.assert_close(difference, difference[:1].expand_as(difference))
    equal_samples = th.full((5, 3, 2), 0.4, dtype=th.float64)
    narrow = guided_proposal(law, equal_samples, widening=1.7, floor=0.2)
    assert (narrow.scale < 0.2).all()
    assert (narrow.scale > 0.15).all()
