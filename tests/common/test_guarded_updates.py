"""Updates that are not finite are named or left out; critics that diverge are reported."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch as th
from bad_numbers import model, sac, sources, watched_by
from environments import Bandit

from sb3_rfm import QSM, SAC, RFMFlow
from sb3_rfm.common.algorithm import FlowActorCritic
from sb3_rfm.common.finite import NonFiniteError


@pytest.mark.parametrize("algorithm", [RFMFlow, SAC])
def test_an_update_names_what_the_buffer_holds(algorithm: Any) -> None:
    one = watched_by(sources({}), algorithm).learn(30)
    one.replay_buffer.rewards[7, 0] = np.nan
    one.learning_starts, one.batch_size = 0, 64
    with pytest.raises(NonFiniteError, match=r"the replay buffer's rewards\[7, 0\] is nan"):
        one.learn(1, reset_num_timesteps=False)


@pytest.mark.parametrize("algorithm", [RFMFlow, QSM])
def test_update_that_is_not_finite(algorithm: type[FlowActorCritic]) -> None:
    """A critic's weight overflows: named, or the update is left out and the weights stay."""
    for on_nan in ("raise", "skip"):
        one = algorithm(
            "MlpPolicy", Bandit(), learning_starts=50, batch_size=16, on_nan=on_nan,
            buffer_size=500, policy_kwargs={"net_arch": [8]}, bfloat16=False,
        )  # fmt: skip
        one.learn(60)
        for target in one.critic_target.q_networks:
            target[-1].bias.data.fill_(th.inf)
        before = [p.clone() for p in one.policy.parameters()]
        if on_nan == "raise":
            with pytest.raises(NonFiniteError, match=r"is (nan|inf) at update \d+, step \d+"):
                one.learn(10, reset_num_timesteps=False)
            continue
        one.replay_buffer.dones[:] = 0  # every target bootstraps
        one._update_critic(one.replay_buffer.sample(16))
        pairs = zip(before, one.policy.parameters(), strict=True)
        assert all(th.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("on_nan", ["raise", "skip"])
def test_sacs_own_update_that_is_not_finite_is_an_error(on_nan: str) -> None:
    one = sac("", on_nan=on_nan)
    one.learn(150)
    for target in one.critic_target.q_networks:
        target[-1].bias.data.fill_(th.inf)
    with pytest.raises(NonFiniteError, match=r"train/critic_loss is (nan|inf) at update 5\d"):
        one.learn(10, reset_num_timesteps=False)


def test_diverging_critics_are_reported_each_time() -> None:
    one = model("reward", at=10**9, gamma=0.9)
    one.learn(150)
    assert 0 <= one.logger.name_to_value["rfm/q_over_bound"] < 2
    before = deepcopy(one.get_parameters())
    for _ in range(2):
        for critic in (*one.critic.q_networks, *one.critic_target.q_networks):
            critic[-1].bias.data.fill_(1e4)
        with pytest.warns(UserWarning, match="critics diverge") as caught:
            one.learn(20, reset_num_timesteps=False)
        assert len([w for w in caught if "diverge" in str(w.message)]) == 1
        one.set_parameters(deepcopy(before))
        one.learn(1, reset_num_timesteps=False)
        assert one.logger.name_to_value["rfm/q_over_bound"] < 1
