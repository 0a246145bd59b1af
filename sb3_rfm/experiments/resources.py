"""How a run is carried out: device, threads, progress bar and video."""

from dataclasses import dataclass

from sb3_rfm.experiments.settings import RunSettings


@dataclass(frozen=True)
class Resources:
    """
    How a run is carried out; it may differ when it goes on.

    :param device: of PyTorch
    :param threads: of PyTorch; small networks are fastest with one
    :param progress: whether to show a progress bar
    :param video: whether to leave a video of the final policy
    """

    device: str = "auto"
    threads: int = 1
    progress: bool = True
    video: bool = False

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be an integer of at least 1, got {self.threads!r}.")

    def use(self) -> None:
        """
        Set PyTorch's threads, and try the device.

        :raises ValueError: when this machine has no such device
        """
        import torch as th
        from stable_baselines3.common.utils import get_device

        from sb3_rfm.common.arguments import check_device

        th.set_num_threads(self.threads)
        check_device(self.device)
        try:
            th.zeros(1, device=get_device(self.device))
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition(". ")[0]
            raise ValueError(f"device {self.device!r} cannot be used here: {reason}") from error

    def check_video(self, settings: RunSettings) -> None:
        """
        Try to make a video, where one is asked for, before hours of training.

        :param settings: of the run, resolved
        :raises ValueError: when there is nothing to draw with
        :raises ImportError: when a package is missing that draws, or that makes videos
        """
        if self.video:
            from sb3_rfm.experiments.recording import check_recording

            check_recording(settings)


USUAL = Resources()
"""The device that there is, one thread, a progress bar and no video."""
