"""
Updates captured as CUDA graphs. Without a GPU a stand-in records what is to be done and does it
anew at each replay, in place: what is around a graph is tested so, the graph itself on a GPU.
"""

import gc
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from environments import Bandit
from graph_stand_in import ON_HOST, STAND_IN
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_rfm import RFMFlow
from sb3_rfm.common.batches import HOST, mapped, tensors_of
from sb3_rfm.common.cuda_graphs import (
    WARM_UP,
    Graphed,
    GraphedUpdate,
    Work,
    may_capture,
    nothing_collected,
    set_capturable,
)
from sb3_rfm.common.deferred_logging import READ_EVERY
from sb3_rfm.common.device_replay import DeviceReplay
from sb3_rfm.common.optimization import Info, Report, make_optimizer, set_learning_rate
from sb3_rfm.population.population import Population

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [16]},
    "buffer_size": 500,
    "learning_starts": 20,
    "batch_size": 8,
    "estimator": {"n_particles": 4},
    "seed": 0,
}
needs_gpu = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")


def graphed(update: Callable[[ReplayBufferSamples], Info]) -> GraphedUpdate:
    return GraphedUpdate(update, DeviceReplay([], HOST), place=ON_HOST, **STAND_IN)


def small(**changes: Any) -> RFMFlow:
    return RFMFlow("MlpPolicy", Bandit(), **{**SMALL, "device": "cpu", **changes})


def batch(value: float, n: int = 4) -> ReplayBufferSamples:
    column = th.full((n, 1), value)
    return ReplayBufferSamples(column, column + 1, column + 2, column + 3, column + 4, None)


def test_each_batch_gives_its_own_results() -> None:
    seen: list[ReplayBufferSamples] = []

    def update(data: ReplayBufferSamples) -> Info:
        seen.append(data)
        return {"sum": sum(tensor.sum() for tensor in tensors_of(data))}

    one = graphed(update)
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    results = [one(batch(value))["sum"] for value in values]
    expected = [float(4 * (5 * value + 10)) for value in values]
    assert [float(result) for result in results] == expected  # none is overwritten later
    kept = {id(tensor) for data in seen for tensor in tensors_of(data)}
    assert len(kept) == 5  # they lie in one place
    assert float(one(batch(1.0, n=7))["sum"]) == 7 * 15  # another size: as it stands again
    assert len(seen[-1].rewards) == 7


def test_it_captures_anew_what_has_moved() -> None:
    weight = th.tensor(2.0)
    one, x = Graphed(lambda x: weight * x, **STAND_IN), th.ones(1)
    for _ in range(WARM_UP + 1):
        assert one(x) == 2
    assert one.captured
    one.forget()
    assert one(x) == 2
    assert not one.captured
    for _ in range(WARM_UP):
        one(x)
    assert one.captured


class Cycle:
    """Freed by the garbage collector alone."""

    freed = 0

    def __init__(self) -> None:
        self.own = self

    def __del__(self) -> None:
        Cycle.freed += 1


def test_nothing_is_freed_within_a_capture() -> None:
    Cycle()
    before = Cycle.freed
    assert gc.isenabled()
    with nothing_collected():
        assert Cycle.freed == before + 1
        for _ in range(10_000):  # the collector would begin several times
            Cycle()
        assert Cycle.freed == before + 1
    assert gc.isenabled()
    gc.disable()
    try:
        with nothing_collected():
            pass
        assert not gc.isenabled()  # as it was
    finally:
        gc.enable()


def test_stacking_has_graphs_captured_anew() -> None:
    models = [small(seed=seed) for seed in range(2)]
    graphs = [Graphed(lambda x: 2 * x, **STAND_IN) for _ in models]
    for model, graph in zip(models, graphs, strict=True):
        model._graphs = [graph]
        graph(th.ones(1))
    Population(models)
    assert all(graph.shapes == [th.Size()] for graph in graphs)


def test_what_is_reported_is_a_mapping() -> None:
    report = Report.of({"a": th.tensor(1.0), "b": th.tensor(2.0)})
    assert dict(report) == {"a": 1.0, "b": 2.0}
    assert (len(report), report["b"], report.get("c")) == (2, 2.0, None)
    assert Report.of(report) is report


