"""Where the noise comes from: the source law p_0 of ``x_0``."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch as th
from torch import Tensor

from sb3_rfm.sampling.registry import Registry, require, require_float


class Source(ABC):
    """
    A law p_0 on R^d that can be sampled and whose log-density and score are known.

    ``has_walls`` says that the density jumps to zero somewhere: then the mean of the score is not
    zero, and nothing that rests on that (Stein's identity, the source's form of the marginal score)
    holds.
    """

    has_walls: bool = False

    @abstractmethod
    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: th.Generator | None = None
    ) -> Tensor:
        """
        Draw independent samples.

        :param shape: shape of the result, the last axis is the dimension
        :param like: gives dtype and device
        :param generator: random generator; torch's global one by default
        :return: noise of that shape
        """

    @abstractmethod
    def log_prob(self, x_0: Tensor) -> Tensor:
        """
        Normalised log-density.

        :param x_0: points, (*S, D)
        :return: (*S)
        """

    @abstractmethod
    def score(self, x_0: Tensor) -> Tensor:
        """
        Gradient of the log-density.

        :param x_0: points, (*S, D)
        :return: (*S, D)
        """


@dataclass(frozen=True)
class Gaussian(Source):
    """The standard normal law N(0, I): ``log p_0 = -|x|²/2 - d log(2 pi)/2``, score ``-x``."""

    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: th.Generator | None = None
    ) -> Tensor:
        return th.randn(shape, dtype=like.dtype, device=like.device, generator=generator)

    def log_prob(self, x_0: Tensor) -> Tensor:
        return -0.5 * (x_0.square().sum(-1) + x_0.shape[-1] * math.log(2 * math.pi))

    def score(self, x_0: Tensor) -> Tensor:
        return -x_0


@dataclass(frozen=True)
class Uniform(Source):
    """
    The uniform law on the cube ``[-h, h]^d``: ``log p_0 = -d log(2 h)`` inside, score 0.

    :param half_width: h; the default has unit variance
    """

    half_width: float = math.sqrt(3.0)

    has_walls = True  # not annotated: a constant of the class, not a field of the dataclass

    def __post_init__(self) -> None:
        _require_positive("half_width", self.half_width)

    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: th.Generator | None = None
    ) -> Tensor:
        uniform = th.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        return self.half_width * (2 * uniform - 1)

    def log_prob(self, x_0: Tensor) -> Tensor:
        inside = (x_0.abs() <= self.half_width).all(-1)
        log_p = x_0.new_tensor(-x_0.shape[-1] * math.log(2 * self.half_width))
        return th.where(inside, log_p, -th.inf)

    def score(self, x_0: Tensor) -> Tensor:
        return th.zeros_like(x_0)


@dataclass(frozen=True)
class Laplace(Source):
    """
    Independent double exponentials: ``log p_0 = -|x|_1 / b - d log(2 b)``, score ``-sign(x) / b``.

    :param scale: b; the default has unit variance (``2 b²``)
    """

    scale: float = math.sqrt(0.5)

    def __post_init__(self) -> None:
        _require_positive("scale", self.scale)

    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: th.Generator | None = None
    ) -> Tensor:
        # the difference of two exponentials
        pair = th.empty((2, *shape), dtype=like.dtype, device=like.device)
        right, left = pair.exponential_(generator=generator).unbind()
        return self.scale * (right - left)

    def log_prob(self, x_0: Tensor) -> Tensor:
        return -x_0.abs().sum(-1) / self.scale - x_0.shape[-1] * math.log(2 * self.scale)

    def score(self, x_0: Tensor) -> Tensor:
        return -x_0.sign() / self.scale


@dataclass(frozen=True)
class StudentT(Source):
    """
    Independent coordinates of Student's law: ``p_0 ∝ prod_j (1 + x_j² / (nu b²))^(-(nu + 1) / 2)``.

    Score ``-(nu + 1) x / (nu b² + x²)``. As nu grows it tends to ``b`` times the standard normal.

    :param degrees: degrees of freedom nu; the variance is infinite up to 2, the mean undefined
        up to 1
    :param scale: b; the defaults have unit variance (``b² nu / (nu - 2)``)
    """

    degrees: float = 5.0
    scale: float = math.sqrt(0.6)

    def __post_init__(self) -> None:
        _require_positive("degrees", self.degrees)
        _require_positive("scale", self.scale)

    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: th.Generator | None = None
    ) -> Tensor:
        # Bailey's polar method (1994): sqrt(nu (u^(-2 / nu) - 1)) cos(2 pi v); float64 for the tail
        pair = th.rand((2, *shape), dtype=th.float64, device=like.device, generator=generator)
        radius = th.expm1(-2 / self.degrees * th.log1p(-pair[0])) * self.degrees
        return (self.scale * radius.sqrt() * th.cos(2 * math.pi * pair[1])).to(like.dtype)

    def log_prob(self, x_0: Tensor) -> Tensor:
        nu, power = self.degrees, 0.5 * (self.degrees + 1)
        log_height = math.lgamma(power) - math.lgamma(0.5 * nu) - 0.5 * math.log(nu * math.pi)
        fall = power * th.log1p((x_0 / self.scale).square() / nu)
        return (log_height - math.log(self.scale) - fall).sum(-1)

    def score(self, x_0: Tensor) -> Tensor:
        return -(self.degrees + 1) * x_0 / (self.degrees * self.scale**2 + x_0.square())


@dataclass(frozen=True)
class GaussianMixture(Source):
    """
    ``p_0 = sum_k w_k N(m_k, s² I)``, score ``sum_k r_k (m_k - x) / s²``, ``r`` the shares at x.

    :param means: m, one tuple of d numbers for each component
    :param scale: s, the standard deviation that all components share
    :param weights: w, positive; scaled to sum to one; equal by default
    """

    means: tuple[tuple[float, ...], ...]
    scale: float = 1.0
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        points = isinstance(self.means, tuple) and all(isinstance(m, tuple) for m in self.means)
        require(points and len(self.means) > 0, "means", self.means, "a tuple of tuples of numbers")
        dims = {len(mean) for mean in self.means}
        require(len(dims) == 1 and 0 not in dims, "means", self.means, "tuples of one length")
        for mean in self.means:
            for number in mean:
                require_float("means", number)
        _require_positive("scale", self.scale)
        if self.weights is not None:
            each = f"a tuple of {len(self.means)} numbers, one for each mean"
            right = isinstance(self.weights, tuple) and len(self.weights) == len(self.means)
            require(right, "weights", self.weights, each)
            for weight in self.weights:
                _require_positive("weights", weight)

    def _parts(self, like: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Means (M, D) and log-weights (M), in the dtype and on the device of ``like``."""
        own = len(self.means[0])
        require(dim == own, "dimension of the source", own, f"that of the points, {dim}")
        means = th.tensor(self.means, dtype=like.dtype, device=like.device)
        weights = like.new_tensor(self.weights or [1.0] * len(self.means))
        return means, (weights / weights.sum()).log()

    def sample(
        self, shape: tuple[int, ...], like: Tensor, generator: th.Generator | None = None
    ) -> Tensor:
        means, log_weights = self._parts(like, shape[-1])
        n = math.prod(shape[:-1])
        part = th.multinomial(log_weights.exp(), n, replacement=True, generator=generator)
        noise = th.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        return means[part].view(shape) + self.scale * noise

    def _log_shares(self, x_0: Tensor) -> Tensor:
        """``log w_k - |x - m_k|² / (2 s²)``, (*S, M)."""
        means, log_weights = self._parts(x_0, x_0.shape[-1])
        squared = (x_0.unsqueeze(-2) - means).square().sum(-1)
        return log_weights - 0.5 * squared / self.scale**2

    def log_prob(self, x_0: Tensor) -> Tensor:
        log_norm = 0.5 * x_0.shape[-1] * math.log(2 * math.pi * self.scale**2)
        return th.logsumexp(self._log_shares(x_0), -1) - log_norm

    def score(self, x_0: Tensor) -> Tensor:
        means, _ = self._parts(x_0, x_0.shape[-1])
        shares = th.softmax(self._log_shares(x_0), -1)
        return (shares @ means - x_0) / self.scale**2


def _require_positive(argument: str, got: float) -> None:
    """Raise unless the argument is a finite number above 0."""
    require_float(argument, got, 0.0)
    require(got > 0, argument, got, f"{argument} > 0")


SOURCES = Registry[Source](
    "source",
    {"gaussian": Gaussian, "uniform": Uniform, "laplace": Laplace, "student_t": StudentT},
)
SourceLike = str | Source
