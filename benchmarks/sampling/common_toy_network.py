"""A small network trained by reverse flow matching, without a sample of the target."""

import itertools
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch as th
from torch import Tensor, nn

from sb3_rfm.sampling import Heun, Refinement, VEGeometric, posterior_mean

LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """
    How a network is trained.

    :param interpolant: variance exploding, in units of the box [-1, 1]^D
    :param estimator: of the posterior means that are regressed on
    :param n_particles: K
    :param refinement: of the particles
    :param rounds: rounds of estimates
    :param points: estimates a round; they stay in a store that the network is fitted to
    :param updates: gradient steps a round
    :param broad_share: share of the x_t that start from a uniform draw of the box, not a sample
    :param spread: standard deviation of the data, for the scaling of inputs and outputs
    :param frequencies: Fourier features a coordinate
    :param limit: largest value of F regressed on, about standard deviations of the noise: far from
        the target the true one is much larger, and of no use
    :param width: of three hidden layers
    :param batch_size: points of a gradient step
    :param learning_rate: Adam's, falling to 1 percent as a cosine
    :param ema: decay of the moving average
    """

    interpolant: VEGeometric
    estimator: str = "bounded"
    n_particles: int = 64
    refinement: Refinement | None = None
    rounds: int = 20
    points: int = 4096
    updates: int = 200
    broad_share: float = 0.25
    spread: float = 0.5
    frequencies: int = 0
    limit: float = 4.0
    width: int = 256
    batch_size: int = 512
    learning_rate: float = 1e-3
    ema: float = 0.995


