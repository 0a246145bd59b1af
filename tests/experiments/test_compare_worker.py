"""A comparison's worker: what it says where it cannot write."""

import os
import re
import sys

import pytest
from small_comparisons import a_run

from sb3_rfm.experiments.comparison.runs import LOG
from sb3_rfm.experiments.comparison.worker import _output_to, train_run
from sb3_rfm.experiments.resources import Resources
from sb3_rfm.utils.unwritten import Unwritten

pytestmark = pytest.mark.usefixtures("here")


def test_a_worker_goes_on_without_its_log(tmp_path, monkeypatch):
    run, unwritten = a_run(tmp_path), Unwritten()
    run.path.mkdir(parents=True)
    full = os.open("/dev/full", os.O_WRONLY)

    def say():
        with _output_to(run.path / LOG, unwritten):
            print("seen ±", flush=True)
            os.dup2(full, sys.stdout.fileno())
            print("lost")

    with pytest.warns(UserWarning, match="not written"):
        say()
    os.close(full)
    assert str(unwritten) == f"not written: {run.path / LOG}: No space left on device"
    assert (run.path / LOG).read_bytes() == "seen ±\n".encode()


@pytest.mark.parametrize("unwritable", ["config.yml", LOG])
def test_a_worker_that_cannot_begin_says_why(unwritable, tmp_path):
    run = a_run(tmp_path)
    (run.path / unwritable / "in the way").mkdir(parents=True)
    outcome = train_run(run, Resources("cpu", progress=False), "")
    assert not outcome.finished
    assert re.match(rf"\w+Error: .*{unwritable}", outcome.error)
    assert "\n" not in outcome.error
