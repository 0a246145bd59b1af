"""
An ordinary Stable-Baselines3 script. Put RFMFlow in the place of the last import's first name, and
it trains a flow policy: nothing else changes.

    python examples/drop_in.py [STEPS]
"""

import sys
import tempfile
from pathlib import Path

from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_rfm import SAC as Algorithm  # with its defaults Stable-Baselines3's own, bit for bit

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
env, eval_env = make_vec_env("Pendulum-v1", seed=0), make_vec_env("Pendulum-v1", seed=1)
model = Algorithm(
    "MlpPolicy",
    env,
    learning_rate=1e-3,
    learning_starts=100,
    batch_size=64,
    gamma=0.98,
    tau=0.01,
    policy_kwargs={"net_arch": [64, 64]},
    seed=0,
)
with tempfile.TemporaryDirectory() as folder:
    best = EvalCallback(
        eval_env, best_model_save_path=folder, eval_freq=max(steps // 5, 1), n_eval_episodes=2
    )
    model.learn(steps, callback=best)
    model = Algorithm.load(Path(folder) / "best_model", env=eval_env)
mean, std = evaluate_policy(model, eval_env, n_eval_episodes=5)
print(f"{type(model).__name__}: return {mean:.1f} ± {std:.1f} after {steps} steps")
