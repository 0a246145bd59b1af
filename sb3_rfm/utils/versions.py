"""What results depend on: the versions of Python, of this package and of those under it."""

import importlib.metadata
import platform

from sb3_rfm.utils.version import __version__

PACKAGES = ("stable-baselines3", "torch", "gymnasium", "numpy", "shimmy", "dm_control", "mujoco")


def versions() -> dict[str, str]:
    """
    What the run depended on.

    :return: version by package, Python's and ours included
    """
    found = {"sb3-rfm": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
