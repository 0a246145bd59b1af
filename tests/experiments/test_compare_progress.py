"""The progress of a comparison: times that are left, and how they are shown."""

import io
import re
import time
from dataclasses import replace

import pytest
from rich.console import Console
from small_comparisons import ENV, a_run

from sb3_rfm.experiments.comparison.display import Lines, Table
from sb3_rfm.experiments.comparison.progress import (
    FAILED,
    FINISHED,
    RUNNING,
    RunProgress,
    duration,
    total_eta,
)
from sb3_rfm.results.evaluations import Evaluation

pytestmark = pytest.mark.usefixtures("here")


def test_times_are_read_off_the_speed(monkeypatch):
    now = iter([10.0, 20.0, 20.0, 40.0])
    monkeypatch.setattr("sb3_rfm.experiments.comparison.progress.time.monotonic", lambda: next(now))
    item = RunProgress(a_run())
    assert (item.eta(), total_eta([item])) == (None, None)
    item.restart()
    item.advance(10)
    assert item.speed() == 0.0
    item.advance(30)  # 20 steps in 10 s, 10 to go
    assert (item.speed(), item.eta()) == (2.0, 5.0)
    other = RunProgress(a_run(), RUNNING)
    other.advance(0)
    other.advance(20)  # a step a second, 20 to go
    waiting = RunProgress(a_run())
    # 70 steps at 4/3 (harmonic) of each of two
    assert total_eta([item, other, waiting]) == pytest.approx(70 / (2 * 4 / 3))
    assert total_eta([item, other]) == 20.0  # the slowest
    item.state, other.state = FINISHED, FAILED
    assert total_eta([item, other]) == 0.0


def test_no_time_is_told_before_a_hundredth_is_done():
    """The evaluation before training is in it."""
    item = RunProgress(replace(a_run(), settings=replace(a_run().settings, steps=1000)), RUNNING)
    for steps, known in ((0, False), (1, False), (9, False), (10, True)):
        time.sleep(0.001)
        item.advance(steps)
        assert (item.eta() is not None) == known


def test_back_to_a_checkpoint_is_no_negative_speed():
    item = RunProgress(a_run(), RUNNING)
    for steps in (0, 30, 10, 20):
        time.sleep(0.01)
        item.advance(steps)
    assert item.speed() > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (121, "3 min"),
        (3900, "1 h 05 min"),
    ],
)
def test_times_in_words(seconds, text):
    assert duration(seconds) == text


def _shown():
    items = [RunProgress(a_run(seed=seed)) for seed in range(25)]
    items[0].state, items[0].steps = RUNNING, 17
    items[0].latest = Evaluation("sac", ENV, 0, 10, -123.4, 0.5, 2, 1.0, 9.0)
    items[1].state, items[1].steps = FINISHED, 40
    items[2].state = FAILED
    return items


def test_the_table_shows_what_runs_first():
    file = io.StringIO()
    with Table(Console(file=file, force_terminal=True, width=120, height=40)) as table:
        table.update(_shown())
        table.event("[something] happened")
    text = file.getvalue()
    assert "[something] happened" in text
    assert re.search(rf"sac +{ENV} +0 +running +17 +40 +-123\.4", text)
    assert "1 of 25 runs finished, step 57 of 1000, 1 failed" in text
    assert "and 5 more" in text
    assert not re.search(rf"sac +{ENV} +1 ", text)  # finished: the least urgent


def test_lines_say_the_same(capsys):
    items = _shown()
    Lines().evaluated(items[0], items)
    assert capsys.readouterr().out == (
        f"sac on {ENV}, seed 0: step 10 of 40, return -123.4, ETA - | "
        "all: 1 of 25 runs finished, step 57 of 1000, 1 failed, ETA -\n"
    )
