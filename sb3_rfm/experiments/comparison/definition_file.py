"""The YAML files of comparisons: the one of ``--config``, and the one in a comparison's folder."""

import re
from pathlib import Path
from typing import Any

import yaml

from sb3_rfm.experiments.comparison.definition import Comparison
from sb3_rfm.experiments.comparison.request import KEYS, define
from sb3_rfm.utils.files import write_whole

FILE = "comparison.yml"


class _Loader(yaml.SafeLoader):
    """Reads ``3e-4`` as the number it is; YAML 1.1 wants ``3.0e-4``, and has a string else."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"),
    list("-+0123456789"),
)


def read_request(path: Path) -> dict[str, Any]:
    """
    A comparison's YAML file.

    :param path: of ``--config``
    :return: plain values by key
    :raises FileNotFoundError: when there is none
    :raises ValueError: when it is not YAML, or not a mapping
    """
    if not path.is_file():
        raise FileNotFoundError(f"--config: there is no file {path}.")
    try:
        given = yaml.load(path.read_text("utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"--config: {path} is not YAML: {error}".replace("\n", " ")) from error
    if not isinstance(given, dict):
        raise ValueError(f"--config: {path} must have the keys {', '.join(KEYS)}.")
    return given


def to_yaml(content: dict[str, Any]) -> str:
    """
    YAML as one would write it by hand.

    :param content: plain values
    :return: lines, the innermost lists and mappings on one each
    """
    return yaml.safe_dump(content, sort_keys=False, width=100, default_flow_style=None)


def read_comparison(folder: Path) -> tuple[Comparison | None, list[str]]:
    """
    What a folder remembers.

    :param folder: of a comparison; it need not exist
    :return: the comparison, or None; and the commands that made it
    :raises ValueError: when the file is not one of a comparison
    """
    path = folder / FILE
    if not path.is_file():
        return None, []
    given = read_request(path)
    return define(given), list(given.get("commands", []))


def write_comparison(comparison: Comparison, folder: Path, commands: list[str]) -> None:
    """
    Write ``comparison.yml``, whole or not at all.

    :param comparison: what to remember
    :param folder: made if need be
    :param commands: that made it
    """
    content = comparison.plain() | {"commands": commands}
    write_whole(folder / FILE, to_yaml(content).encode())
