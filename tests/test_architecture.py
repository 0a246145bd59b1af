"""Imports go down only, and the sampling library stands without reinforcement learning."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sb3_rfm"

# From the ground up: a module imports from its own room, from the floors below, and on its own
# floor from the rooms that are named before its own.
PUBLIC = "the public names"  # sb3_rfm/__init__.py
FLOORS = [
    ["sampling", "utils", "four_goals", "envs"],
    ["export", "checkpoints", "results"],
    ["common", "population", "experiments"],
    ["algorithms"],
    [PUBLIC],
    ["cli"],
]
ROOMS = [room for floor in FLOORS for room in floor]
FILES_AT_THE_TOP = 5  # and py.typed

# Within sampling a module imports only from the tiers before its own, whatever its folder.
TIERS: list[set[str]] = [
    {"registry", "devices"},
    {"interpolants", "sources", "supports", "importance", "truncated_normals", "sobol", "mala"},
    {
        "parametrizations",
        "proposals",
        "control_variates",
        "refinements",
        "divergences",
        "truncated_mixtures",
        "least_squares",
    },
    {"posteriors", "solvers", "loss_weightings"},
    {"box_fits", "flow_density"},
    {"bounded", "approximations"},
    {"posterior_mean"},
    {"samplers"},
]

FOLDERS = [["estimators"], ["numerics"]]  # of sampling
SAMPLING_MAY_IMPORT = {"torch", *sys.stdlib_module_names}
REINFORCEMENT_LEARNING = ["stable_baselines3", "gymnasium", "rl_zoo3", "shimmy"]


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every module that a source text imports anywhere in it, in full; relative ones resolved."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            # `from package import name` may import the module package.name.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules() -> dict[str, tuple[str, bool]]:
    """Name -> (source, is a package) of every module of the package."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = (path.read_text(encoding="utf-8"), is_package)
    return found


MODULES = modules()


def room(names: list[str]) -> str:
    """Where a module of the package is, or what is imported from it."""
    return names[0] if names and names[0] in ROOMS else PUBLIC


def tier(names: list[str]) -> int:
    """The tier of what is imported from sampling: of the first name that is not a folder's."""
    name = "".join(names[1:2] if names[:1] in FOLDERS else names[:1])
    return next((i for i, group in enumerate(TIERS) if name in group), len(TIERS))


def violation(module: str, imported: str) -> str | None:
    """What is wrong with one import, or None."""
    mine, theirs = module.split(".")[1:], imported.split(".")[1:]
    if imported.split(".")[0] != PACKAGE:
        pure = room(mine) != "sampling" or imported.split(".")[0] in SAMPLING_MAY_IMPORT
        return None if pure else f"{module} imports {imported}: sampling is pure torch"
    if ROOMS.index(room(theirs)) > ROOMS.index(room(mine)):
        return f"{module} imports {imported}: imports go down only"
    within = len(mine) > 1 and room(mine) == "sampling"
    if within and tier(theirs[1:]) >= tier(mine[1:]):
        return f"{module} imports {imported}: within sampling imports go down a tier"
    return None


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    found = (violation(module, imported) for imported in imports(source, module, is_package))
    return [text for text in found if text]


def test_every_module_has_its_floor_and_its_tier():
    rooms = {name.split(".")[1] for name in MODULES if name != PACKAGE}
    assert rooms == {*ROOMS} - {PUBLIC}, f"give a new folder its floor in {__file__}"
    within = [name for name in MODULES if name.startswith(f"{PACKAGE}.sampling.")]
    inner = {name.split(".")[-1] for name in within if not MODULES[name][1]}
    assert inner == set().union(*TIERS), f"give a new module of sampling a tier in {__file__}"


def test_few_files_are_at_the_top():
    files = [path.name for path in (ROOT / PACKAGE).iterdir() if path.is_file()]
    assert len(set(files) - {"py.typed"}) <= FILES_AT_THE_TOP


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_only(module):
    assert not violations(module, *MODULES[module])


