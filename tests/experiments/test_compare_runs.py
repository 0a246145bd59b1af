"""The runs that lie in a comparison's folder, and the table of their evaluations."""

import math

import pytest
from small_comparisons import ENV, a_run, given_with, made
from systems import Disk

from sb3_rfm.experiments.comparison.definition import Comparison
from sb3_rfm.experiments.comparison.request import define
from sb3_rfm.experiments.comparison.runs import EvaluationTable, by_state, runs_of
from sb3_rfm.experiments.resources import Resources
from sb3_rfm.experiments.run import start
from sb3_rfm.results.evaluation_table import TABLE, TABLE_COLUMNS, read_table, write_table
from sb3_rfm.results.evaluations import Evaluation

pytestmark = pytest.mark.usefixtures("here")


def test_other_settings_are_refused(tmp_path):
    comparison = define(given_with())
    (run,) = runs_of(comparison, tmp_path)
    assert run.path == tmp_path / f"sac__{ENV}__seed0"
    start(run.settings, resources=Resources("cpu", progress=False), folder=made(run))
    assert run.is_finished()
    assert by_state(runs_of(define({"steps": 90}, comparison), tmp_path))["finished"] == []
    config = run.folder.read_config()
    config["settings"]["hyperparams"]["gamma"] = 0.5  # a default changed in the meantime
    run.folder.write_config(config)
    with pytest.raises(ValueError, match=r"other settings: got hyperparams .*there is .*0\.5"):
        runs_of(comparison, tmp_path)


@pytest.mark.parametrize("other", ["a", "A"])  # one name on Windows and macOS
def test_runs_that_would_share_a_folder_are_refused(other, tmp_path, monkeypatch):
    settings = [(label, a_run().settings) for label in ("a", other)]
    monkeypatch.setattr(Comparison, "settings", lambda self: settings)
    with pytest.raises(ValueError, match="two of them would share the folders"):
        runs_of(define(given_with()), tmp_path)


def test_the_table_follows_the_runs(tmp_path):
    runs = [a_run(tmp_path, seed, label) for label in ("sac", "mine") for seed in (0, 1)]
    table = EvaluationTable(runs, tmp_path / TABLE)
    assert table.refresh() == []
    assert (tmp_path / TABLE).read_text().strip() == ",".join(TABLE_COLUMNS)
    rows = [Evaluation("sac", ENV, 1, steps, -steps, 0.5, 2, math.nan, 9.0) for steps in (0, 10)]
    folder = made(runs[3])
    for row in rows:
        folder.append_evaluation(row)
        assert table.refresh() == [runs[3]]
        assert table.refresh() == []
    ((key, read),) = read_table(tmp_path / TABLE).items()
    assert key == ("mine", ENV, 1)
    assert [(row.steps, row.mean_return) for row in read] == [(0, 0), (10, -10)]
    folder.drop_evaluations_after(0)  # back to a checkpoint
    assert table.refresh() == [runs[3]]
    assert len(read_table(tmp_path / TABLE)[key]) == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [TABLE]  # nothing aside


def test_a_table_on_a_full_disk_is_written_with_what_comes(tmp_path, monkeypatch):
    run = a_run(tmp_path)
    table, folder = EvaluationTable([run], tmp_path / TABLE), made(run)
    rows = [Evaluation("sac", ENV, 0, steps, 0.0, 0.5, 2, 1.0, 9.0) for steps in (0, 10)]
    folder.append_evaluation(rows[0])
    disk = Disk(monkeypatch)
    with (
        disk.failing(),
        pytest.warns(UserWarning, match=f"{TABLE} is not written: No space") as seen,
    ):
        assert [table.refresh() for _ in range(3)] == [[run], [], []]
    assert len(seen) == 1  # it is not tried all the time
    assert str(table.unwritten) == f"not written: {table.path}: No space left on device"
    folder.append_evaluation(rows[1])
    assert table.refresh() == [run]
    assert not table.unwritten
    ((_, read),) = read_table(tmp_path / TABLE).items()
    assert read == rows


def test_a_broken_table_is_refused(tmp_path):
    path = tmp_path / TABLE
    write_table(path, [("a", [Evaluation("sac", ENV, 0, 0, 1.0, 0.5, 2, 1.0, 9.0)])])
    path.write_text(path.read_text().replace(",1.0,0.5", ",one,0.5"))
    with pytest.raises(ValueError, match="line 2: could not convert string to float: 'one'"):
        read_table(path)
    path.write_text("label,steps\na,1\n")
    with pytest.raises(ValueError, match="has no column algorithm"):
        read_table(path)
