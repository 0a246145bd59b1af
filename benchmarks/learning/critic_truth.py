"""
What a trained critic says of actions, against the returns that the simulator gives.

    export OMP_NUM_THREADS=1 MUJOCO_GL=disable
    .venv/bin/python benchmarks/learning/critic_truth.py RUN_FOLDER ...

At the newest checkpoint of each run on DeepMind Control: at states that the exploring policy
visits, other actions take one step, then the policy's own (without noise) go on for 200, the
critics' value closing the sum. For the advantages of those actions over the policy's, simulated and
by the smaller critic: their mean, and their correlation over states and actions. The simulated ones
scatter, as contacts are chaotic; their mean does not.
"""

from typing import Any

import numpy as np
import torch as th
from common_runs import checkpoint_model, command_line

from sb3_rfm.common.boltzmann import critic_features, minimum_q
from sb3_rfm.envs import make_dmc

N_EPISODES, N_STATES, HORIZON = 3, 48, 200
LAST = 900  # step of an episode after which no state is taken
DEVIATIONS = {"std .1": 0.1, "std .3": 0.3, "uniform": None}
N_ACTIONS = 4


class Simulator:
    """
    A task that can be set to a state of its physics.

    :param task: short name
    :param seed: of its first episode
    """

    def __init__(self, task: str, seed: int) -> None:
        self.env = make_dmc(task, seed=seed)
        self.obs, _ = self.env.reset(seed=seed)
        self.dm_env = self.env.unwrapped._env

    @property
    def state(self) -> np.ndarray:
        """A copy of the state of the physics."""
        return self.dm_env.physics.get_state().copy()

    def go_to(self, state: np.ndarray) -> None:
        """:param state: of the physics"""
        with self.dm_env.physics.reset_context():
            self.dm_env.physics.set_state(state)

    def step(self, action: np.ndarray) -> float:
        """
        :param action: in the task's box, (D)
        :return: the reward
        """
        self.dm_env._step_count = 0  # no episode ends in between
        self.obs, reward, *_ = self.env.step(action)
        return float(reward)


def mode(actor: Any, obs: np.ndarray) -> np.ndarray:
    """Where the flow carries the origin of its noise, (B, D)."""
    with th.no_grad():
        velocity = actor.acting_velocity(actor.features(th.as_tensor(obs)))
        points = actor.sample(velocity, 1, deterministic=True)
        return actor.flow.support.to_action(points)[0].clamp(-1, 1).numpy()


def values(model: Any, obs: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The smaller critic's, of actions (A, B, D): (A, B)."""
    with th.no_grad():
        features = critic_features(model.critic, th.as_tensor(obs))
        return minimum_q(model.critic, features, th.as_tensor(actions).float()).numpy()


def visited(model: Any, task: str, rng: np.random.Generator) -> tuple[list[Any], np.ndarray]:
    """States of the physics that the exploring policy visits, and their observations."""
    simulator = Simulator(task, seed=5)
    states, observations = [], []
    for _ in range(N_EPISODES):
        simulator.obs, _ = simulator.env.reset()
        kept = set(rng.choice(LAST, N_STATES // N_EPISODES, replace=False))
        for step in range(LAST):
            if step in kept:
                states.append(simulator.state)
                observations.append(simulator.obs)
            simulator.step(model.predict(simulator.obs, deterministic=False)[0])
    return states, np.array(observations)


def tried(base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The policy's action, then those of each deviation, (A, B, D)."""
    actions = [base]
    for deviation in DEVIATIONS.values():
        for _ in range(N_ACTIONS):
            noise = rng.standard_normal(base.shape)
            near = base + (deviation or 0.0) * noise
            actions.append(rng.uniform(-1, 1, base.shape) if deviation is None else near)
    return np.clip(actions, -1, 1)


def simulated(model: Any, task: str, states: list[Any], actions: np.ndarray) -> np.ndarray:
    """Returns after one action of the given ones, then the policy's, (A, B)."""
    simulators = [Simulator(task, seed=100 + index) for index in range(len(states))]
    returns = np.zeros(actions.shape[:2])
    for row, action in zip(returns, actions, strict=True):
        for simulator, state in zip(simulators, states, strict=True):
            simulator.go_to(state)
        for step in range(HORIZON):
            pairs = zip(simulators, action.astype(np.float32), strict=True)
            row += model.gamma**step * np.array([one.step(its) for one, its in pairs])
            obs = np.array([simulator.obs for simulator in simulators])
            action = mode(model.actor, obs)
        row += model.gamma**HORIZON * values(model, obs, action[None])[0]
    return returns


def main() -> None:
    for path in command_line(__doc__).parse_args().folders:
        rng = np.random.default_rng(0)
        th.manual_seed(0)
        model, settings = checkpoint_model(path)
        task = settings["env"].removeprefix("dm_control/")[: -len("-v0")]
        states, obs = visited(model, task, rng)
        actions = tried(mode(model.actor, obs), rng)
        truth = simulated(model, task, states, actions)
        said = values(model, obs, actions)
        print(f"{path.name}: value {truth[0].mean():.2f}, critic {said[0].mean():.2f}")
        for index, name in enumerate(DEVIATIONS):
            rows = slice(1 + N_ACTIONS * index, 1 + N_ACTIONS * (index + 1))
            gained, claimed = truth[rows] - truth[0], said[rows] - said[0]
            correlation = np.corrcoef(gained.ravel(), claimed.ravel())[0, 1]
            print(
                f"  {name}: advantage {gained.mean():.3f} (standard error "
                f"{gained.std() / np.sqrt(gained.size):.3f}), critic {claimed.mean():.3f}, "
                f"correlation {correlation:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
