"""Which of this package's extras brings a package, and how an extra is installed."""

import sys
from collections.abc import Sequence

PACKAGES = {
    "dmc": ("shimmy", "dm_control", "mujoco"),
    "zoo": (
        "rl_zoo3",
        "huggingface_sb3",
        "huggingface_hub",
        "requests",
        "optuna",
        "yaml",
        "matplotlib",
        "pandas",
        "rich",
        "tqdm",
        "tensorboard",
        "rliable",
        "moviepy",
        "imageio_ffmpeg",
        "PIL",
        "pygame",
        "box2d",
    ),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "ray": ("ray",),
}
EXTRAS = {package: extra for extra, packages in PACKAGES.items() for package in packages}
# labmaze, which dm_control needs, has wheels for Python 3.12 and older.
DMC_PYTHONS = "Python 3.10, 3.11 or 3.12"


def missing_extra(what: str, packages: Sequence[str], extra: str) -> str:
    """
    What to do about packages that are not installed.

    :param what: needs them, with its verb
    :param packages: their names
    :param extra: of this package, that brings them
    :return: one sentence
    """
    missing = f"{what} {' and '.join(packages)}, not installed here:"
    if extra == "dmc" and sys.version_info >= (3, 13):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return f"{missing} there is no dm_control for Python {version}; take {DMC_PYTHONS}"
    return f"{missing} install the extra: pip install '.[{extra}]' in a checkout of sb3_rfm"
