"""What docs/why_not_a_gaussian.md says, with the settings of its pictures."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "learning" / "four_goals_picture.py"


def pictures() -> Any:
    """The script of the pictures."""
    spec = importlib.util.spec_from_file_location("four_goals_picture", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


class OneGoalEach:
    """Heads east, north, west and nowhere, by the episode's number; east and north in one move."""

    MOVES = np.array([[1, 0], [0, 1], [-0.4, 0], [0, 0]], np.float32)

    def predict(self, places: np.ndarray, *_: Any) -> tuple[np.ndarray, None]:
        if len(places) == 8:  # the first move of all
            return np.tile(self.MOVES, (2, 1)), None
        return np.where(places[:, :1] < 0, self.MOVES[2], self.MOVES[3]), None


def test_episodes_are_counted_where_they_end() -> None:
    made = pictures()
    goals, returns, paths = made.episodes(OneGoalEach(), count=8)
    assert goals.tolist() == [0, 1, 2, -1] * 2
    np.testing.assert_array_equal(made.shares(goals), [0.25, 0.25, 0.25, 0])
    assert [len(path) for path in paths[:4]] == [2, 2, 3, 9]
    # west: 1.1 from the goal, then .7; nowhere: -1 for each of the eight moves
    np.testing.assert_allclose(returns[:4], [-1 / 3, -1 / 3, -1.8 / 1.5, -8], rtol=1e-6)


@pytest.mark.slow
def test_the_flow_keeps_four_goals_and_the_gaussian_does_not() -> None:
    made = pictures()
    flow, gaussian = (
        made.shares(made.episodes(made.trained(algorithm, seed=2))[0])
        for algorithm in ("RFMFlow", "SAC")
    )
    assert flow.sum() > 0.95
    assert gaussian.sum() > 0.95
    assert flow.min() > 0.1
    assert np.sort(gaussian)[:2].sum() < 0.1  # one goal, or two that lie opposite


@pytest.mark.slow
def test_the_learnt_law_follows_the_temperature() -> None:
    """Its share on the right, and that near the top of the hills, are the exact law's."""
    made = pictures()
    grid = np.linspace(-1, 1, 2001)
    spreads = []
    for temperature in made.TEMPERATURES:
        actions, exact = made.bandit_actions(temperature), made.law(temperature, grid)
        right = exact[grid > 0].sum() / exact.sum()
        assert np.mean(actions > 0) == pytest.approx(right, abs=0.15)
        top = np.abs(np.abs(grid) - 0.55) < 0.15
        near = np.abs(np.abs(actions) - 0.55) < 0.15
        spreads.append(near.mean())
        assert near.mean() == pytest.approx(exact[top].sum() / exact.sum(), abs=0.15)
    assert spreads[0] > spreads[1] > spreads[2]
