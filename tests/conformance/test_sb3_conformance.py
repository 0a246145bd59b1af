"""The machinery of ``make conformance``, on a few tests that know what should become of them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rows import WITHOUT_PARTICLES
from sb3_conformance import CLASSES, Skip, read_skips, stand_in
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

import sb3_rfm

TESTS = """
import pytest
from stable_baselines3 import SAC, TD3

TABLE = {"sac": (SAC, 1), "td3": (TD3, 2)}


@pytest.mark.parametrize("model_class", [SAC, TD3])
def test_parameter(model_class):
    assert model_class is SAC and SAC.__name__ == "SAC" and SAC.__module__.startswith("sb3_rfm")


def test_by_name():
    def inner():
        return SAC
    assert inner() is not TD3


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_table(name):
    assert TABLE[name][0] is SAC


def test_fails():
    assert SAC is None


def test_left_out():
    assert SAC is None


def test_fault():
    assert SAC is None


def test_mended():
    assert SAC


def test_sb3_skips():
    pytest.skip(str(SAC))


def test_about_something_else():
    assert False
"""
SKIPS = [
    {"tests": "test_fake.py::test_left_*", "reason": "a reason"},
    {"tests": "test_fake.py::test_fault", "reason": "a fault", "fault": True},
    {"tests": "test_fake.py::test_mended", "reason": "mended", "fault": True},
    {"tests": "test_fake.py::test_gone", "reason": "no such test"},
    {"tests": "test_fake.py::test_other", "reason": "of another class", "classes": ["QNE"]},
    {"tests": "test_fake.py::test_other", "reason": "of another place", "place": "TD3"},
]


def outcome(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report of a run over the tests above."""
    tests, report, skips = folder / "tests", folder / "report.json", folder / "skips.yml"
    tests.mkdir()
    (tests / "test_fake.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    skips.write_text(yaml.safe_dump(SKIPS))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "sb3_conformance", "--ours", "RFMFlow"]
    command += ["--in-place-of", "SAC", "--report", str(report), "--skips", str(skips)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [*command, *options], cwd=tests, env=environment, capture_output=True, timeout=120
    )
    return done.returncode, json.loads(report.read_text())


def test_what_becomes_of_each_test(tmp_path: Path) -> None:
    status, found = outcome(tmp_path)
    assert status == 1
    assert found["counts"] == {
        "passed": 3,
        "failed": 1,
        "skipped": 1,
        "known faults": 1,
        "needless": 1,
        "skipped by SB3": 1,
    }
    assert found["failed tests"] == ["tests/test_fake.py::test_fails"]
    assert found["needless tests"] == ["tests/test_fake.py::test_mended"]
    assert found["stale"] == ["test_fake.py::test_gone"]


def test_a_stale_entry_alone_is_an_error(tmp_path: Path) -> None:
    status, found = outcome(tmp_path, "-k", "by_name or left_out or fault")
    assert set(found["counts"]) == {"passed", "skipped", "known faults"}
    assert found["stale"]
    assert status == 1


def test_every_public_class_is_tested() -> None:
    public = {name: getattr(sb3_rfm, name) for name in sb3_rfm.__all__}
    algorithms = {
        name
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, OffPolicyAlgorithm)
    }
    assert set(CLASSES) == algorithms


@pytest.mark.parametrize("name", CLASSES)
def test_a_stand_in_is_the_class_itself_with_other_numbers(name: str) -> None:
    stand = stand_in(name, "TD3")
    assert issubclass(stand, getattr(sb3_rfm, name))
    assert stand.__name__ == "TD3"
    model = stand("MlpPolicy", "Pendulum-v1", learning_rate=0.02, buffer_size=9)
    if name == "LSAC":
        assert model.critic_learning_rate == 0.02
    elif name != "SAC":
        assert model.critic_update.learning_rate == 0.02
        assert model.candidates.n == 2
        assert model.flow.steps <= 5
        number = model.estimator and model.estimator.n_particles
        assert (number is None) == (name in WITHOUT_PARTICLES)
        assert number is None or number < 10
        own, shown = getattr(sb3_rfm, name).defaults, model.settings
        assert shown.actor_update == own.actor_update
        assert shown.flow == replace(own.flow, steps=shown.flow.steps)


def test_a_stand_ins_critics_have_the_other_settings_that_a_test_gives() -> None:
    given = {"critic_update": {"reward_scale": 0.5}, "candidates": {"evaluate": 3}}
    model = stand_in("RFMFlow", "SAC")(
        "MlpPolicy", "Pendulum-v1", learning_rate=0.02, buffer_size=9, **given
    )
    assert model.critic_update.learning_rate == 0.02
    assert model.critic_update.reward_scale == 0.5
    assert (model.candidates.n, model.candidates.evaluate) == (2, 3)


def test_each_entry_has_a_reason() -> None:
    for skip in read_skips():
        assert len(skip.reason) > 10
        assert skip.classes
    for wrong in ({"classes": ["PPO"]}, {"but": ["PPO"]}, {"place": "PPO"}):
        with pytest.raises(ValueError, match="PPO"):
            Skip("test_a.py::*", "a reason", **wrong)
