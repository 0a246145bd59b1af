"""Slow: each algorithm learns cartpole-swingup from scratch, ten minutes each on one core."""

from pathlib import Path

import pytest

from sb3_rfm.experiments.resources import Resources
from sb3_rfm.experiments.run import start
from sb3_rfm.experiments.settings import RunSettings


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["rfm_flow", "rfm_diffusion"])
def test_learns_to_swing_up(algo: str, tmp_path: Path) -> None:
    """An untrained policy returns below 10; docs/studies/lighter_updates.md has the curves."""
    settings = RunSettings(algo, "dm_control/cartpole-swingup-v0", steps=30_000, eval_freq=10_000)
    folder, code = start(settings, tmp_path, Resources(progress=False))
    assert code == 0
    rows = folder.evaluations()
    assert rows[0].mean_return < 100
    assert rows[-1].mean_return > 400
