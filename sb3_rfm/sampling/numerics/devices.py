"""Where tensors are, as far as that decides how to compute."""

from torch import Tensor


def on_host(tensor: Tensor) -> bool:
    """
    Whether work may depend on a tensor's values at no cost.

    On a GPU a branch on a value, or a shape that depends on one, waits for all the work before it.

    :param tensor: any
    :return: true on the CPU
    """
    return tensor.device.type == "cpu"
