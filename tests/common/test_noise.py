"""The noise from which actions are drawn, random or fixed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit

from sb3_rfm import RFMFlow
from sb3_rfm.common.noise import TIME_SCALES, PinkNoise, fixed_noise

N_STEPS, N_SERIES = 4096, 400


@pytest.fixture(scope="module")
def series() -> np.ndarray:
    """Draws of a process, (N_STEPS, N_SERIES)."""
    np.random.seed(0)  # noqa: NPY002
    process = PinkNoise()
    return np.array([process((N_SERIES,)) for _ in range(N_STEPS)])


@pytest.mark.parametrize("step", [0, 1, 100, N_STEPS - 1])
def test_each_draw_is_standard_normal(series: np.ndarray, step: int) -> None:
    draw = series[step]
    assert abs(draw.mean()) < 4 / np.sqrt(N_SERIES)
    assert abs(draw.var() - 1) < 4 * np.sqrt(2 / N_SERIES)


@pytest.mark.parametrize("lag", [1, 4, 30, 200])
def test_draws_are_correlated_as_first_order_processes_are(series: np.ndarray, lag: int) -> None:
    measured = (series[lag:] * series[:-lag]).mean()
    assert measured == pytest.approx(np.exp(-lag / TIME_SCALES).mean(), abs=0.02)


def test_the_spectrum_is_close_to_one_over_frequency(series: np.ndarray) -> None:
    power = (np.abs(np.fft.rfft(series, axis=0)) ** 2).mean(1)
    frequency = np.fft.rfftfreq(N_STEPS)
    between = (frequency > 1 / 1000) & (frequency < 1 / 5)
    slope, _ = np.polyfit(np.log(frequency[between]), np.log(power[between]), 1)
    assert slope == pytest.approx(-1, abs=0.2)


def test_another_shape_starts_anew() -> None:
    process = PinkNoise()
    assert process((2, 3)).shape == (2, 3)
    assert process((4, 3)).shape == (4, 3)


def model(**changes: Any) -> RFMFlow:
    settings = {"learning_starts": 5, "buffer_size": 100, "batch_size": 8, "device": "cpu"}
    return RFMFlow("MlpPolicy", Bandit(), seed=0, **{**settings, **changes})


def starts(one: RFMFlow, steps: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Where the flow starts at each step that explores, (steps, M, 1, D)."""
    found: list[np.ndarray] = []
    draw = one.actor.sample_noise

    def watched(rows: th.Tensor, n_candidates: int, deterministic: bool = False) -> th.Tensor:
        points = draw(rows, n_candidates, deterministic)
        if len(rows) == 1:
            found.append(points.numpy())
        return points

    monkeypatch.setattr(one.actor, "sample_noise", watched)
    one.learn(steps + one.learning_starts, reset_num_timesteps=False)
    return np.array(found)[-steps:]


@pytest.mark.parametrize(
    ("color", "expected"), [("pink", np.exp(-1 / TIME_SCALES).mean()), ("white", 0.0)]
)
def test_training_draws_exploring_actions_from_the_colour(
    color: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = model(candidates={"noise_color": color, "n": 50}, gradient_steps=1, train_freq=1_000)
    noise = starts(one, 60, monkeypatch) / 0.99
    assert (noise[1:] * noise[:-1]).mean() == pytest.approx(expected, abs=0.2)
    assert noise.var() == pytest.approx(1, abs=0.2)


def test_predictions_elsewhere_neither_see_nor_move_the_process() -> None:
    one = model().learn(10)
    parts = one.noise_process.parts
    assert parts.shape == (len(TIME_SCALES), one.candidates.n, 1, 2)
    one.predict(np.zeros((7, 3), np.float32), deterministic=False)
    one.train(2, 8)
    assert one.noise_process.parts is parts
    assert one.actor.noise_process is None


def test_a_loaded_model_goes_on_with_its_noise(tmp_path: Path) -> None:
    one = model().learn(10)
    one.save(tmp_path / "model")
    loaded = RFMFlow.load(tmp_path / "model", env=Bandit())
    assert (loaded.noise_process.parts == one.noise_process.parts).all()
    white = RFMFlow.load(tmp_path / "model", env=Bandit(), candidates={"noise_color": "white"})
    assert white.noise_process is None


def test_a_colour_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise_color must .*'white' or 'pink'; got 'brown'"):
        model(candidates={"noise_color": "brown"})


def test_fixed_noise_is_even_and_begins_at_the_origin() -> None:
    noise = fixed_noise(256, 3, th.device("cpu"))[:, 0]
    assert (noise[0] == 0).all()
    assert (
        noise.mean(0).abs().max() < 0.05
    )  # a pseudo-random set of 256 would have .06 as one standard error
    assert (noise.std(0) - 1).abs().max() < 0.05