def test_training_is_the_same() -> None:
    plain = small().learn(60)
    other = small()  # which sets the seed again
    other.updates = {key: graphed(update) for key, update in other.updates.items()}
    other.learn(60)
    assert plain._n_updates > 4 * WARM_UP
    states = zip(plain.policy.state_dict().items(), other.policy.state_dict().items(), strict=True)
    for (name, mine), (_, theirs) in states:
        assert th.equal(mine, theirs), name


@pytest.mark.parametrize("deterministic", [False, True])
def test_acting_is_the_same(deterministic: bool) -> None:
    plain, other = small().learn(30), small().learn(30)
    acts = {best: partial(other.actor.act, deterministic=best) for best in (False, True)}
    other._acts = {best: Graphed(act, **STAND_IN) for best, act in acts.items()}
    obs = np.random.default_rng(0).random((2 * WARM_UP, 2, 3), dtype=np.float32)
    drawn = []
    for model in (plain, other):
        th.manual_seed(0)
        drawn.append([model.predict(each, deterministic=deterministic)[0] for each in obs])
    assert np.array_equal(*drawn)
    assert other._acts[deterministic].n_calls == len(obs)
    assert other.actor.graphs is None  # a policy by itself acts without


def test_what_waits_is_computed_as_it_stands() -> None:
    def fails(work: Work) -> Any:
        raise AssertionError("nothing is captured")

    def double(x: th.Tensor) -> th.Tensor:
        return 2 * x

    waiting = {**STAND_IN, "waits": lambda work: (work(), True)}
    one, x = Graphed(double, gives_way=True, **{**waiting, "record": fails}), th.ones(1)
    for _ in range(WARM_UP - 1):
        one(x)
    with pytest.warns(UserWarning, match="cuda_graph='auto'.*cannot be captured"):
        assert one(x) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert [float(one(each * x)) for each in (2, 3, 4)] == [4, 6, 8]
    asked_for = Graphed(double, **waiting)  # True: it is captured, or fails
    assert [float(asked_for(each * x)) for each in range(6)] == [0, 2, 4, 6, 8, 10]
    assert asked_for.captured


