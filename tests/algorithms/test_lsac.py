"""LSAC: SAC whose critics, and nothing else, are trained by Langevin dynamics."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch as th
from environments import Bandit
from small_sac import SMALL
from stable_baselines3.common.utils import LinearSchedule

from sb3_rfm import LSAC, SAC
from sb3_rfm.common.langevin import AdaptiveLangevin
from sb3_rfm.experiments.hyperparams import algorithm_class, constructor_arguments, parse_overrides


def small(cls: Any = LSAC, env: Any = None, **changes: Any) -> Any:
    return cls("MlpPolicy", Bandit() if env is None else env, **{**SMALL, **changes})


def with_critics_of(**kwargs: Any) -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [16], **kwargs}}


def weights(model: Any) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def test_the_critics_alone_have_langevin_dynamics() -> None:
    model = small()
    assert type(model.critic.optimizer) is AdaptiveLangevin
    assert type(model.actor.optimizer) is type(model.ent_coef_optimizer) is th.optim.Adam
    owned = {id(p) for group in model.critic.optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in model.critic.parameters()}
    (group,) = model.critic.optimizer.param_groups
    paper = {"drift": 1.0, "noise": 1e-8, "betas": (0.9, 0.999), "max_grad_norm": 0.7}
    assert {name: group[name] for name in paper} == paper
    assert (group["eps"], group["weight_decay"]) == (1e-8, 1e-4)


def test_the_critics_of_a_shared_extractor_do_not_own_it() -> None:
    model = small(**with_critics_of(share_features_extractor=True))
    owned = {id(p) for group in model.critic.optimizer.param_groups for p in group["params"]}
    networks = (p for name, p in model.critic.named_parameters() if name.startswith("qf"))
    assert owned == {id(p) for p in networks}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        with_critics_of(critic_kwargs={"layer_norm": True}, normalize_observations=True),
        {"n_candidates": 3, "n_steps": 3},
        {"use_sde": True},
        with_critics_of(critic_optimizer_kwargs={"noise": 0.1, "drift": 0.0}),
    ],
    ids=str,
)
def test_training_changes_the_critics_and_stays_finite(changes: dict[str, Any]) -> None:
    model = small(**changes)
    before = weights(model)
    model.learn(200)
    after = weights(model)
    assert all(bool(value.isfinite().all()) for value in after.values())
    moved = [
        name for name in before if "weight" in name and not th.equal(before[name], after[name])
    ]
    assert {name.partition(".")[0] for name in moved} == {"actor", "critic", "critic_target"}
    assert sum(name.startswith("critic.") for name in moved) >= 4
    assert model._n_updates > 150


def test_the_critics_learn_the_bandits_reward() -> None:
    """Whose episodes are a step, so that a value is a reward."""
    model = small(learning_starts=400, critic_learning_rate=0.003).learn(400)
    errors = []
    for n_updates in (0, 300):
        if n_updates:
            model.train(n_updates, 64)
        data = model.replay_buffer.sample(400)
        with th.no_grad():
            values = th.stack(model.critic(data.observations, data.actions)).mean(0)
        errors.append((values - data.rewards).square().mean() / data.rewards.var())
    assert errors[0] > 1  # a premise: there is something to learn
    assert errors[1] < 0.05


def test_rates_are_apart() -> None:
    rates = {"learning_rate": LinearSchedule(2e-4, 0.0, 1.0), "critic_learning_rate": 0.004}
    model = small(**rates)
    assert model.critic_lr_schedule(0.5) == 0.004
    model.learn(40)
    of = {
        "actor": model.actor.optimizer,
        "critic": model.critic.optimizer,
        "ent": model.ent_coef_optimizer,
    }
    rate = {name: optimizer.param_groups[0]["lr"] for name, optimizer in of.items()}
    assert rate["critic"] == 0.004
    assert rate["actor"] == rate["ent"] == pytest.approx(model.lr_schedule(0.0), abs=1e-5)
    assert small().critic_lr_schedule(1.0) == 1e-3


def test_a_rate_of_zero_leaves_the_critics_where_they_are() -> None:
    model = small(critic_learning_rate=0.0)
    before = weights(model)
    after = weights(model.learn(60))
    names = [name for name in before if name.endswith("weight")]
    stayed = {name for name in names if th.equal(before[name], after[name])}
    assert {name for name in names if name.startswith("critic.")} <= stayed
    assert not {name for name in names if name.startswith("actor.latent_pi")} & stayed


def test_a_rate_of_the_critics_that_falls(tmp_path: Path) -> None:
    given = parse_overrides(["critic_learning_rate:lin_1e-3"])
    arguments = constructor_arguments(algorithm_class("lsac"), given, 2)
    model = small(**arguments).learn(60)
    assert model.critic.optimizer.param_groups[0]["lr"] < 1e-4
    model.save(tmp_path / "model")
    assert LSAC.load(tmp_path / "model").critic_lr_schedule(0.5) == pytest.approx(5e-4)


def test_a_model_that_is_loaded_goes_on_as_the_one_that_was_saved(tmp_path: Path) -> None:
    changes = {"gradient_steps": 3, **with_critics_of(critic_optimizer_kwargs={"noise": 0.01})}
    model = small(critic_learning_rate=0.002, **changes).learn(60)
    model.save(tmp_path / "model")
    loaded = LSAC.load(tmp_path / "model", env=Bandit())
    assert loaded.policy_kwargs == model.policy_kwargs == changes["policy_kwargs"]
    assert loaded.critic.optimizer.param_groups[0]["noise"] == 0.01
    loaded.replay_buffer = model.replay_buffer
    ends = []
    for one in (model, loaded):
        one.set_logger(model.logger)
        one.set_random_seed(5)
        one.train(20, 8)
        ends.append(weights(one))
    assert all(th.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert loaded.critic.optimizer.param_groups[0]["lr"] == 0.002
    again = LSAC.load(tmp_path / "model", critic_learning_rate=0.5)
    assert again.critic_lr_schedule(0.3) == 0.5


def test_equal_seeds_give_equal_runs() -> None:
    noisy = with_critics_of(critic_optimizer_kwargs={"noise": 0.1})
    one, two, other = (weights(small(seed=seed, **noisy).learn(60)) for seed in (0, 0, 1))
    assert all(th.equal(one[name], two[name]) for name in one)
    assert not all(th.equal(one[name], other[name]) for name in one)


def test_files_of_sac_and_of_lsac_are_not_taken_for_each_other(tmp_path: Path) -> None:
    for cls, other in ((SAC, LSAC), (LSAC, SAC)):
        small(cls).save(tmp_path / cls.__name__)
        message = f"file that {other.__name__} saved; got one of {cls.__name__}"
        with pytest.raises(ValueError, match=message):
            other.load(tmp_path / cls.__name__)


def test_with_adam_and_sacs_rate_it_is_sac() -> None:
    """Nothing else differs: bit for bit."""
    adam = with_critics_of(critic_optimizer_class=th.optim.Adam)
    ours = weights(small(critic_learning_rate=3e-4, **adam).learn(80))
    theirs = weights(small(SAC).learn(80))
    assert all(th.equal(ours[name], theirs[name]) for name in theirs)


def test_sac_takes_an_optimizer_of_the_critics_too(tmp_path: Path) -> None:
    kwargs = with_critics_of(
        critic_optimizer_class=th.optim.SGD, critic_optimizer_kwargs={"momentum": 0.5}
    )
    model = small(SAC, **kwargs)
    assert type(model.critic.optimizer) is th.optim.SGD
    assert model.critic.optimizer.param_groups[0]["momentum"] == 0.5
    assert type(model.actor.optimizer) is th.optim.Adam
    model.policy.save(tmp_path / "policy")
    loaded = type(model.policy).load(tmp_path / "policy")
    assert loaded.critic_optimizer_class is th.optim.SGD
    assert loaded.critic_optimizer_kwargs == {"momentum": 0.5}
    same = {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.2}}
    model = small(SAC, **with_critics_of(**same))
    assert model.critic.optimizer.param_groups[0]["weight_decay"] == 0.2
    model = small(SAC, **with_critics_of(**same, critic_optimizer_kwargs={"eps": 1e-3}))
    assert type(model.critic.optimizer) is type(model.actor.optimizer) is th.optim.AdamW
    groups = [one.optimizer.param_groups[0] for one in (model.actor, model.critic)]
    assert [group["eps"] for group in groups] == [1e-8, 1e-3]
    assert [group["weight_decay"] for group in groups] == [0.2, 0.01]  # AdamW's own default


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"critic_learning_rate": -1.0}, ValueError, "critic_learning_rate must .*; got -1.0"),
        ({"critic_learning_rate": "fast"}, TypeError, "critic_learning_rate must .*; got 'fast'"),
        ({"critic_learning_rate": None}, TypeError, "critic_learning_rate must .*; got None"),
        ({"n_candidates": 0}, ValueError, "n_candidates must"),
        (
            with_critics_of(critic_optimizer_class="Adam"),
            TypeError,
            "critic_optimizer_class must .*; got 'Adam'",
        ),
        (
            with_critics_of(critic_optimizer_kwargs=[1]),
            TypeError,
            r"critic_optimizer_kwargs must .*; got \[1\]",
        ),
        (
            with_critics_of(critic_optimizer_kwargs={"lr": 0.1}),
            ValueError,
            "critic_optimizer_kwargs must .*arguments but lr",
        ),
        (
            with_critics_of(critic_optimizer_kwargs={"noise": -0.1}),
            ValueError,
            "noise must .*; got -0.1",
        ),
        (with_critics_of(critic_optimizer_kwargs={"nose": 0.1}), TypeError, "'nose'"),
    ],
    ids=str,
)
def test_refuses_arguments(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        small(**changes)


def test_load_refuses_a_rate_too(tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"critic_learning_rate must .*; got -1"):
        LSAC.load(tmp_path / "model", critic_learning_rate=-1)


def test_arguments_are_sacs_and_one_more() -> None:
    theirs, ours = (inspect.signature(cls).parameters for cls in (SAC, LSAC))
    assert list(ours) == [*theirs, "critic_learning_rate"]
    assert {name: ours[name].default for name in theirs} == {
        name: p.default for name, p in theirs.items()
    }
    assert ours["critic_learning_rate"].default == 1e-3
