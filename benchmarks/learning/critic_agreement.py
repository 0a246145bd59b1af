"""
How far two critics agree on which actions are better, and what the policy makes of it.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/learning/critic_agreement.py RUN_FOLDER ...

At the newest checkpoint of each run, over states of its last 10,000 steps: the correlation of the
first two critics' values over uniform actions of a state; the gain of the policy's actions over
uniform ones by the smaller critic, and where the ascent of its gradient from the best of 32
candidates ends; the spread of the policy's actions in half widths of the box; the temperature, and
the spread of the candidates' values that it stands against.
"""

from typing import Any

import torch as th
from common_runs import checkpoint_model, command_line

from sb3_rfm.common.boltzmann import critic_features, minimum_q, q_values
from sb3_rfm.common.selection import gather_selected

N_STATES, N_UNIFORM, N_CANDIDATES = 256, 512, 32
RECENT = 10_000  # steps whose states are looked at
ASCENT_STEPS, STEP = 50, 0.05


def measure(model: Any) -> dict[str, float]:
    """What the script prints, by name."""
    buffer, actor, critic = model.replay_buffer, model.actor, model.critic
    ages = 1 + th.randint(min(RECENT, buffer.size()), (N_STATES,)).numpy()
    rows = (buffer.pos - ages) % buffer.buffer_size
    obs = th.as_tensor(buffer.observations[rows, 0]).float()
    with th.no_grad():
        features = critic_features(critic, obs)
        uniform = 2 * th.rand(N_UNIFORM, N_STATES, actor.action_dim) - 1
        one, two = (q - q.mean(0) for q in q_values(critic, features, uniform)[:2])
        correlation = (one * two).mean(0) / (one.square().mean(0) * two.square().mean(0)).sqrt()
        base = minimum_q(critic, features, uniform).mean(0)
        points = actor.sample(actor.acting_velocity(actor.features(obs)), N_CANDIDATES)
        actions = actor.flow.support.to_action(points)
        q = minimum_q(critic, features, actions)
        action = gather_selected(actions, q.argmax(0)).unsqueeze(0)
    for _ in range(ASCENT_STEPS):
        _, gradient = critic.value_and_action_gradient(features, action)
        largest = gradient.abs().amax(-1, keepdim=True).clamp_min(1e-12)
        action = (action + STEP * gradient / largest).clamp(-1, 1)
    climbed, _ = critic.value_and_action_gradient(features, action)
    return {
        "correlation": correlation.mean().item(),
        "gain": (q.mean(0) - base).mean().item(),
        "gain after ascent": (climbed[0] - base).mean().item(),
        "spread of actions": actions.std(0).mean().item(),
        "temperature": model.temperature,
        "spread of their values": q.std(0).mean().item(),
    }


def main() -> None:
    for path in command_line(__doc__).parse_args().folders:
        th.manual_seed(0)
        model, _ = checkpoint_model(path)
        found = measure(model)
        print(path.name, ", ".join(f"{name} {value:.3g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
