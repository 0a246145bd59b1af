"""
Updates and acting, captured once as CUDA graphs and replayed: one launch in the place of some
thousand.

They can be captured because they ask for no value of a tensor (``tests/common/test_devices.py``).
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from sb3_rfm.common.batches import tensors_of
from sb3_rfm.common.device_replay import DeviceReplay, News
from sb3_rfm.common.optimization import Report
from sb3_rfm.common.staging import Kept, Staging
from sb3_rfm.sampling.registry import require

WARM_UP = 3
"""Calls before the capture: they make what is made once, such as the optimizers' moments."""

Work = Callable[[], Any]
Update = Callable[..., Mapping[str, Tensor]]
"""Batches, or :class:`News` of replay buffers, one of each member -> what is reported."""


class Place(Protocol):
    """Where arguments lie, ``data``, and new ones are sent."""

    data: Any

    def send(self, new: Any) -> None:
        """:param new: arguments of the same shapes"""


def record(work: Work) -> tuple[Tensor, Callable[[], None]]:
    """
    Capture work on the GPU; nothing is computed yet.

    :param work: what to capture
    :return: its result, and what computes it anew, in place
    """
    graph = th.cuda.CUDAGraph()
    with nothing_collected(), th.cuda.graph(graph):
        result = work()
    return result, graph.replay


@contextmanager
def nothing_collected() -> Iterator[None]:
    """
    Have Python's garbage collected before a ``with`` block and not within it: a graph that is freed
    while another one is captured breaks the capture.
    """
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def waits(work: Work) -> tuple[Tensor, bool]:
    """
    Do work and find out whether it waits for the GPU, which a capture forbids. (A capture that
    fails leaves the random generators unusable.)

    :param work: what to do
    :return: its result, and whether it waited
    """
    before = th.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        th.cuda.set_sync_debug_mode("warn")
        try:
            result = work()
        finally:
            th.cuda.set_sync_debug_mode(before)
    return result, any("synchronizing CUDA operation" in str(each.message) for each in caught)


def aside(work: Work) -> Any:
    """
    Do work on a stream of its own, as the calls before a capture have to be.

    :param work: what to do
    :return: its result
    """
    stream, current = th.cuda.Stream(), th.cuda.current_stream()
    stream.wait_stream(current)
    with th.cuda.stream(stream):
        results = work()
    current.wait_stream(stream)
    return results