class Denoiser(nn.Module):
    """
    ``E[X_1 | x_t] = c_skip x_t + c_out F(c_in x_t, log beta)`` (Karras et al. 2022, table 1).

    :param dim: D
    :param recipe: widths and scales
    """

    def __init__(self, dim: int, recipe: Recipe) -> None:
        super().__init__()
        self.interpolant, self.spread = recipe.interpolant, recipe.spread
        self.register_buffer("rates", math.pi * 2.0 ** th.arange(recipe.frequencies))
        n_inputs = dim * (1 + 2 * recipe.frequencies) + 9
        widths = [n_inputs, *[recipe.width] * 3]
        layers = [nn.Sequential(nn.Linear(a, b), nn.SiLU()) for a, b in itertools.pairwise(widths)]
        self.net = nn.Sequential(*layers, nn.Linear(recipe.width, dim))

    def scales(self, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        c_skip, c_out and c_in of the noise.

        :param beta: (B, 1)
        :return: (B, 1) each
        """
        total = beta.square() + self.spread**2
        return self.spread**2 / total, beta * self.spread / total.sqrt(), total.rsqrt()

    def forward(self, x_t: Tensor, beta: Tensor) -> Tensor:
        """
        The posterior mean.

        :param x_t: (B, D)
        :param beta: (B, 1)
        :return: (B, D)
        """
        c_skip, c_out, c_in = self.scales(beta)
        noise = 0.25 * beta.log()
        clock = noise * math.pi * th.tensor([0.5, 1.0, 2.0, 4.0])
        time_features = th.cat([noise, clock.sin(), clock.cos()], 1)
        return c_skip * x_t + c_out * self.correction(x_t, c_in, time_features)

    def correction(self, x_t: Tensor, c_in: Tensor, time_features: Tensor) -> Tensor:
        """
        F: a plain network of the point and its Fourier features.

        :return: (B, D)
        """
        waves = (x_t.unsqueeze(-1) * self.rates).flatten(1)
        return self.net(th.cat([c_in * x_t, waves.sin(), waves.cos(), time_features], 1))

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """``d_beta E[X_0 | x_t]``: alpha is 1, so ``d_beta / beta (x_t - E[X_1 | x_t])``."""
        c = self.interpolant(t)
        beta = c.beta.expand(len(x), 1)
        return c.d_beta / c.beta * (x - self(x, beta))


class PairDenoiser(Denoiser):
    """
    A sum over pairs of particles in the plane: a number for each times the pair's direction.

    The numbers are a plain network's, of all the distances: rotations and reflections turn the
    prediction with the point. As a training batch has its particles in a random order, the network
    learns the permutations.

    :param recipe: widths and scales
    :param differences: first coordinates (3) to differences of the pairs (6), (3, 6)
    """

    def __init__(self, recipe: Recipe, differences: Tensor) -> None:
        super().__init__(differences.shape[1], recipe)
        self.register_buffer("differences", differences)
        pairs = list(itertools.combinations(range(4), 2))
        self.orders = th.tensor(
            [
                [pairs.index(tuple(sorted((order[i], order[j])))) for i, j in pairs]
                for order in itertools.permutations(range(4))
            ]
        )

    def correction(self, x_t: Tensor, c_in: Tensor, time_features: Tensor) -> Tensor:
        first, second = x_t[:, :3] @ self.differences, x_t[:, 3:] @ self.differences
        distances = (first.square() + second.square() + 1e-4).sqrt()
        order = self.orders[th.randint(len(self.orders), ()) if self.training else 0]
        inputs = th.cat([c_in * distances[:, order], time_features], 1)
        pull = self.net(inputs)[:, order.argsort()] / distances
        return th.cat(
            [(pull * first) @ self.differences.T, (pull * second) @ self.differences.T], 1
        )


def draw(
    network: Denoiser,
    n_samples: int,
    dim: int,
    steps: int,
    generator: th.Generator,
    last: float = 1.0,
) -> Tensor:
    """
    Sample a network by Heun's rule, from noise until the time ``last``.

    :return: in units of the box, (n_samples, dim)
    """
    start = network.interpolant(th.zeros(())).beta * th.randn(n_samples, dim, generator=generator)
    with th.no_grad():
        # alpha is 1 at t = 0 too: the marginal there is the noise around the mean of the target
        start = start + network(th.zeros(1, dim), network.interpolant(th.zeros(1, 1)).beta)
        return Heun().solve(network.velocity, start, network.interpolant, steps, (0.0, last))


def train(
    log_density: LogDensity,
    dim: int,
    recipe: Recipe,
    differences: Tensor | None = None,
    seed: int = 0,
) -> Denoiser:
    """
    Regress on estimated posterior means at any x_t that covers the space (Theorem 1).

    ``x_t = x_1 + beta x_0`` with ``x_1`` one of the network's own samples or a uniform draw of the
    box: the target enters by its density alone.

    :param log_density: in units of the box, (*S, D) -> (*S)
    :param dim: D
    :param recipe: how
    :param differences: of the pairs, for a :class:`PairDenoiser`
    :param seed: of the network and the noise
    :return: the moving average of the network
    """
    th.manual_seed(seed)
    generator = th.Generator().manual_seed(seed)
    plain = differences is None
    network = Denoiser(dim, recipe) if plain else PairDenoiser(recipe, differences)
    average = deepcopy(network).eval()
    optimizer = th.optim.Adam(network.parameters(), recipe.learning_rate)
    total = recipe.rounds * recipe.updates
    schedule = th.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: 0.5 * (1 + math.cos(math.pi * min(i / total, 1))) + 1e-2
    )
    store: list[tuple[Tensor, Tensor, Tensor]] = []
    start = time.perf_counter()
    for k in range(recipe.rounds):
        store.append(_estimates(log_density, dim, recipe, average if k else None, generator))
        x_t, beta, mean = (th.cat(part) for part in zip(*store, strict=True))
        losses = []
        for _ in range(recipe.updates):
            i = th.randint(len(x_t), (recipe.batch_size,), generator=generator)
            c_skip, c_out, _ = network.scales(beta[i])
            target = ((mean[i] - c_skip * x_t[i]) / c_out).clamp(-recipe.limit, recipe.limit)
            error = (network(x_t[i], beta[i]) - c_skip * x_t[i]) / c_out - target
            loss = error.square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            with th.no_grad():
                for old, new in zip(average.parameters(), network.parameters(), strict=True):
                    old.lerp_(new, 1 - recipe.ema)
        if (k + 1) % 5 == 0:
            elapsed = time.perf_counter() - start
            print(
                f"  round {k + 1}: loss {sum(losses) / len(losses):.4f}, {elapsed:.0f} s",
                flush=True,
            )
    return average


@th.no_grad()
def _estimates(
    log_density: LogDensity,
    dim: int,
    recipe: Recipe,
    sampler: Denoiser | None,
    generator: th.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Points x_t, their noise beta and estimates of ``E[X_1 | x_t]``."""
    n = recipe.points
    x_1 = 2 * th.rand(n, dim, generator=generator) - 1
    if sampler is not None:
        n_own = round((1 - recipe.broad_share) * n)
        x_1[:n_own] = draw(sampler, n_own, dim, 20, generator).clamp(-1.2, 1.2)
    t = (th.arange(n) + th.rand(n, generator=generator))[th.randperm(n, generator=generator)] / n
    beta = recipe.interpolant(t).beta.unsqueeze(-1)
    x_t = x_1 + beta * th.randn(n, dim, generator=generator)
    means = [
        posterior_mean(
            log_density,
            x,
            time_,
            interpolant=recipe.interpolant,
            estimator=recipe.estimator,
            n_particles=recipe.n_particles,
            bounds=(-1.0, 1.0) if recipe.estimator == "bounded" else None,
            refinement=recipe.refinement,
            generator=generator,
        ).x_1
        for x, time_ in zip(x_t.split(512), t.split(512), strict=True)
    ]
    return x_t, beta, th.cat(means)
