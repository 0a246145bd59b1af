"""
What fewer solver steps cost a trained policy.

    .venv/bin/python benchmarks/learning/solver_steps.py RUN_FOLDER ...   # about two minutes each

Each folder is that of a finished ``sb3-rfm run`` of an algorithm of ours. At states that its policy
visits, the flow carries the same noises to actions by each solver: beside 64 steps of Heun's method
the root mean square distance of the ends, and the standard deviation of a state's actions, both in
half widths of the box; then returns of ``predict(deterministic=True)`` with one candidate and with
32, and the milliseconds that it takes for one observation and one candidate. A one-step policy has
a row of its own.
Prints a Markdown table.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common_runs import command_line, final_model, returns_of_best, visited

from sb3_rfm.common.flow import Flow
from sb3_rfm.common.networks import FlowNetwork
from sb3_rfm.sampling.solvers import Euler, Heun

N_STATES, N_NOISES = 256, 64
WAYS: tuple[tuple[str, Any, int], ...] = (
    ("Euler", Euler(), 1),
    ("Euler", Euler(), 2),
    ("Heun", Heun(), 2),  # three evaluations: its last step is Euler's
    ("Euler", Euler(), 4),
    ("Heun", Heun(), 4),
    ("Euler", Euler(), 8),
    ("Euler", Euler(), 16),
)


def returns(model: Any, n_candidates: int, n_episodes: int) -> str:
    """Mean and standard deviation of the return of the best of some candidates."""
    got = returns_of_best(model, n_candidates, n_episodes, env_seed=1000)
    return f"{np.mean(got):.0f} ± {np.std(got):.0f}"


def milliseconds(model: Any, obs: np.ndarray) -> float:
    """The shortest time of ``predict`` for one observation and one candidate."""
    model.actor.n_eval_candidates = 1
    spent = []
    for _ in range(200):
        start = time.perf_counter()
        model.predict(obs, deterministic=True)
        spent.append(time.perf_counter() - start)
    return 1e3 * min(spent)


def rows(folder: Path, n_episodes: int) -> Iterator[str]:
    """The table's rows of one folder."""
    model, settings = final_model(folder, env_seed=0)
    actor = model.actor
    trained, one_step_network = actor.flow, actor.one_step_network
    th.manual_seed(0)
    obs = visited(model, N_STATES, every=4)
    with th.no_grad():
        features = actor.features(obs)
        noise = actor.sample_noise(features, N_NOISES)

    def drawn(flow: Flow, network: FlowNetwork | None) -> th.Tensor:
        actor.flow, actor.one_step_network = flow, network
        with th.no_grad():
            velocity = actor.acting_velocity(features)
            x_1 = velocity.integrate(noise, velocity.flow.solver.deterministic())
        return flow.support.to_action(x_1)

    reference = drawn(replace(trained, solver=Heun(), steps=64), None)
    ways: list[tuple[str, Flow, FlowNetwork | None]] = [
        (f"{name}, {steps}", replace(trained, solver=solver, steps=steps), None)
        for name, solver, steps in WAYS
    ]
    if one_step_network is not None:
        ways.append(("one-step network", trained, one_step_network))
    for name, flow, network in ways:
        actions = drawn(flow, network)
        as_trained = flow == trained and network is one_step_network
        columns = [
            f"{folder.parent.name}, seed {settings['seed']}",
            f"{name} (as trained)" if as_trained else name,
            f"{(actions - reference).square().mean().sqrt():.3f}",
            f"{actions.var(0).mean().sqrt():.3f}",
            returns(model, 1, n_episodes),
            returns(model, 32, n_episodes),
            f"{milliseconds(model, obs[:1].numpy()):.2f}",
        ]
        yield f"| {' | '.join(columns)} |"
    spread = reference.var(0).mean().sqrt()
    yield f"| {folder.parent.name} | Heun, 64 | 0 | {spread:.3f} | | | |"


def main() -> None:
    """Measure every folder and print."""
    parser = command_line(__doc__)
    parser.add_argument("--episodes", type=int, default=3, metavar="N")
    arguments = parser.parse_args()
    heads = "policy | solver, steps | distance | spread | 1 candidate | 32 candidates | ms"
    print(f"| {heads} |\n|{'---|' * 7}", flush=True)
    for folder in arguments.folders:
        for row in rows(folder, arguments.episodes):
            print(row, flush=True)


if __name__ == "__main__":
    main()
