"""
Run Stable-Baselines3's own tests with our classes in SAC's and in TD3's place (``make
conformance``).

The tests come from the source distribution of the installed version, which pip downloads as it is
configured here; nothing of them is kept in this repository. ``skips.yml`` says what is left out,
and why.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sb3_conformance import CLASSES, PLACES

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".conformance"
PACKAGE = "stable_baselines3"
COLUMNS = ("passed", "skipped", "skipped by SB3", "known faults", "failed", "needless")


def sources(cache: Path) -> Path:
    """
    The unpacked source distribution of the installed Stable-Baselines3, downloaded once.

    :param cache: folder that holds it, made if need be
    :return: its folder
    :raises SystemExit: pip cannot download it, or it holds no tests
    """
    wanted = f"{PACKAGE}-{version(PACKAGE)}"
    target = cache / wanted
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            options = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", aside]
            command = [sys.executable, "-m", "pip", "download", "--quiet", *options]
            if subprocess.run([*command, f"{PACKAGE}=={version(PACKAGE)}"]).returncode:
                raise SystemExit(f"pip could not download the source distribution of {wanted}.")
            (archive,) = Path(aside).glob("*.tar.gz")
            with tarfile.open(archive) as file:
                file.extractall(aside, filter="data")
            (Path(aside) / wanted).rename(target)
    if not (target / "tests").is_dir():
        raise SystemExit(f"The source distribution of {wanted} holds no tests.")
    return target


def test_files(tests: Path, place: str) -> list[str]:
    """
    The files of tests that name a class (the others may need packages that are not installed).

    :param tests: the folder of tests
    :param place: "SAC" or "TD3"
    :return: file names
    """
    word = re.compile(rf"\b{place}\b")
    files = sorted(tests.glob("test_*.py"))
    return [f.name for f in files if word.search(f.read_text(encoding="utf-8"))]


def run(tests: Path, name: str, place: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Run the tests with one class in one place.

    :param tests: the folder of tests
    :param name: of our class
    :param place: "SAC" or "TD3"
    :param arguments: of the command line
    :return: what the plugin reported, the seconds and the exit status
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-rfE", "--show-capture=no"]
        command += ["-p", "sb3_conformance", "-p", "no:cacheprovider"]
        command += ["--ours", name, "--in-place-of", place, "--report", str(report)]
        command += [f"--basetemp={folder}/pytest"]
        command += [] if arguments.expensive else ["-m", "not expensive"]
        command += ["--run-skipped"] if arguments.run_skipped else []
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        settings = {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "disable"}
        started = time.monotonic()
        done = subprocess.run(
            [*command, *test_files(tests, place)],
            cwd=tests,
            env={**settings, **os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        print(f"\n==> {name} in the place of {place}\n{done.stdout}", end="", flush=True)
        found = {"class": name, "place": place, "counts": {}, "stale": []}
        if report.is_file():
            found = json.loads(report.read_text(encoding="utf-8"))
        return {**found, "seconds": time.monotonic() - started, "status": done.returncode}


def table(results: list[dict[str, Any]]) -> str:
    """
    The counts, as a Markdown table.

    :param results: of :func:`run`
    :return: the text
    """
    rows = ["| class | in the place of | " + " | ".join(COLUMNS) + " | seconds |"]
    rows.append("|---" * 2 + "|--:" * (len(COLUMNS) + 1) + "|")
    for result in results:
        counts = " | ".join(str(result["counts"].get(column, 0)) for column in COLUMNS)
        seconds = f"{result['seconds']:.0f}"
        rows.append(f"| {result['class']} | {result['place']} | {counts} | {seconds} |")
    return "\n".join(rows)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("classes", nargs="*", default=CLASSES, help=f"of {', '.join(CLASSES)}; all by default")
    add("--places", nargs="+", choices=PLACES, default=PLACES)
    add("--expensive", action="store_true", help="what SB3 marks so: a model of several gigabytes")
    add("--run-skipped", action="store_true", help="run what skips.yml names: all of it must fail")
    add("--jobs", type=int, default=1, metavar="N", help="classes and places tested at a time")
    add("--cache", type=Path, default=CACHE, help="folder of the source distribution")
    parsed = parser.parse_args(arguments)
    for name in parsed.classes:
        if name not in CLASSES:
            parser.error(f"there is no class {name!r}; there are {', '.join(CLASSES)}")
    return parsed


def main() -> int:
    """
    Run all that is asked for, and print the counts.

    :return: 0 when nothing failed
    """
    arguments = parse()
    tests = sources(arguments.cache) / "tests"
    pairs = [(name, place) for name in arguments.classes for place in arguments.places]
    with ThreadPoolExecutor(arguments.jobs) as pool:  # each waits for a process of its own
        results = list(pool.map(lambda pair: run(tests, *pair, arguments), pairs))
    print("\n" + table(results))
    for result in results:
        for entry in result["stale"]:
            print(f"skips.yml: no test matches {entry} ({result['class']}, {result['place']})")
        for test in result.get("needless tests", []):
            print(f"skips.yml: {test} passes ({result['class']}, {result['place']})")
    return int(any(result["status"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
