"""The command ``sb3-rfm``. Everything heavy is imported by the command that needs it."""

import difflib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_rfm.cli.parsers import (
    compare_parser,
    play_parser,
    plot_parser,
    report_parser,
    run_parser,
)
from sb3_rfm.utils.extras import EXTRAS, missing_extra
from sb3_rfm.utils.shell import command_line
from sb3_rfm.utils.streams import unfailing_output

if TYPE_CHECKING:
    from sb3_rfm.experiments.comparison.executors import Executor

HELP = """\
usage: sb3-rfm COMMAND [OPTIONS]

Diffusion and flow policies for Stable-Baselines3, by reverse flow matching.

commands:
  run            train once, with evaluations, curve, checkpoints and resume in one folder
  plot           draw learning curves over seeds, of run's folders and of train's
  train          train, or search hyperparameters (--optimize), with the RL Zoo
  enjoy          play an agent of run, compare or train
  record         record a video of an agent of run, compare or train
  push-to-hub    put an agent of train on the Hugging Face hub
  load-from-hub  get an agent from there, to enjoy it
  compare        train algorithms x environments x seeds, in parallel; go on after any stop
  report         curves, tables and statistics of a comparison

examples:
  sb3-rfm run --algo rfm_flow --env cartpole-swingup --steps 20000 --seed 0
  sb3-rfm run --resume runs/rfm_flow__dm_control-cartpole-swingup-v0__seed0 --steps 50000
  sb3-rfm plot runs
  sb3-rfm train --algo rfm_flow --env dm_control/cheetah-run-v0 -n 100000
  sb3-rfm train --algo rfm_flow --env cheetah-run -n 20000 --optimize --n-trials 20
  sb3-rfm enjoy runs/rfm_flow__dm_control-cartpole-swingup-v0__seed0
  sb3-rfm record runs/rfm_flow__dm_control-cartpole-swingup-v0__seed0 --gif
  sb3-rfm enjoy --algo rfm_flow --env dm_control/cheetah-run-v0 -f logs
  sb3-rfm compare --algos rfm_flow sac --envs cheetah-run walker-walk --seeds 0 1 2 --steps 100000
  sb3-rfm report runs/comparison

options:
  -h, --help  this text, or a command's own options after its name
  --version   the version of this package

enjoy and record take the folder of a run, or rl_zoo3's options, as train and the hub's commands do.
What is left out of those: --algo is rfm_flow, the hyperparameters are this package's (-conf),
--num-threads is 1, and the folder (-f) is logs/, where train writes. Without a display there is no
window."""


def run(arguments: list[str]) -> int:
    """
    ``sb3-rfm run``: one training run.

    :param arguments: what follows the command's name
    :return: exit code: 0; 1 when something could not be written; 130 when it was stopped
    """
    from sb3_rfm.experiments import run as experiment
    from sb3_rfm.experiments.hyperparams import parse_overrides
    from sb3_rfm.experiments.resources import Resources
    from sb3_rfm.experiments.settings import RunSettings

    parser = run_parser()
    options = vars(parser.parse_args(arguments))
    resources = Resources(
        options.pop("device"),
        options.pop("threads"),
        not options.pop("no_progress"),
        options.pop("video"),
    )
    given = {name: value for name, value in options.items() if value is not None}
    folder = given.pop("resume", None)
    if folder is not None:
        steps = given.pop("steps", None)
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            parser.error(f"--resume takes all settings from the folder's config.yml: drop {names}")
        return experiment.resume(folder, resources, steps)[1]
    if "env" not in given:
        parser.error("--env is required, for example --env dm_control/cartpole-swingup-v0")
    parent = given.pop("folder", Path("runs"))
    given["hyperparams"] = parse_overrides(given.get("hyperparams", []))
    settings = RunSettings(**{"algo": "rfm_flow"} | given)
    command = command_line(["sb3-rfm", "run", *arguments])
    return experiment.start(settings, parent, resources, command)[1]


def plot(arguments: list[str]) -> int:
    """
    ``sb3-rfm plot``: learning curves over seeds.

    :param arguments: what follows the command's name
    :return: exit code
    """
    from sb3_rfm.results import curves as learning
    from sb3_rfm.results.plots import draw_comparison

    options = plot_parser().parse_args(arguments)
    every = learning.read_curves(options.folders)
    curves, repeated = learning.one_per_seed(learning.select(every, options.algos, options.envs))
    for curve in repeated:
        print(f"Left out, a shorter run of the same seed: {curve.source}")
    first = options.folders[0]
    folder = first.parent if first.is_file() else first
    output = options.output or folder / "learning_curves.png"
    draw_comparison(curves, output)
    print(learning.table(curves))
    print(f"Written to {output}")
    return 0


def compare(arguments: list[str]) -> int:
    """
    ``sb3-rfm compare``: algorithms x environments x seeds.

    :param arguments: what follows the command's name
    :return: exit code: 0; 1 when a run failed; 130 when it was stopped
    """
    options = vars(compare_parser().parse_args(arguments))
    # before numpy is imported, and for the workers: each run has one core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from sb3_rfm.experiments.comparison.command import compare as run_comparison
    from sb3_rfm.experiments.comparison.definition_file import read_request
    from sb3_rfm.experiments.comparison.request import combined
    from sb3_rfm.experiments.hyperparams import parse_overrides
    from sb3_rfm.experiments.resources import Resources

    resources = Resources(options.pop("device"), progress=False)
    retries, jobs, ray = (options.pop(name) for name in ("retries", "jobs", "ray"))
    population = options.pop("population")
    given = {name: value for name, value in options.items() if value is not None}
    file = read_request(given.pop("config")) if "config" in given else {}
    if "hyperparams" in given:
        given["hyperparams"] = parse_overrides(given["hyperparams"])
    request = combined(file, given)
    folder = Path(request.get("folder") or "runs/comparison")
    command = command_line(["sb3-rfm", "compare", *arguments])
    executor = _executor(jobs, ray)
    return run_comparison(request, folder, executor, resources, retries, command, population)


