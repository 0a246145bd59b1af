"""Names of settings before there were groups."""

from collections.abc import Iterable

FLAT_NAMES = {
    "critic_learning_rate": "critic_update.learning_rate",
    "n_particles": "estimator.n_particles",
    "n_times": "estimator.n_times",
    "critic_view": "estimator.q_aggregation and estimator.use_target_critic",
    "n_candidates": "candidates.n",
    "n_training_candidates": "candidates.train",
    "n_eval_candidates": "candidates.evaluate",
    "candidate_choice": "candidates.select",
    "exploration_noise": "candidates.noise",
    "noise_color": "candidates.noise_color",
    "target_noise": "critic_update.target_noise",
    "examples": "actor_update.x_t_from and actor_update.objective",
    "sampling_steps": "flow.steps",
    "time_shift": "flow.time_shift",
    "one_step_policy": "flow.one_step",
    "interpolant": "flow.interpolant",
    "parametrization": "flow.parametrization",
    "solver": "flow.solver",
    "support": "flow.support",
    "t_range": "flow.t_range",
    "loss_weighting": "actor_update.loss_weighting",
    "entropy_backup": "critic_update.entropy",
    "reward_scale": "critic_update.reward_scale",
    "policy_delay": "actor_update.every",
    "policy_tau": "actor_update.average",
    "max_grad_norm": "actor_update.max_grad_norm",
}
"""Names of settings before there were groups, and where each is now."""


def refuse_flat_names(names: Iterable[str]) -> None:
    """
    Say where a setting is now that is given by its name of before.

    :param names: of arguments
    :raises TypeError: one of them is such a name
    """
    for name in names:
        if name in FLAT_NAMES:
            place = FLAT_NAMES[name]
            group, _, key = place.partition(" ")[0].partition(".")
            raise TypeError(f"{name} is {place} now: {group}=dict({key}=...)")
