"""``sb3-rfm report``: its numbers against closed forms, and what it admits."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from rliable import metrics

from sb3_rfm.cli import main as cli
from sb3_rfm.experiments.comparison.definition import Comparison, Entry
from sb3_rfm.experiments.comparison.definition_file import write_comparison
from sb3_rfm.results.aggregates import (
    Estimate,
    improvement,
    interquartile_mean,
    probability_of_improvement,
)
from sb3_rfm.results.curves import Curve, read_curves
from sb3_rfm.results.evaluation_table import TABLE, write_table
from sb3_rfm.results.evaluations import Evaluation
from sb3_rfm.results.scores import parse_ranges, score_table

WALKER, CHEETAH, PENDULUM = "dm_control/walker-walk-v0", "dm_control/cheetah-run-v0", "Pendulum-v1"
LABELS = {"new": 100.0, "sac": 0.0}
NORMAL_QUANTILE = 1.959964  # of 0.975


# ---------------------------------------------------------------- aggregates


def test_the_interquartile_mean_leaves_out_a_quarter_on_either_side():
    scores = np.array([[-1e9, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 1e9]])
    assert interquartile_mean(scores).value == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean(scores[:2, :1]).value == (2 - 1e9) / 2  # a quarter of two is none
    # of a normal sample it is the mean, of an exponential one the integral over the middle half
    sample = np.random.default_rng(0).exponential(size=(200_000, 1))
    a, b = math.log(4 / 3), math.log(4)
    exact = 2 * ((a + 1) * math.exp(-a) - (b + 1) * math.exp(-b))
    trimmed = metrics.aggregate_iqm(sample)
    assert trimmed == pytest.approx(exact, abs=0.01)


def test_the_probability_of_improvement_counts_pairs():
    x, y = np.array([[1.0], [3.0]]), np.array([[0.0], [2.0], [3.0]])
    # 1 beats 0; 3 beats 0 and 2, and ties with 3
    assert probability_of_improvement(x, y).value == pytest.approx((1 + 2 + 0.5) / 6)
    assert improvement(x, x) == 0.5
    assert improvement(x + 10, y) == 1.0
    # averaged over environments, whatever their scales
    two = np.hstack([x, 1e6 * (x + 10)]), np.hstack([y, 1e6 * y])
    assert improvement(*two) == pytest.approx((3.5 / 6 + 1) / 2)
    with pytest.raises(ValueError, match=r"the same environments, got \(2, 1\) and \(3, 2\)"):
        probability_of_improvement(x, two[1])


def test_it_is_that_of_normal_laws():
    # P(X > Y) = Phi(delta / sqrt 2) for unit variances
    generator = np.random.default_rng(0)
    x, y = generator.normal(1.0, size=(2000, 1)), generator.normal(size=(2000, 1))
    exact = 0.5 * (1 + math.erf(1 / 2))
    assert improvement(x, y) == pytest.approx(exact, abs=4 * math.sqrt(0.25 / 2000))


def test_rliable_counts_the_same():
    generator = np.random.default_rng(0)
    for shape in ((3, 2), (6, 3)):
        x = generator.integers(4, size=shape).astype(float)  # with ties
        y = generator.integers(4, size=(5, shape[1])).astype(float)
        assert improvement(x, y) == pytest.approx(metrics.probability_of_improvement(x, y))


def test_the_interval_is_that_of_the_mean_where_nothing_is_trimmed_off():
    # many runs: the interquartile mean of a uniform law has the variance of a trimmed mean
    runs = 400
    scores = np.random.default_rng(0).uniform(size=(runs, 1))
    estimate = interquartile_mean(scores)
    # Var of the middle half's mean, winsorised: (E[w^2]) / (0.5^2 n), w = clip(u - 1/2, +-1/4)
    winsorised = 2 * (0.25**3 / 3 + 0.25 * 0.25**2)
    half = NORMAL_QUANTILE * math.sqrt(winsorised / (0.5**2 * runs))
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.15)
    assert abs(estimate.value - 0.5) < 4 * half / NORMAL_QUANTILE


def test_the_bootstrap_is_stratified():
    # two environments far apart: runs drawn over both together would mix their shares
    scores = np.tile([[0.0, 1000.0]], (6, 1)) + np.arange(6)[:, None] * 1e-3
    estimate = interquartile_mean(scores)
    assert estimate.high - estimate.low < 1e-2


def test_the_interval_is_the_same_each_time_and_leaves_the_generator_alone():
    scores = np.random.default_rng(0).normal(size=(4, 2))
    np.random.seed(3)  # noqa: NPY002
    first = interquartile_mean(scores)
    drawn = np.random.rand()  # noqa: NPY002
    assert interquartile_mean(scores) == first
    np.random.seed(3)  # noqa: NPY002
    assert np.random.rand() == drawn  # noqa: NPY002


def test_one_run_has_no_interval():
    one, two = np.ones((1, 3)), np.zeros((2, 3))
    assert interquartile_mean(one) == Estimate(1.0)
    assert probability_of_improvement(one, two) == Estimate(1.0)
    assert Estimate(0.5).text() == "0.500 (no interval)"
    assert Estimate(0.5, 0.25, 1).text(1) == "0.5 [0.2, 1.0]"


# ---------------------------------------------------------------- scores


def _curve(label="sac", env=WALKER, seed=0, returns=(0.0, 500.0), every=10):
    steps = tuple(every * index for index in range(len(returns)))
    return Curve(label, label, env, seed, steps, tuple(returns), Path("x"))


def test_scores_are_normalised_by_the_rule():
    curves = [
        _curve(),
        _curve(env=PENDULUM, returns=(-1500.0, -300.0)),
        _curve(env="Ant-v5", returns=(1.0, 4000.0)),
    ]
    table = score_table(curves, parse_ranges([f"{PENDULUM}:-1500:0"]))
    values = [score.value for score in table.scores]
    assert values == pytest.approx([0.5, 0.8, 4000.0])
    (other,) = score_table(curves[:1], parse_ranges(["walker-walk:250:750"])).scores
    assert other.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Pendulum-v1", "normalise must be ENV:LOW:HIGH, .*got 'Pendulum-v1'"),
        ("Pendulum-v1:a:1", "normalise must be ENV:LOW:HIGH"),
        ("Pendulum-v1:1:1", "normalise must have LOW < HIGH"),
        ("Pendulum-v1:nan:1", "normalise must have LOW < HIGH"),
        ("Pendulm-v1:0:1", "Unknown environment 'Pendulm-v1'"),
    ],
)
def test_a_wrong_range_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_ranges([text])


def test_runs_that_did_not_get_there_are_left_out_and_named():
    curves = [_curve(), _curve(seed=1, returns=(0.0,)), _curve("td3", returns=(0.0, 600.0))]
    table = score_table(curves, {})
    assert [score.curve.seed for score in table.of("sac", WALKER)] == [0]
    assert table.left_out == [curves[1]]
    assert table.matrix("td3").tolist() == [[0.6]]
    at_0 = score_table(curves, {}, steps=0)
    assert at_0.left_out == []
    assert at_0.matrix("sac").tolist() == [[0.0], [0.0]]
    assert at_0.scores[0].curve.steps == (0,)  # nor is it drawn further
    with pytest.raises(ValueError, match=r"at which runs were evaluated \(0, 10\), got 5"):
        score_table(curves, {}, steps=5)


def test_a_step_past_the_target_is_the_target():
    # with three environments side by side a run ends at 1002
    curves = [_curve(every=1000), _curve("td3", every=1002)]
    table = score_table(curves, {})
    assert (table.steps, table.left_out) == ({WALKER: 1002}, [])


def test_only_environments_of_all_are_aggregated_and_as_many_runs_of_each():
    curves = [_curve(seed=seed, returns=(0.0, 100.0 * seed)) for seed in (2, 0, 1)]
    curves += [_curve(env=CHEETAH, seed=seed, returns=(0.0, 900.0)) for seed in (0, 1)]
    curves += [_curve("td3"), _curve("td3", CHEETAH), _curve("td3", PENDULUM)]
    table = score_table(curves, {})
    assert table.environments() == [WALKER, CHEETAH]
    np.testing.assert_allclose(table.matrix("sac"), [[0.0, 0.9], [0.1, 0.9]])  # the lowest seeds


# ---------------------------------------------------------------- the report


def _rows(label, env, seed, last, steps=(0, 20)):
    return label, [
        Evaluation("sac", env, seed, step, value, 0.5, 5, 1.0, 9.0)
        for step, value in zip(steps, (0.0, last), strict=False)
    ]


def _comparison(folder, seeds=range(5)):
    """Two labels on two environments; ``new`` is 100 better on the first and equal on the other."""
    runs = []
    for seed in seeds:
        for label, more in LABELS.items():
            runs.append(_rows(label, WALKER, seed, 500.0 + 10 * seed + more))
            runs.append(_rows(label, CHEETAH, seed, 200.0))
    folder.mkdir(exist_ok=True)
    write_table(folder / TABLE, runs)
    return runs


def test_the_curves_of_a_comparison_have_its_labels(tmp_path):
    _comparison(tmp_path / "c")
    (tmp_path / "c" / "sac").mkdir()
    (tmp_path / "c" / "sac" / "evaluations.csv").write_text("not read\n")
    curves = read_curves([tmp_path / "c"])
    assert {(curve.label, curve.algorithm) for curve in curves} == {("new", "sac"), ("sac", "sac")}
    assert len(curves) == 20
    assert read_curves([tmp_path / "c" / TABLE]) == curves
    assert cli.main(["plot", str(tmp_path / "c"), "-o", str(tmp_path / "plot.svg")]) == 0
    assert "new, 5 seeds" in (tmp_path / "plot.svg").read_text()


def test_a_report_has_the_numbers_and_how_they_were_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _comparison(Path("c"))
    entries = {"new": Entry("sac", {"gamma": 0.9}), "sac": Entry("sac")}
    comparison = Comparison(entries, (WALKER, CHEETAH), tuple(range(5)), steps=20, eval_freq=20)
    write_comparison(comparison, Path("c"), ["sb3-rfm compare --config mine.yml --folder c"])
    for name, version in (("a", "1.0"), ("b", "2.0")):
        (Path("c") / name).mkdir()
        config = {"settings": {}, "versions": {"torch": "9.9", "gymnasium": version}}
        (Path("c") / name / "config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert cli.main(["report", "c"]) == 0
    text = Path("c/report.md").read_text()
    # means over seeds of 600 + 10 seed and 500 + 10 seed
    assert f"| {WALKER} | new | 5 | 20 | 620.0 [" in text
    assert f"| {WALKER} | sac | 5 | 20 | 520.0 [" in text
    assert f"| {CHEETAH} | sac | 5 | 20 | 200.0 [200.0, 200.0] |" in text
    # of 10 runs the middle six: 0.2 thrice, and the three lowest of the first environment
    assert f"| new | 5 x 2 | {(3 * 0.2 + 0.6 + 0.61 + 0.62) / 6:.3f} [" in text
    # always better on one, equal on the other
    assert "| 0.750 [0.750, 0.750] |" in text
    assert "P(better than sac)" in text
    assert "return / 1000" in text
    assert "at least 5 seeds" in text
    assert "Fewer than" not in text
    assert "sb3-rfm compare --config comparison.yml --folder c\nsb3-rfm report c\n" in text
    assert "gamma: 0.9" in text
    assert "sb3-rfm compare --config mine.yml --folder c" in text
    assert "torch 9.9, gymnasium 1.0 and 2.0. **Not all runs had the same gymnasium.**" in text
    for name in ("learning_curves.png", "aggregates.png"):
        assert f"]({name})" in text
        assert (Path("c") / name).read_bytes().startswith(b"\x89PNG")
    assert not list(Path("c").glob("*unfinished*")) + list(Path("c").glob("*.tmp"))
    printed = capsys.readouterr().out
    assert "| new |" in printed
    assert "Written to c/report.md" in printed


def test_a_report_admits_what_it_rests_on(tmp_path):
    runs = _comparison(tmp_path, seeds=[0])
    runs += [_rows("sac", WALKER, 1, 0.0, steps=(0,)), _rows("sac", PENDULUM, 0, -900.0)]
    runs += [_rows("sac", CHEETAH, 1, 300.0)]
    csv = tmp_path / "mine.csv"
    write_table(csv, runs)
    output = tmp_path / "out"
    arguments = [str(csv), "-o", str(output), "--reference", "new"]
    assert cli.main(["report", *arguments]) == 0
    text = (output / "report.md").read_text()
    assert "P(better than new)" in text
    assert f"new on {WALKER}: 1" in text
    assert "Fewer than 5 seeds" in text
    assert "One seed is an anecdote" in text
    assert "(no interval)" in text
    assert "It is no certainty" not in text
    assert "1 runs have no evaluation at the step reported" in text
    assert f"sac on {WALKER}, seed 1 (step 0)" in text
    assert f"Score on {PENDULUM}: the return as it is" in text
    assert "Environments of different scales are mixed" in text
    assert f"Not aggregated, as some label has no run there: {PENDULUM}." in text
    assert "sac has not as many seeds on each environment" in text
    assert "There is no comparison.yml beside the table" in text


def test_a_probability_of_one_is_called_no_certainty(tmp_path):
    runs = [_rows(label, WALKER, s, s + more) for s in (0, 1) for label, more in LABELS.items()]
    write_table(tmp_path / TABLE, runs)
    assert cli.main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| 1.000 [1.000, 1.000] |" in text
    assert "It is no certainty" in text


def test_a_single_label_is_compared_with_nothing(tmp_path):
    write_table(tmp_path / TABLE, [_rows("td3", PENDULUM, seed, -seed) for seed in range(2)])
    assert cli.main(["report", str(tmp_path), "--normalise", f"{PENDULUM}:-10:0"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| td3 | 2 x 1 | 0.950 [0.900, 1.000] | - |" in text
    assert f"Score on {PENDULUM}: (return - -10) / (0 - -10)." in text


def test_labels_that_share_no_environment_are_not_aggregated(tmp_path):
    write_table(tmp_path / TABLE, [_rows("a", PENDULUM, 0, 1.0), _rows("b", WALKER, 0, 1.0)])
    assert cli.main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "No environment has a run of every label: there is nothing to aggregate." in text
    assert not (tmp_path / "aggregates.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "There is no folder nothing"),
        (["c", "--reference", "ppo"], "reference must be one of new, sac, got 'ppo'"),
        (["c", "--steps", "7"], "steps must be one at which runs were evaluated (0, 20), got 7"),
        (["c", "--normalise", "x"], "normalise must be ENV:LOW:HIGH"),
        (
            ["c", "--normalise", f"{PENDULUM}:0:1"],
            f"normalise: the comparison has no environment {PENDULUM}",
        ),
    ],
)
def test_errors_of_the_user_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _comparison(Path("c"))
    assert cli.main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sb3-rfm: report: ")
    assert message in error
    assert error.count("\n") == 1
    assert not Path("c/report.md").exists()
