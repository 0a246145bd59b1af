"""Two truncated normals in a coordinate: density, and draws of that density."""

import pytest
import torch as th
from analytic import doubles

from sb3_rfm.sampling.numerics.truncated_mixtures import TruncatedMixture
from sb3_rfm.sampling.numerics.truncated_normals import TruncatedNormal

X = th.linspace(-1, 1, 20001, dtype=th.float64)
LAWS = {
    "apart": (doubles(-0.6, 0.4), doubles(0.05, 0.1), 0.3),
    "on the walls": (doubles(-1.5, 3.0), doubles(0.2, 0.4), 0.5),
    "one of them empty": (doubles(-0.6, 0.4), doubles(0.05, 0.1), 1.0),
    "flat and narrow": (doubles(0.0, 0.2), doubles(300.0, 0.03), 0.6),
}


def law(name):
    locs, scales, share = LAWS[name]
    parts = [TruncatedNormal(loc, scale) for loc, scale in zip(locs, scales, strict=True)]
    return TruncatedMixture((parts[0], parts[1]), doubles(share, 1 - share).log())


@pytest.mark.parametrize("name", LAWS)
def test_density_integrates_to_one(name):
    assert float(th.trapezoid(law(name).log_prob(X).exp(), X)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", LAWS)
def test_even_numbers_become_draws_of_the_density(name):
    """Kolmogorov-Smirnov distance of 4000 midpoints: half a step, and the grid's own error."""
    n = 4000
    draws = law(name).icdf((th.arange(n, dtype=th.float64) + 0.5) / n).sort().values
    density = law(name).log_prob(X).exp()
    levels = th.cumulative_trapezoid(density, X)
    exact = levels[th.searchsorted(X[1:], draws).clamp_max(len(levels) - 1)]
    empirical = (th.arange(n, dtype=th.float64) + 0.5) / n
    assert (exact - empirical).abs().max() < 2e-3
    assert draws.abs().max() <= 1
