"""
Updates captured once as CUDA graphs and replayed: one launch in the place of some thousand.

An update can be captured because it asks for no value of a tensor
(``tests/common/test_devices.py``).
"""

from collections.abc import Callable

import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from sb3_rfm.common.batches import mapped, tensors_of
from sb3_rfm.common.targets import Info
from sb3_rfm.sampling.registry import require

WARM_UP = 3
"""Updates before the capture: they make what is made once, such as the optimizers' moments."""

Work = Callable[[], Info]
Update = Callable[[ReplayBufferSamples], Info]


def record(work: Work) -> tuple[Info, Callable[[], None]]:
    """
    Capture work on the GPU; nothing is computed yet.

    :param work: what to capture
    :return: its results, and what computes them anew, in place
    """
    graph = th.cuda.CUDAGraph()
    with th.cuda.graph(graph):
        results = work()
    return results, graph.replay


def aside(work: Work) -> Info:
    """
    Do work on a stream of its own, as the updates before a capture have to be.

    :param work: what to do
    :return: its results
    """
    stream, current = th.cuda.Stream(), th.cuda.current_stream()
    stream.wait_stream(current)
    with th.cuda.stream(stream):
        results = work()
    current.wait_stream(stream)
    return results


class GraphedUpdate:
    """
    An update that is computed as it stands a few times, then captured, then replayed.

    A graph reads its batch where the captured one lay, so that new batches are copied there. It
    holds for batches of one size, and as long as parameters and optimizer states stay where they
    are.

    :param update: a batch -> quantities to log; it asks for no value of a tensor
    :param record: :func:`record`
    :param aside: :func:`aside`
    """

    def __init__(
        self,
        update: Update,
        record: Callable[[Work], tuple[Info, Callable[[], None]]] = record,
        aside: Callable[[Work], Info] = aside,
    ) -> None:
        self.update, self.record, self.aside = update, record, aside
        self.n_calls, self.shapes = 0, [th.Size()]

    def __call__(self, data: ReplayBufferSamples) -> Info:
        """
        One update.

        :param data: the batch
        :return: quantities to log
        """
        new = tensors_of(data)
        if [tensor.shape for tensor in new] != self.shapes:
            self.n_calls, self.shapes = 0, [tensor.shape for tensor in new]
        self.n_calls += 1
        if self.n_calls <= WARM_UP:
            return self.aside(lambda: self.update(data))
        if self.n_calls == WARM_UP + 1:
            self.batch = mapped(data, Tensor.clone)
            self.results, self.replay = self.record(lambda: self.update(self.batch))
        for kept, tensor in zip(tensors_of(self.batch), new, strict=True):
            kept.copy_(tensor, non_blocking=True)
        self.replay()
        return {key: value.clone() for key, value in self.results.items()}


def check_cuda_graph(cuda_graph: bool, device: th.device, on_nan: str) -> None:
    """
    Refuse graphs where there can be none.

    :param cuda_graph: whether updates are to be captured
    :param device: of the networks
    :param on_nan: what is done about numbers that are not finite
    :raises ValueError: no bool, a device that is no GPU, or updates that may be left out
    """
    require(isinstance(cuda_graph, bool), "cuda_graph", cuda_graph, "True or False")
    if cuda_graph:
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
