"""Modules in training are told of training and evaluation as ever, where it costs less."""

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch as th
from environments import Bandit
from stable_baselines3.common.callbacks import BaseCallback

from sb3_rfm import RFMFlow


class Modes(th.nn.Module):
    """An activation that notes in which mode it is called."""

    seen: ClassVar[set[tuple[bool, bool]]] = set()  # whether gradients are enabled, and the mode

    def forward(self, x: th.Tensor) -> th.Tensor:
        self.seen.add((th.is_grad_enabled(), self.training))
        return x.relu()


class Stays(Modes):
    """One that stays in evaluation mode, as a pretrained part may."""

    seen: ClassVar[set[tuple[bool, bool]]] = set()

    def train(self, mode: bool = True) -> "Stays":
        return super().train(False)


def model(activation_fn: type[th.nn.Module]) -> RFMFlow:
    small = {"learning_starts": 5, "batch_size": 4, "buffer_size": 50, "device": "cpu"}
    kwargs = {"net_arch": [8], "activation_fn": activation_fn}
    return RFMFlow("MlpPolicy", Bandit(), policy_kwargs=kwargs, **small)


class Check(BaseCallback):
    def __init__(self, check: Callable[[RFMFlow], None]) -> None:
        super().__init__()
        self.check = check

    def _on_step(self) -> bool:
        assert isinstance(self.model, RFMFlow)
        self.check(self.model)
        return True


@pytest.mark.parametrize("kind", [Modes, Stays])
def test_each_update_is_in_training_mode_and_each_action_is_not(kind: type[Modes]) -> None:
    kind.seen.clear()
    one = model(kind)

    def acting(model: RFMFlow) -> None:
        kind.seen.clear()
        model.predict(model._last_obs, deterministic=True)
        assert {mode for _, mode in kind.seen} == {False}
        kind.seen.clear()

    one.learn(12, callback=Check(acting))
    assert {mode for grad, mode in kind.seen if grad} == {kind is Modes}  # of the last update
    modes = {module.training for module in one.actor.modules() if isinstance(module, Modes)}
    assert modes == {kind is Modes}
    one.policy.set_training_mode(False)
    assert not any(module.training for module in one.actor.modules())


def test_it_begins_with_one_mode() -> None:
    """What a user has set by hand is not kept, as ever."""
    one = model(Modes)
    one.policy.set_training_mode(False)
    one.actor.network.train()
    Modes.seen.clear()
    one.learn(1, callback=Check(lambda model: model.predict(model._last_obs)))
    assert {mode for _, mode in Modes.seen} == {False}


def test_the_targets_stay_in_evaluation_mode() -> None:
    one = model(Modes)
    one.learn(12)
    assert not any(module.training for module in one.critic_target.modules())
