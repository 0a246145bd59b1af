"""What is loaded before something else needs it."""

import subprocess
import sys

CODE = """
import warnings
import torch as th
from sb3_rfm.utils.preload import load_jvp_rules
warnings.simplefilter("error")
load_jvp_rules()
value, change = th.func.jvp(th.square, (th.full((), 3.0),), (th.ones(()),))
assert (float(value), float(change)) == (9.0, 6.0)
"""


def test_products_along_a_direction_come_without_warnings() -> None:
    """In a process of its own: the rules are compiled once in each."""
    subprocess.run([sys.executable, "-c", CODE], check=True)