def test_no_module_imports_itself_in_a_circle():
    graph = {}
    for module, (source, is_package) in MODULES.items():
        named = set(imports(source, module, is_package)) if module != PACKAGE else set()
        whole = named | {name.rpartition(".")[0] for name in named}
        graph[module] = (whole & set(MODULES)) - {PACKAGE, module}
    order = list(TopologicalSorter(graph).static_order())  # a CycleError names the circle
    assert order.index("sb3_rfm.sampling.registry") < order.index("sb3_rfm.common.policies")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sb3_rfm.sampling.sources", "import gymnasium as gym"),
        ("sb3_rfm.sampling.sources", "def f():\n    from stable_baselines3.common import utils"),
        ("sb3_rfm.sampling.sources", "from sb3_rfm.common.networks import MLP"),
        ("sb3_rfm.sampling.sources", "from ..common import policies"),
        ("sb3_rfm.sampling.sources", "from sb3_rfm import RFMFlow"),
        ("sb3_rfm.sampling.sources", "from . import supports"),
        ("sb3_rfm.sampling.registry", "from sb3_rfm.sampling.sources import Source"),
        ("sb3_rfm.sampling.estimators.proposals", "from sb3_rfm.sampling import posterior_mean"),
        ("sb3_rfm.sampling.estimators.proposals", "from .bounded import Bounded"),
        ("sb3_rfm.export.onnx", "import sb3_rfm.common.policies"),
        ("sb3_rfm.common.policies", "from sb3_rfm.algorithms import RFMFlow"),
        ("sb3_rfm.common.policies", "from sb3_rfm import cli"),
        ("sb3_rfm.sampling.sources", "from sb3_rfm.utils import files"),
        ("sb3_rfm.utils.files", "from ..envs import make_dmc"),
        ("sb3_rfm.utils.files", "from sb3_rfm import __version__"),
        ("sb3_rfm.envs", "def f():\n    from sb3_rfm.results import curves"),
        ("sb3_rfm.results.curves", "from sb3_rfm.experiments.folder import RunFolder"),
        ("sb3_rfm.checkpoints.callback", "from sb3_rfm.common.guards import FiniteChecks"),
        ("sb3_rfm.common.policies", "from sb3_rfm.experiments import settings"),
        ("sb3_rfm.experiments.run", "from sb3_rfm import RFMFlow"),
        ("sb3_rfm.experiments.run", "from sb3_rfm.algorithms.sac import SAC"),
        ("sb3_rfm", "from sb3_rfm.cli.main import main"),
        ("sb3_rfm.algorithms.rfm_flow", "from sb3_rfm import QSM"),
    ],
)
def test_an_upward_import_is_seen(module, source):
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sb3_rfm.sampling.estimators.posteriors", "from ..numerics.sobol import f\nimport torch"),
        ("sb3_rfm.common.policies", "from sb3_rfm.sampling import Euler\nimport gymnasium"),
        ("sb3_rfm.common.algorithm", "from .policies import Actor\nfrom ..utils import version"),
        ("sb3_rfm.cli.main", "from sb3_rfm import algorithms, envs\nimport sb3_rfm"),
    ],
)
def test_a_downward_import_is_allowed(module, source):
    assert not violations(module, source)


def test_sampling_works_where_reinforcement_learning_is_not_installed():
    script = f"""
import sys
for name in {REINFORCEMENT_LEARNING!r}:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
import torch as th
from sb3_rfm.sampling import posterior_mean
mean = posterior_mean(lambda x: -x.square().sum(-1), th.zeros(2, 1), 0.5)
assert mean.x_1.shape == (2, 1)
try:
    import stable_baselines3
except ModuleNotFoundError:
    print("blocked")
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, timeout=120
    )
    assert (run.returncode, run.stdout.strip()) == (0, "blocked"), run.stderr
