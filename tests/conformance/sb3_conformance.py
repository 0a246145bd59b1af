"""
Pytest plugin: one of our classes takes the place of SAC or TD3 in Stable-Baselines3's own tests.

``run.py`` beside it starts pytest with it. Importing it changes nothing; the class is put in place
when pytest is configured, before any test module is imported, so that in those modules the name SAC
(or TD3) means our class in every parametrisation and in every branch.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from inspect import signature
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import yaml

SKIPS_FILE = Path(__file__).with_name("skips.yml")
PLACES = ("SAC", "TD3")
CLASSES = (
    "RFMFlow",
    "RFMDiffusion",
    "QNE",
    "DQS",
    "IDEM",
    "SDAC",
    "DPMD",
    "QSM",
    "QVPO",
    "FLAME",
    "FLAME_M",
    "FPMD",
    "FPMD_M",
    "ORWCFM",
    "DACER",
    "DACERv2",
    "FlowRL",
    "LSAC",
    "SAC",
)
# What only costs time: the suite is about SB3's contract, not about the quality of the actions.
# Fewer than eight particles do not always learn the identity in the 400 steps that SB3 gives them.
SMALL = {"estimator": {"n_particles": 8}, "candidates": {"n": 2, "evaluate": 8}}
SAMPLING_STEPS = 5


class Skip:
    """
    One entry of ``skips.yml``.

    :param tests: test id with ``*`` for anything, such as ``test_sde.py::*``
    :param reason: why the test cannot hold
    :param place: "SAC" or "TD3"; both by default
    :param classes: our classes for which it holds; all by default
    :param but: our classes for which it does not hold
    :param fault: ours, to be mended: the test runs and has to fail, so that the entry goes with the
        fault
    :raises ValueError: a place or a class that there is not
    """

    def __init__(
        self,
        tests: str,
        reason: str,
        place: str | None = None,
        classes: Iterable[str] = CLASSES,
        but: Iterable[str] = (),
        fault: bool = False,
    ) -> None:
        unknown = sorted({*classes, *but} - set(CLASSES))
        if unknown or place not in (None, *PLACES):
            raise ValueError(
                f"{SKIPS_FILE.name}: {tests}: place must be one of {PLACES}, classes and but names "
                f"of {CLASSES}; got place {place!r} and classes {unknown}"
            )
        self.tests, self.reason, self.place, self.fault = tests, reason, place, fault
        self.classes = set(classes) - set(but)
        self.pattern = re.compile(".*".join(map(re.escape, tests.split("*"))))

    def holds(self, name: str, place: str) -> bool:
        """Whether it is about this class in this place."""
        return name in self.classes and self.place in (None, place)

    def mark(self, run_skipped: bool) -> pytest.MarkDecorator:
        """
        What the tests are marked with.

        :param run_skipped: run them all, and report what passes
        """
        reason = f"{SKIPS_FILE.name}: {self.reason}"
        if self.fault or run_skipped:
            return pytest.mark.xfail(reason=reason, strict=True)
        return pytest.mark.skip(reason=reason)


def read_skips(path: Path = SKIPS_FILE) -> list[Skip]:
    """The entries of the file of skips."""
    return [Skip(**entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]


def stand_in(name: str, place: str) -> type:
    """
    One of our public classes under the name of SB3's that it stands in for (which is in the tests'
    ids, and in the TensorBoard folder that one of them expects).

    Its numbers of particles, candidates and solver steps are small by default, and the critics
    learn at the ``learning_rate`` of the test, as SB3's do, instead of at one of their own.

    :param name: of our class
    :param place: "SAC" or "TD3"
    :return: a subclass
    """
    import sb3_rfm
    from sb3_rfm.experiments.hyperparams import merged

    cls = getattr(sb3_rfm, name)
    if not hasattr(cls, "defaults"):
        return type(place, (cls,), {"__module__": cls.__module__, **_one_rate(cls)})
    own = cls.defaults
    small = {**SMALL, "flow": {"steps": min(own.flow.steps, SAMPLING_STEPS)}}
    if own.estimator is None or own.estimator.n_particles is None:  # they have no particles
        del small["estimator"]
    if own.candidates.train is not None:
        small["candidates"] = {**SMALL["candidates"], "train": SMALL["candidates"]["n"]}

    def init(self: Any, *args: Any, learning_rate: Any = 3e-4, **kwargs: Any) -> None:
        rates = {"learning_rate": learning_rate, "critic_update": {"learning_rate": learning_rate}}
        # SAC's returns, for which SB3 sets what has to be learnt in 400 steps
        cls.__init__(self, *args, **merged({"n_steps": 1, **rates}, kwargs))

    body = {"__module__": cls.__module__, "__init__": init, "defaults": own.changed(small)}
    return type(place, (cls,), body)


def _one_rate(cls: Any) -> dict[str, Any]:
    """A constructor for a class like SAC whose critics would have a learning rate of their own."""
    if "critic_learning_rate" not in signature(cls).parameters:
        return {}

    def init(self: Any, *args: Any, learning_rate: Any = 3e-4, **kwargs: Any) -> None:
        rates = {"learning_rate": learning_rate, "critic_learning_rate": learning_rate}
        cls.__init__(self, *args, **rates | kwargs)

    return {"__init__": init}


def names_in(code: CodeType) -> set[str]:
    """Global names that a function uses, its inner functions included."""
    inner = (names_in(const) for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*inner)


def concerns(item: pytest.Item, ours: type, used: set[str], scope: dict[str, Any]) -> bool:
    """
    Whether a test is about our class.

    It is where a parameter is the class, or the key of a table of the module that holds it; and
    where the test has no algorithm as a parameter, but uses the class by name.

    :param item: the test
    :param ours: the class in SAC's or TD3's place
    :param used: the global names that the test uses
    :param scope: the module's globals
    """
    from stable_baselines3.common.base_class import BaseAlgorithm

    callspec = getattr(item, "callspec", None)
    values = list(callspec.params.values()) if callspec else []
    algorithms = {v for v in values if isinstance(v, type) and issubclass(v, BaseAlgorithm)}
    if algorithms:
        return ours in algorithms
    tables = [scope[name] for name in used if isinstance(scope.get(name), dict)]
    rows = [t[v] for t in tables for v in values if isinstance(v, str) and v in t]
    if rows:
        return any(row is ours or (isinstance(row, tuple) and ours in row) for row in rows)
    return any(scope.get(name) is ours for name in used)


class Conformance:
    """
    The plugin itself.

    :param name: of our class
    :param place: "SAC" or "TD3"
    :param report: file that the counts are written to
    :param skips: the file of skips
    :param run_skipped: run what ``skips.yml`` names as well, and report what passes
    """

    def __init__(
        self, name: str, place: str, report: Path, skips: Path, run_skipped: bool = False
    ) -> None:
        import stable_baselines3

        self.name, self.place, self.report, self.run_skipped = name, place, report, run_skipped
        self.ours = stand_in(name, place)
        setattr(stable_baselines3, place, self.ours)
        self.skips = [skip for skip in read_skips(skips) if skip.holds(name, place)]
        self.marked: dict[str, Skip] = {}
        self.outcomes: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep the tests that are about the class, and mark those that the file names."""
        kept, dropped = [], []
        for item in items:
            function = item.function  # type: ignore[attr-defined]
            used = names_in(function.__code__)
            about = concerns(item, self.ours, used, function.__globals__)
            (kept if about else dropped).append(item)
        for item in kept:
            matching = [skip for skip in self.skips if skip.pattern.fullmatch(test_id(item.nodeid))]
            for skip in matching:
                self.marked[f"{item.nodeid} {skip.tests}"] = skip
                item.add_marker(skip.mark(self.run_skipped))
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count each test once, a failure before anything else."""
        skipped_by_us = SKIPS_FILE.name in str(report.longrepr)
        if hasattr(report, "wasxfail"):
            is_fault = report.wasxfail and any(
                skip.fault for key, skip in self.marked.items() if key.startswith(report.nodeid)
            )
            outcome = "known faults" if is_fault else "skipped"
        elif report.skipped:
            outcome = "skipped" if skipped_by_us else "skipped by SB3"
        elif report.failed and "XPASS" in str(report.longrepr):
            outcome = "needless"
        else:
            outcome = str(report.outcome)
        earlier = self.outcomes.get(report.nodeid)
        if (report.when == "call" or not report.passed) and earlier != "failed":
            self.outcomes[report.nodeid] = outcome

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the counts; an entry of the file that matches no test is an error."""
        matched = {id(skip) for skip in self.marked.values()}
        stale = [skip.tests for skip in self.skips if id(skip) not in matched]
        counts = Counter(self.outcomes.values())
        found = {"class": self.name, "place": self.place, "counts": counts, "stale": stale}
        for what in ("failed", "needless"):
            found[what + " tests"] = [t for t, outcome in self.outcomes.items() if outcome == what]
        self.report.write_text(json.dumps(found), encoding="utf-8")
        if stale and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def test_id(nodeid: str) -> str:
    """A test's id without the folder."""
    return nodeid.rpartition("tests/")[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that ``run.py`` passes."""
    parser.addoption("--ours", choices=CLASSES)
    parser.addoption("--in-place-of", choices=PLACES)
    parser.addoption("--report", type=Path)
    parser.addoption("--skips", type=Path, default=SKIPS_FILE)
    parser.addoption("--run-skipped", action="store_true")


def pytest_configure(config: pytest.Config) -> None:
    """Put the class in its place, before any test module is imported."""
    options = config.option
    if options.ours:
        names = ("ours", "in_place_of", "report", "skips", "run_skipped")
        plugin = Conformance(*(getattr(options, name) for name in names))
        config.pluginmanager.register(plugin, "conformance")