def _executor(jobs: int | None, ray: str | None) -> "Callable[[int], Executor]":
    """
    What carries runs out.

    :param jobs: how many at a time; None for this machine's cores, or with Ray for all
    :param ray: None for this machine; else the cluster's address, empty for the one Ray finds
    :return: makes it, for the number of runs
    :raises ImportError: when Ray is asked for and missing
    :raises ValueError: when ``jobs`` is less than 1
    """
    from sb3_rfm.experiments.comparison.executors import LocalExecutor, RayExecutor, available_cores

    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be an integer of at least 1, got {jobs}.")
    if ray is None:
        return lambda runs: LocalExecutor(min(jobs or available_cores(), runs))
    import ray as _  # noqa: F401  (before anything is written)

    return lambda runs: RayExecutor(min(jobs or runs, runs), ray or None)


def report(arguments: list[str]) -> int:
    """
    ``sb3-rfm report``: what a comparison says.

    :param arguments: what follows the command's name
    :return: exit code
    """
    options: dict[str, Any] = vars(report_parser().parse_args(arguments))
    from sb3_rfm.experiments.comparison.report import write_report
    from sb3_rfm.results.scores import parse_ranges

    options["ranges"] = parse_ranges(options.pop("normalise"))
    command = command_line(["sb3-rfm", "report", *arguments])
    path, text = write_report(command=command, **options)
    print(text)
    print(f"Written to {path}")
    return 0


def _forward(command: str) -> Callable[[list[str]], int]:
    """
    A command of the RL Zoo's, or the same of a run's folder.

    :param command: ``train``, ``enjoy`` or ``record``
    :return: a function of what follows it
    """

    def forwarded(arguments: list[str]) -> int:
        if command != "train" and _names_a_run(arguments):
            return _play(command, arguments)
        from sb3_rfm.experiments import rl_zoo

        return rl_zoo.forward(command, arguments)

    return forwarded


def _hub(command: str) -> Callable[[list[str]], int]:
    """
    A command of the RL Zoo's for the Hugging Face hub.

    :param command: ``push-to-hub`` or ``load-from-hub``
    :return: a function of what follows it
    """

    def forwarded(arguments: list[str]) -> int:
        from sb3_rfm.experiments import hub

        return hub.forward(command, arguments)

    return forwarded


def _names_a_run(arguments: list[str]) -> bool:
    """
    Whether one of the arguments is the folder of a run.

    :param arguments: what follows ``enjoy`` or ``record``
    :return: True when one is, or the first is no option: rl_zoo3 has options alone
    """
    first = bool(arguments) and not arguments[0].startswith("-")
    return first or any((Path(argument) / "config.yml").is_file() for argument in arguments)


def _play(command: str, arguments: list[str]) -> int:
    """
    ``sb3-rfm enjoy`` and ``record`` of a run's folder.

    :param command: which of the two
    :param arguments: what follows it
    :return: exit code
    """
    options = vars(play_parser(command).parse_args(arguments))
    from sb3_rfm.experiments.resources import Resources

    Resources(options["device"], options.pop("num_threads")).use()
    options["deterministic"] = not options.pop("stochastic")
    if command == "record":
        from sb3_rfm.experiments.recording import record

        written = record(output=options.pop("output_folder"), **options)
        print(f"Written to {' and '.join(map(str, written))}")
    else:
        from sb3_rfm.experiments.play import enjoy

        enjoy(render=not options.pop("no_render"), **options)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "plot": plot,
    "train": _forward("train"),
    "enjoy": _forward("enjoy"),
    "record": _forward("record"),
    "push-to-hub": _hub("push-to-hub"),
    "load-from-hub": _hub("load-from-hub"),
    "compare": compare,
    "report": report,
}


def _fail(message: str, code: int) -> int:
    """
    Report an error of the user's.

    :param message: what was wrong
    :param code: exit code
    :return: the exit code
    """
    print(f"sb3-rfm: {' '.join(message.split())}", file=sys.stderr)  # one line
    return code


def main(argv: list[str] | None = None) -> int:
    """
    The entry point.

    :param argv: arguments, those of the process by default
    :return: exit code: 0; 1 an error; 2 wrong usage; 130 stopped by Ctrl-C
    """
    # before torch is imported: huge pages make its large, short-lived tensors cheap to allocate
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if arguments else 2
    command, *rest = arguments
    if command == "--version":
        from sb3_rfm import __version__

        print(__version__)
        return 0
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return _fail(f"unknown command {command!r}{hint}; one of {', '.join(COMMANDS)}", 2)
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # for a MODULE:Name-v0 of the user's
    try:
        with unfailing_output():
            return COMMANDS[command](rest)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in EXTRAS:
            return _fail(missing_extra(f"{command}: needs", [package], EXTRAS[package]), 1)
        if isinstance(error, ModuleNotFoundError):
            raise  # a fault, not a choice of the installation
        return _fail(f"{command}: {error}", 1)
    except (ValueError, FileNotFoundError) as error:  # a failure of training is a RuntimeError
        return _fail(f"{command}: {error}", 2)
    except OSError as error:  # a full disk, a folder that may not be written to
        return _fail(f"{command}: {error}", 1)
