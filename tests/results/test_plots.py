"""Learning curves: what is read, what is averaged, what is drawn."""

from collections import OrderedDict

import numpy as np
import pytest
import yaml

from sb3_rfm.cli import main as cli
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.results.curves import Curve, aggregate, one_per_seed, read_curves, select, table
from sb3_rfm.results.evaluations import Evaluation
from sb3_rfm.results.plots import draw_comparison, draw_run

WALKER = "dm_control/walker-walk-v0"


def _curve(seed=0, steps=(0, 10, 20), returns=(0.0, 1.0, 2.0), algo="sac", env=WALKER, label=None):
    return Curve(label or algo, algo, env, seed, steps, returns, source=None)


def _write_run(parent, seed, returns=(1.0, 2.0), algo="sac"):
    folder = RunFolder.create(parent, f"{algo}_{seed}")
    for index, value in enumerate(returns):
        folder.append_evaluation(
            Evaluation(algo, WALKER, seed, 10 * index, value, 0.5, 5, float("nan"), 1.0)
        )
    return folder


def _write_zoo_run(parent, seed):
    path = parent / "rfm_flow" / f"dm_control-walker-walk-v0_{seed}"
    (path / "dm_control-walker-walk-v0").mkdir(parents=True)
    arguments = OrderedDict(algo="rfm_flow", env=WALKER, seed=seed, hyperparams={"gamma": 0.9})
    (path / "dm_control-walker-walk-v0" / "args.yml").write_text(yaml.dump(arguments))
    np.savez(path / "evaluations.npz", timesteps=[10, 20], results=[[1.0, 3.0], [4.0, 6.0]])
    return path


def test_runs_of_both_kinds_are_read(tmp_path):
    _write_run(tmp_path, seed=4)
    _write_zoo_run(tmp_path, seed=7)
    ours, zoos = sorted(read_curves([tmp_path]), key=lambda curve: curve.seed)
    assert (ours.algorithm, ours.environment, ours.seed) == ("sac", WALKER, 4)
    assert (ours.steps, ours.returns) == ((0, 10), (1.0, 2.0))
    assert (zoos.algorithm, zoos.environment, zoos.seed) == ("rfm_flow", WALKER, 7)
    assert (zoos.steps, zoos.returns) == ((10, 20), (2.0, 5.0))  # means over episodes


def test_reading_the_zoos_arguments_runs_nothing(tmp_path):
    path = _write_zoo_run(tmp_path, seed=0)
    evil = "!!python/object/apply:os.mkdir [evil]"
    (path / "dm_control-walker-walk-v0" / "args.yml").write_text(evil)
    with pytest.raises(yaml.constructor.ConstructorError):
        read_curves([tmp_path])


def test_files_of_any_name_are_read_and_not_told_apart(tmp_path):
    paths = [tmp_path / f"{name}.csv" for name in ("one", "two")]
    for seed, path in enumerate(paths):
        _write_run(tmp_path / "runs", seed).csv_file.rename(path)
    curves = read_curves(paths)
    assert [(curve.label, curve.seed, curve.source) for curve in curves] == [
        ("sac", seed, path) for seed, path in enumerate(paths)
    ]
    assert cli.main(["plot", *map(str, paths)]) == 0
    assert (tmp_path / "learning_curves.png").stat().st_size > 0


def test_a_file_with_other_columns_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column"):
        read_curves([path])


def test_several_folders_are_told_apart(tmp_path):
    for parent in ("a/runs", "b/runs", "c"):
        _write_run(tmp_path / parent, seed=0)
    labels = [curve.label for curve in read_curves([tmp_path / "a/runs", tmp_path / "c"])]
    assert labels == ["sac (runs)", "sac (c)"]
    labels = [curve.label for curve in read_curves([tmp_path / "a/runs", tmp_path / "b/runs"])]
    assert labels == [f"sac ({tmp_path}/a/runs)", f"sac ({tmp_path}/b/runs)"]
    assert [curve.label for curve in read_curves([tmp_path / "c"])] == ["sac"]


def test_the_interval_is_that_of_the_mean_over_seeds():
    values = np.random.default_rng(0).normal(size=(30, 2))
    curves = [
        _curve(seed, steps=(0, 10), returns=tuple(row)) for seed, row in enumerate(values.tolist())
    ]
    steps, mean, low, high = aggregate(curves)
    np.testing.assert_array_equal(steps, [0, 10])
    np.testing.assert_allclose(mean, values.mean(axis=0))
    # the normal approximation, good to some per cent with 30 seeds
    half = 1.96 * values.std(axis=0) / np.sqrt(30)
    np.testing.assert_allclose(high - low, 2 * half, rtol=0.1)
    np.testing.assert_allclose((high + low) / 2, mean, atol=0.1 * half.max())


def test_only_steps_that_every_seed_has_are_averaged():
    longer = _curve(0, (0, 10, 20), (0.0, 1.0, 9.0))
    shorter = _curve(1, (0, 10), (2.0, 3.0))
    steps, mean, _, _ = aggregate([longer, shorter])
    np.testing.assert_array_equal(steps, [0, 10])
    np.testing.assert_allclose(mean, [1, 2])
    assert "2 seeds, step 10: 2.0" in table([longer, shorter])
    assert "cut there" in table([longer, shorter])
    assert "cut there" not in table([longer])
    with pytest.raises(ValueError, match="never evaluated at the same step"):
        aggregate([longer, _curve(1, (5,), (1.0,))])


def test_one_seed_has_no_interval():
    _, mean, low, high = aggregate([_curve()])
    np.testing.assert_array_equal([low, high], [mean, mean])
    assert table([_curve()]) == f"{WALKER}  sac  1 seed, step 20: 2.0"


def test_two_runs_of_one_seed_count_once():
    short, long, other = _curve(0, (0,), (1.0,)), _curve(0), _curve(1)
    assert one_per_seed([short, long, other]) == ([long, other], [short])


@pytest.mark.parametrize("name", [WALKER, "dm_control-walker-walk-v0", "walker-walk"])
def test_selection(name):
    curves = [_curve(), _curve(algo="td3"), _curve(env="Pendulum-v1")]
    assert select(curves, ["sac"], [name]) == [curves[0]]
    assert select(curves, None, None) == curves
    with pytest.raises(ValueError, match="leave no run; there are sac on Pendulum-v1"):
        select(curves, ["ppo"], None)


def test_pictures_are_drawn(tmp_path):
    curves = [_curve(seed, algo=algo) for seed in range(3) for algo in ("sac", "td3")]
    curves += [_curve(env=f"Env-v{number}") for number in range(5)]  # two rows of panels
    draw_comparison(curves, tmp_path / "new" / "all.png")
    draw_run([Evaluation("sac", WALKER, 0, 0, 1.0, 2.0, 5, 1.0, 1.0)], tmp_path / "one.png")
    for name in ("new/all.png", "one.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_command(tmp_path, capsys):
    for seed in range(2):
        _write_run(tmp_path / "runs", seed, returns=(0.0, 1.0 + seed))
    _write_run(tmp_path / "runs", 1, returns=(5.0,))  # stopped and started again
    output = tmp_path / "picture.svg"
    assert cli.main(["plot", str(tmp_path / "runs"), "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert f"{WALKER}  sac  2 seeds, step 10: 1.5 [1.0, 2.0]" in printed
    assert "Left out, a shorter run of the same seed" in printed
    svg = output.read_text()
    assert "sac, 2 seeds" in svg
    assert "environment steps" in svg
    assert WALKER in svg