class Graphed:
    """
    A function of tensors that is computed as it stands a few times, then captured, then replayed.

    A graph reads its arguments where the captured ones lay: new ones are sent there. It holds for
    arguments of one size, and as long as parameters and optimizer states stay where they are.

    :param function: tensors, or tuples and dictionaries of them -> a tensor; it asks for no value
        of a tensor
    :param place: arguments -> where such lie, for instance a
        :class:`sb3_rfm.common.staging.Staging`
    :param gives_way: whether the function is computed as it stands, with a warning, where it cannot
        be captured
    :param record: :func:`record`
    :param aside: :func:`aside`
    :param waits: :func:`waits`
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        place: Callable[[Any], Place] = Kept,
        gives_way: bool = False,
        record: Callable[[Work], tuple[Tensor, Callable[[], None]]] = record,
        aside: Callable[[Work], Tensor] = aside,
        waits: Callable[[Work], tuple[Tensor, bool]] = waits,
    ) -> None:
        self.function, self.make_place, self.gives_way = function, place, gives_way
        self.record, self.aside, self.waits = record, aside, waits
        self.n_calls, self.shapes = 0, [th.Size()]
        self.captured, self.gave_way = False, False

    def forget(self) -> None:
        """Compute as it stands again and capture anew: parameters have moved."""
        self.shapes = [th.Size()]

    def __call__(self, *arguments: Any) -> Tensor:
        """
        One call.

        :param arguments: of the function
        :return: its result
        """
        shapes = [tensor.shape for tensor in tensors_of(arguments)]
        if shapes != self.shapes:
            self.n_calls, self.shapes, self.captured = 0, shapes, False
            self.place = self.make_place(arguments)
        self.n_calls += 1
        self.place.send(arguments)
        if self.n_calls > WARM_UP and not self.gave_way:
            if not self.captured:
                self.result, self.replay = self.record(self._work)
                self.captured = True
            self.replay()
            return self.result.clone()
        if self.n_calls < WARM_UP or self.gave_way or not self.gives_way:
            return self.aside(self._work)
        result, self.gave_way = self.aside(lambda: self.waits(self._work))
        if self.gave_way:
            warnings.warn(
                "cuda_graph='auto': this model's networks ask for values on the GPU, so that they "
                "cannot be captured as a CUDA graph; it is trained without, and slower",
                stacklevel=2,
            )
        return result

    def _work(self) -> Tensor:
        """The function of what lies in place."""
        return self.function(*self.place.data)


class GraphedUpdate:
    """
    An update by a :class:`Graphed`; what it reports lies in one row.

    :param update: batches, or :class:`News` of replay buffers -> quantities to log, of one shape
    :param replay: those buffers on the device
    :param options: of :class:`Graphed`
    """

    def __init__(self, update: Update, replay: DeviceReplay, **options: Any) -> None:
        self.update, self.replay = update, replay
        self.graph = Graphed(self._row, **options)

    def _row(self, *batches: ReplayBufferSamples | News) -> Tensor:
        report = Report.of(self.update(*batches))
        self.names = report.names
        return report.row

    def __call__(self, *batches: ReplayBufferSamples | News) -> Report:
        """
        One update.

        :param batches: one, or one of each member of a population
        :return: quantities to log
        """
        if isinstance(batches[0], News):
            self.replay.catch_up(len(batches[0].places))
        row = self.graph(*batches)
        return Report(self.names, row)


def graphed_act(act: Callable[..., Tensor], device: th.device, gives_way: bool) -> Graphed:
    """
    Acting, to be captured; observations and noise are sent there from the host.

    :param act: observations and noise -> actions
    :param device: of the networks
    :param gives_way: see :class:`Graphed`
    :return: the same, as a graph
    """
    return Graphed(act, place=partial(Staging, device=device), gives_way=gives_way)


def graphed_updates(
    updates: Mapping[bool, Update], replay: DeviceReplay, gives_way: bool
) -> dict[bool, GraphedUpdate]:
    """
    Updates without and with the actor's, each to be captured; batches are sent there from the host.

    :param updates: by whether they are the actor's too
    :param replay: the replay buffers on the device of the networks
    :param gives_way: see :class:`Graphed`
    :return: the same, as graphs
    """
    place = partial(Staging, device=replay.device)
    return {
        with_actor: GraphedUpdate(update, replay, place=place, gives_way=gives_way)
        for with_actor, update in updates.items()
    }


def may_capture(
    cuda_graph: bool | str,
    device: th.device,
    on_nan: str,
    optimizers: Sequence[th.optim.Optimizer],
) -> bool:
    """
    Whether updates and acting are captured.

    :param cuda_graph: what the user asked for
    :param device: of the networks
    :param on_nan: what is done about numbers that are not finite
    :param optimizers: of the networks
    :return: for "auto" whether they can be
    """
    if device.type != "cuda":  # a model that was saved on a GPU, say
        return False
    if cuda_graph == "auto":
        adam = all(isinstance(optimizer, th.optim.Adam) for optimizer in optimizers)
        return adam and on_nan == "raise"
    return cuda_graph is True


def check_cuda_graph(cuda_graph: bool | str, device: th.device, on_nan: str) -> None:
    """
    Refuse graphs where there can be none.

    :param cuda_graph: what the user asked for
    :param device: of the networks
    :param on_nan: what is done about numbers that are not finite
    :raises ValueError: neither a bool nor "auto", no GPU, or updates that may be left out
    """
    known = isinstance(cuda_graph, bool) or cuda_graph == "auto"
    require(known, "cuda_graph", cuda_graph, "True, False or 'auto'")
    if cuda_graph is True:
        gpu = f"False on device {str(device)!r}, which is no CUDA device"
        require(device.type == "cuda", "cuda_graph", cuda_graph, gpu)
        asks = "False with on_nan='skip', which asks whether each gradient is finite"
        require(on_nan == "raise", "cuda_graph", cuda_graph, asks)


def set_capturable(optimizer: th.optim.Optimizer, capturable: bool, device: th.device) -> None:
    """
    Have an optimizer's step computed on the GPU alone, its learning rate read there; or undo that,
    where it was loaded so.

    :param optimizer: Adam or AdamW; any other to be left as it is
    :param capturable: whether its steps are to be captured
    :param device: of the parameters
    :raises ValueError: another optimizer is to be captured
    """
    known = isinstance(optimizer, th.optim.Adam)
    allowed = "Adam or AdamW with cuda_graph=True"
    require(known or not capturable, "optimizer_class", type(optimizer).__name__, allowed)
    for group in optimizer.param_groups:
        rate = group["lr"]
        if capturable:
            group.update(capturable=True, lr=th.full((), float(rate), device=device))
        elif isinstance(rate, Tensor):
            group.update(capturable=False, lr=float(rate))
