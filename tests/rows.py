"""The algorithms that are rows of settings, and what they have no use for."""

import sb3_rfm
from sb3_rfm.experiments.hyperparams import OWN_ALGORITHMS

ROWS = tuple(place.rpartition(":")[2] for place in OWN_ALGORITHMS.values())
BASELINES = tuple(name for name in ROWS if not name.startswith("RFM"))


def particles_of(name: str) -> int | None:
    """The particles of a row's estimator; None where it has none of its own to choose."""
    estimator = getattr(sb3_rfm, name).defaults.estimator
    return None if estimator is None else estimator.n_particles


WITHOUT_PARTICLES = tuple(name for name in ROWS if particles_of(name) is None)
WITHOUT_TEMPERATURE = tuple(
    name for name in ROWS if not getattr(sb3_rfm, name).defaults.uses_temperature
)