@pytest.mark.parametrize(
    "like",
    [
        (th.rand(3, 2), th.arange(5, dtype=th.uint8)),
        {"b": th.rand(2), "a": th.rand(1, 3).double(), "c": th.zeros(0, 2)},
        batch(1.0)._replace(discounts=th.rand(4, 1)),
    ],
)
def test_staged_tensors_arrive(like: Any) -> None:
    place = ON_HOST(like)
    for new in (like, mapped(like, lambda tensor: tensor + 1)):
        place.send(new)
        pairs = list(zip(tensors_of(place.data), tensors_of(new), strict=True))
        assert all(th.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    assert type(place.data) is type(like)


@pytest.mark.parametrize(
    ("asked", "device", "on_nan", "optimizer", "captured"),
    [
        ("auto", "cuda", "raise", th.optim.AdamW, True),
        ("auto", "cuda", "raise", th.optim.SGD, False),
        ("auto", "cuda", "skip", th.optim.Adam, False),
        ("auto", "cpu", "raise", th.optim.Adam, False),
        (True, "cuda", "raise", th.optim.Adam, True),
        (True, "cpu", "raise", th.optim.Adam, False),
        (False, "cuda", "raise", th.optim.Adam, False),
    ],
)
def test_when_graphs_are_made(
    asked: bool | str, device: str, on_nan: str, optimizer: Any, captured: bool
) -> None:
    optimizers = [optimizer([th.ones(1, requires_grad=True)], lr=0.1)]
    assert may_capture(asked, th.device(device), on_nan, optimizers) == captured


def test_a_learning_rate_that_a_graph_reads() -> None:
    parameter = th.ones(3, requires_grad=True)
    optimizer = make_optimizer(th.optim.Adam, [parameter], 0.1, {})
    (group,) = optimizer.param_groups
    set_capturable(optimizer, True, th.device("cpu"))
    rate = group["lr"]
    set_learning_rate(optimizer, 0.25)
    assert group["lr"] is rate
    assert group["capturable"]
    assert float(rate) == 0.25
    set_capturable(optimizer, False, th.device("cpu"))
    assert group["lr"] == 0.25
    assert not group["capturable"]
    set_learning_rate(optimizer, 0.5)
    assert group["lr"] == 0.5


def test_loaded_parameters_make_new_updates(tmp_path: Path) -> None:
    model = small()
    model.learn(40)
    model.save(tmp_path / "model")
    before = model.updates
    model.set_parameters(str(tmp_path / "model"))
    assert model.updates is not before
    loaded = RFMFlow.load(tmp_path / "model", env=Bandit(), device="cpu", cuda_graph=True)
    loaded.learn(40)  # saved on a GPU, say
    assert not isinstance(loaded.updates[True], GraphedUpdate)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"cuda_graph": True}, "cuda_graph must satisfy: False on device 'cpu'"),
        ({"cuda_graph": 1}, "cuda_graph must satisfy: True, False or 'auto'; got 1"),
    ],
)
def test_refuses(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        small(**changes)


def test_refuses_optimizers_that_cannot_be_captured() -> None:
    optimizer = th.optim.SGD([th.ones(1, requires_grad=True)], lr=0.1)
    with pytest.raises(ValueError, match="optimizer_class must satisfy: Adam or AdamW"):
        set_capturable(optimizer, True, th.device("cpu"))
    set_capturable(optimizer, False, th.device("cpu"))
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_gpu_is_read_rarely_and_before_a_log_is_written() -> None:
    model = small()
    model.learn(30)
    model.device = th.device("meta")  # not the CPU
    model.logger.name_to_value.clear()
    for _ in range(READ_EVERY - 1):
        model._record([{"rfm/ess": th.tensor(2.0)}])
    assert "rfm/ess" not in model.logger.name_to_value
    model._record([{"rfm/ess": th.tensor(2.0 + READ_EVERY)}])
    assert model.logger.name_to_value["rfm/ess"] == pytest.approx(3.0)
    model._record([{"rfm/ess": th.tensor(7.0)}])
    model._read()
    assert model.logger.name_to_value["rfm/ess"] == 7.0
    assert model._unread == []


@needs_gpu
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"estimator": {"n_times": 4, "n_particles": 8}},
        {"flow": {"one_step": True}, "temperature": "auto"},
    ],
    ids=str,
)
def test_trains_by_replay_on_a_gpu(changes: dict[str, Any]) -> None:
    schedule = {"learning_rate": lambda progress: 1e-3 * progress}
    settings = {**SMALL, "device": "cuda", "batch_size": 64, **schedule, **changes}
    model = RFMFlow("MlpPolicy", Bandit(), **settings)
    model.learn(20 + 2 * WARM_UP + 4)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(100, reset_num_timesteps=False)
    assert all(update.graph.captured for update in model.updates.values())
    after = model.policy.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    for part in ("actor.network", "critic.qf0", "critic_target.qf0"):
        moved = [not th.equal(before[key], after[key]) for key in before if key.startswith(part)]
        assert all(moved), part


@needs_gpu
@pytest.mark.parametrize("deterministic", [False, True])
def test_acts_by_replay_on_a_gpu(deterministic: bool) -> None:
    model = small(device="cuda").learn(40)
    plain = small(device="cuda", cuda_graph=False)
    plain.set_parameters(model.get_parameters())
    obs = np.random.default_rng(0).random((3 * WARM_UP, 2, 3), dtype=np.float32)
    actions = [model.predict(each, deterministic=deterministic)[0] for each in obs]
    assert model._acts is not None
    assert model._acts[deterministic].captured
    if deterministic:
        expected = [plain.predict(each, deterministic=True)[0] for each in obs]
        np.testing.assert_allclose(actions, expected, atol=1e-4)
    else:
        assert len({action.tobytes() for action in actions}) == len(obs)  # draws are new


class Asks(th.nn.Module):
    """An activation that reads a value from the device."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x.relu() * float(x.sum() < float("inf"))


@needs_gpu
def test_a_network_that_cannot_be_captured_trains_on_a_gpu() -> None:
    settings = {"policy_kwargs": {"net_arch": [16, 16], "activation_fn": Asks}}
    model = small(device="cuda", **settings)
    with pytest.warns(UserWarning, match="cannot be captured"):
        model.learn(60)
    assert model.updates[True].graph.gave_way  # type: ignore[attr-defined]
    assert all(value.isfinite().all() for value in model.policy.state_dict().values())
