"""The options of the commands. Nothing heavy is imported: ``--help`` is quick."""

import argparse
from pathlib import Path


def run_parser() -> argparse.ArgumentParser:
    """
    The options of ``run``; None is what was not given.

    :return: the parser
    """
    from sb3_rfm.experiments.hyperparams import ALGORITHMS

    parser = argparse.ArgumentParser("sb3-rfm run", description="Train once; resume with --resume.")
    add = parser.add_argument
    add("--algo", choices=list(ALGORITHMS), help="algorithm (rfm_flow)")
    add("--env", help="an id, MODULE:Name-v0, or the short name of a DeepMind Control task")
    add("--steps", type=int, help="environment steps (n_timesteps of the YAML file)")
    add("--seed", type=int, help="random seed (0)")
    add("--eval-freq", type=int, metavar="STEPS", help="steps between evaluations (steps/10)")
    add("--eval-episodes", type=int, metavar="N", help="episodes of an evaluation (5)")
    add("--checkpoint-freq", type=int, metavar="STEPS", help="steps between checkpoints (10000)")
    add("--hyperparams", nargs="+", metavar="KEY:VALUE", help="e.g. temperature:0.05 gamma:0.98")
    add("--folder", type=Path, help="where the run's folder is made (runs)")
    add(
        "--resume",
        type=Path,
        metavar="RUN_FOLDER",
        help="go on with a run; --steps sets a later target",
    )
    add("--device", default="auto", help="of PyTorch (auto)")
    add("--threads", type=int, default=1, help="of PyTorch (1)")
    add("--no-progress", action="store_true", help="no progress bar")
    add(
        "--video",
        action="store_true",
        help="leave final_model.mp4, an episode of the final model, and final_model.gif, which is "
        "small enough for a page; draws nothing while it trains",
    )
    return parser


def play_parser(command: str) -> argparse.ArgumentParser:
    """
    The options of ``enjoy`` and ``record`` with the folder of a run.

    :param command: which of the two
    :return: the parser
    """
    parser = argparse.ArgumentParser(
        f"sb3-rfm {command}",
        description="Play an agent of run, make train or compare: its final model, or its newest "
        "checkpoint. Without RUN_FOLDER the options are rl_zoo3's, for agents of train.",
    )
    add = parser.add_argument
    add("path", type=Path, metavar="RUN_FOLDER", help="for example runs/<algo>__<env>__seed0")
    plays = command == "enjoy"
    add(
        "-n",
        "--n-timesteps",
        type=int,
        default=1000 if plays else None,
        metavar="N",
        help="steps to play (1000)" if plays else "steps to record (one episode)",
    )
    add("--stochastic", action="store_true", help="actions as in training, not as in evaluations")
    add("--seed", type=int, default=0, help="of the environment (0)")
    add("--device", default="auto", help="of PyTorch (auto)")
    add("--num-threads", type=int, default=1, help="of PyTorch (1)")
    if plays:
        add("--no-render", action="store_true", help="no window")
    else:
        add("-o", "--output-folder", type=Path, help="of the video (the run's)")
        add("--gif", action="store_true", help="a GIF beside the MP4, of at most a megabyte")
    return parser


def plot_parser() -> argparse.ArgumentParser:
    """
    The options of ``plot``.

    :return: the parser
    """
    parser = argparse.ArgumentParser(
        "sb3-rfm plot",
        description="Mean return over seeds with a 95%% bootstrap interval, one panel per "
        "environment. Several folders are compared with each other.",
    )
    add = parser.add_argument
    add(
        "folders",
        nargs="+",
        type=Path,
        help="of compare, of run (--folder) or of train (-f), or an evaluations.csv",
    )
    add("-o", "--output", type=Path, help="picture (learning_curves.png in the first folder)")
    add("--algos", nargs="+", metavar="ALGO", help="only these algorithms")
    add("--envs", nargs="+", metavar="ENV", help="only these environments; dashes or slashes")
    return parser


def compare_parser() -> argparse.ArgumentParser:
    """
    The options of ``compare``; None is what was not given.

    :return: the parser
    """
    parser = argparse.ArgumentParser(
        "sb3-rfm compare",
        description="Train every algorithm on every environment with every seed, several runs at "
        "once. Called again in its folder it goes on: finished runs are skipped, interrupted ones "
        "continue from their checkpoints, and what is new on the command line is added.",
    )
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="YAML file with the options below as its keys")
    add("--algos", nargs="+", metavar="ALGO", help="algorithms, or labels of the file")
    add("--envs", nargs="+", metavar="ENV", help="ids, MODULE:Name-v0, or short names of DMC tasks")
    add("--seeds", nargs="+", type=int, metavar="SEED", help="of the runs")
    add("--steps", type=int, help="environment steps of each run")
    add("--eval-freq", type=int, metavar="STEPS", help="steps between evaluations (steps/10)")
    add("--eval-episodes", type=int, metavar="N", help="episodes of an evaluation (5)")
    add("--checkpoint-freq", type=int, metavar="STEPS", help="steps between checkpoints (10000)")
    add("--hyperparams", nargs="+", metavar="KEY:VALUE", help="of all the algorithms named")
    add("--folder", type=Path, help="of the comparison (runs/comparison)")
    add("--jobs", type=int, metavar="N", help="runs at a time (the CPU cores; with --ray, all)")
    add("--retries", type=int, default=2, metavar="N", help="of a run whose worker was killed (2)")
    add(
        "--population",
        default="auto",
        metavar="N",
        help="seeds of an algorithm on an environment that one worker trains together, at most "
        "(auto: 16 on a GPU, 1 on the CPU)",
    )
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="on a Ray cluster: of this address, else the one Ray finds, else a local one",
    )
    add("--device", default="auto", help="of PyTorch (auto)")
    return parser


def report_parser() -> argparse.ArgumentParser:
    """
    The options of ``report``.

    :return: the parser
    """
    parser = argparse.ArgumentParser(
        "sb3-rfm report",
        description="Learning curves, a table, interquartile means and probabilities of "
        "improvement with 95%% bootstrap intervals, in report.md.",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="FOLDER_OR_CSV", help="of compare, or its comparison.csv")
    add("-o", "--output", type=Path, metavar="FOLDER", help="of the report (the comparison's)")
    add(
        "--reference", metavar="LABEL", help="what the others are compared with (sac, or the first)"
    )
    add("--steps", type=int, help="report the evaluations at this step (the last)")
    add(
        "--normalise",
        nargs="+",
        default=[],
        metavar="ENV:LOW:HIGH",
        help="scores of ENV are (return - LOW) / (HIGH - LOW); DeepMind Control has 0 and 1000",
    )
    return parser
