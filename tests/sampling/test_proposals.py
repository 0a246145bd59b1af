import pytest
import torch as th
from analytic import ALL_INTERPOLANTS, doubles, seeded
from scipy import stats

from sb3_rfm.sampling import Linear
from sb3_rfm.sampling.estimators.proposals import Prior


@pytest.mark.parametrize("interpolant", ALL_INTERPOLANTS, ids=repr)
def test_particles_mix_to_x_t(interpolant):
    x_t = doubles(0.3, -1.0, 0.8, 2.0).view(2, 2)
    c = interpolant(doubles(0.3, 0.9)[:, None])
    x_0, x_1, log_ratio = Prior()(c, x_t, 50, seeded(0))
    assert x_0.shape == x_1.shape == (50, 2, 2)
    assert log_ratio.shape == (50, 2)
    th.testing.assert_close(c.alpha * x_1 + c.beta * x_0, x_t.expand(50, 2, 2))


def test_prior_draws_independent_standard_noise_with_a_constant_ratio():
    x_t = doubles(5.0, -7.0)[:, None]
    x_0, _, log_ratio = Prior()(Linear()(doubles(0.5)), x_t, 5000, seeded(0))
    for row in x_0.squeeze(-1).T:
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-3  # level 1e-3
    assert stats.pearsonr(*x_0.squeeze(-1).T.numpy()).pvalue > 1e-3
    assert th.equal(log_ratio, log_ratio[:1].expand_as(log_ratio))


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_dtype_and_generator(dtype):
    x_t = th.tensor([[0.4]], dtype=dtype)
    c = Linear()(th.tensor(0.5, dtype=dtype))
    first, again, other = (Prior()(c, x_t, 3, seeded(s)) for s in (1, 1, 2))
    assert {part.dtype for part in first} == {dtype}
    assert th.equal(first.x_0, again.x_0)
    assert not th.equal(first.x_0, other.x_0)
