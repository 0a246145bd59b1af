"""The times at which a solver evaluates the velocity."""

import math
from itertools import pairwise

import pytest
import torch as th
from analytic import GAUSSIAN, DiagonalGaussian, doubles, seeded
from solver_cases import every_interpolant, every_solver, field

from sb3_rfm.sampling import DDIM, Euler, Heun, Linear, Midpoint
from sb3_rfm.sampling.solvers import time_grid


@pytest.mark.parametrize(("time_shift", "share"), [(1.0, 0.24), (4.0, 0.50)])
def test_two_steps_draw_a_sharp_law_less_narrow_on_a_shifted_grid(time_shift, share):
    """The share of the spread that is left: no grid of two Euler steps has more than a half."""
    target = DiagonalGaussian(doubles(0.3), doubles(0.25))
    x = doubles(-1.0, 1.0)[:, None]
    ends = Euler().solve(
        field(target, Linear()), x, Linear(), 2, (0.01, 1.0), time_shift=time_shift
    )
    assert float(ends[1] - ends[0]) / 2 == pytest.approx(0.25 * share, abs=0.0025)


def test_time_grid_shifted():
    """``k s / (1 + (k - 1) s)`` of the way, exact at both ends."""
    for dtype in (th.float32, th.float64):
        like = th.zeros(1, dtype=dtype)
        even, crowded = (time_grid(Linear(), 3, (0.01, 1.0), like, k) for k in (1.0, 3.0))
        for grid in (even, crowded):
            assert grid[0].t == th.tensor(0.01, dtype=dtype)
            assert float(grid[-1].t_next) == 1.0
            assert all(one.t_next == two.t for one, two in pairwise(grid))
        assert [float(step.t) for step in even] == pytest.approx([0.01, 0.34, 0.67])
        assert [float(step.t) for step in crowded] == pytest.approx(
            [0.01, 0.604, 0.01 + 0.99 * 6 / 7]
        )


@every_interpolant
@pytest.mark.parametrize("solver", [Euler(), Heun(), DDIM()], ids=repr)
def test_a_part_of_the_path(solver, interpolant):
    x = doubles(1.0, -0.7, 0.4)[None]
    exact = GAUSSIAN.flow(interpolant(doubles(0.2)), interpolant(doubles(0.7)), x)
    end = solver.solve(field(GAUSSIAN, interpolant), x, interpolant, 200, t_range=(0.2, 0.7))
    assert float((end - exact).norm()) < 0.02
    assert float((end - x).norm()) > 0.2


@every_solver
@pytest.mark.parametrize("t_range", [(0.0, 1.0), (0.1, 0.6)])
def test_velocity_is_never_evaluated_at_the_last_time(solver, t_range):
    times = []

    def velocity(x, t):
        assert t.shape == ()
        times.append(float(t))
        return field(GAUSSIAN, Linear())(x, t)

    steps = 5
    x = doubles(1.0, -0.7, 0.4)[None]
    end = solver.solve(velocity, x, Linear(), steps, t_range, generator=seeded(0))
    assert end.isfinite().all()
    evaluations = {Heun: 2 * steps - 1, Midpoint: 2 * steps}
    assert len(times) == evaluations.get(type(solver), steps)
    assert times[0] == t_range[0]
    parts = 2 * steps if isinstance(solver, Midpoint) else steps  # the middles of steps, too
    grid = th.linspace(*t_range, parts + 1, dtype=th.float64)[:-1].tolist()
    assert sorted(set(times)) == pytest.approx(grid)


@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_bad_number_of_steps(steps, error):
    with pytest.raises(error, match="steps"):
        Euler().solve(lambda x, t: x, doubles(1.0)[None], Linear(), steps)


@pytest.mark.parametrize(
    "t_range", [(0.7, 0.2), (0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0), (0.0, 0.5, 1.0)]
)
def test_bad_t_range(t_range):
    with pytest.raises(ValueError, match=r"^t_range must satisfy: .*0 <= first < last <= 1; got"):
        Euler().solve(lambda x, t: x, doubles(1.0)[None], Linear(), 4, t_range)


@pytest.mark.parametrize(
    ("time_shift", "error"),
    [(0.0, ValueError), (-1.0, ValueError), (math.inf, ValueError), ("even", TypeError)],
)
def test_bad_time_shift(time_shift, error):
    with pytest.raises(error, match=r"^time_shift must"):
        Euler().solve(
            lambda x, t: x, doubles(1.0)[None], Linear(), 4, (0.0, 1.0), time_shift=time_shift
        )
