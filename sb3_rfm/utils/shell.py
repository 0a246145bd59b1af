"""Commands as one types them."""

import os
import shlex
import subprocess
from collections.abc import Sequence


def command_line(arguments: Sequence[str]) -> str:
    """
    A command for the shell of this system.

    :param arguments: the program's name among them, or one word of a command alone
    :return: quoted where need be, so that it can be pasted
    """
    return subprocess.list2cmdline(arguments) if os.name == "nt" else shlex.join(arguments)
