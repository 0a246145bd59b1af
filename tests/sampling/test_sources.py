import torch as th
from analytic import doubles, seeded
from scipy import stats

from sb3_rfm.sampling import Gaussian


def test_samples_follow_the_standard_normal_law():
    x_0 = Gaussian().sample((5000, 2), like=doubles(0.0), generator=seeded(0))
    for coordinate in x_0.T:
        # Level 1e-3; the premise: a mean off by a fifth would have been seen.
        assert stats.kstest(coordinate.numpy(), "norm").pvalue > 1e-3
        assert stats.kstest(coordinate.numpy() + 0.2, "norm").pvalue < 1e-3
    correlation = stats.pearsonr(*x_0.T.numpy())
    assert correlation.pvalue > 1e-3


def test_log_density_is_normalised_and_score_is_its_gradient():
    x_0 = doubles(0.3, -2.0, 1.1).view(1, 3).repeat(4, 1) * doubles(1, 2, 0, -3)[:, None]
    x_0.requires_grad_()
    log_p = Gaussian().log_prob(x_0)
    exact = stats.multivariate_normal(mean=[0, 0, 0]).logpdf(x_0.detach().numpy())
    th.testing.assert_close(log_p.detach(), th.from_numpy(exact))
    (gradient,) = th.autograd.grad(log_p.sum(), x_0)
    th.testing.assert_close(Gaussian().score(x_0.detach()), gradient)


def test_takes_dtype_from_like_and_numbers_from_the_generator():
    draw = [Gaussian().sample((3, 2), like=th.zeros(1), generator=seeded(s)) for s in (1, 1, 2)]
    assert draw[0].dtype == th.float32
    assert draw[0].shape == (3, 2)
    assert th.equal(draw[0], draw[1])
    assert not th.equal(draw[0], draw[2])
