"""
Returns of trained policies that search among 32 candidates, 4, or take the one they draw.

    .venv/bin/python benchmarks/learning/candidates.py RUN_FOLDER ...  # about a minute for each

A good estimator makes a policy that needs no search: one candidate should do as well as 32. Each
folder is that of a finished ``sb3-rfm run`` with an algorithm of ours. Prints a Markdown table;
``--csv FILE`` appends the rows to a file.
"""

import csv
from pathlib import Path

import numpy as np
from common_runs import command_line, final_model, returns_of_best

CANDIDATES = (1, 4, 32)
COLUMNS = ("run", "algorithm", "environment", "seed", "candidates", "mean_return", "std_return")


def evaluate(folder: Path, n_episodes: int) -> list[dict[str, object]]:
    """
    Returns of one run's final model.

    :param folder: of the run
    :param n_episodes: episodes for each number of candidates
    :return: a row for each number of candidates
    """
    model, settings = final_model(folder, env_seed=0)
    algorithm, environment, seed = (settings[key] for key in ("algo", "env", "seed"))
    rows = []
    for n_candidates in CANDIDATES:
        returns = returns_of_best(model, n_candidates, n_episodes, env_seed=1000 + seed)
        row = (folder.parent.name, algorithm, environment, seed, n_candidates)
        rows.append(dict(zip(COLUMNS, (*row, np.mean(returns), np.std(returns)), strict=True)))
    return rows


def main() -> None:
    """Evaluate every folder, print and write."""
    parser = command_line(__doc__)
    parser.add_argument("--episodes", type=int, default=5, metavar="N")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    print(f"| run | seed | {' | '.join(f'{n} candidates' for n in CANDIDATES)} |", flush=True)
    print("|---" * (2 + len(CANDIDATES)) + "|")
    for folder in arguments.folders:
        rows = evaluate(folder, arguments.episodes)
        cells = [f"{row['mean_return']:.0f} ± {row['std_return']:.0f}" for row in rows]
        print(f"| {rows[0]['run']} | {rows[0]['seed']} | {' | '.join(cells)} |", flush=True)
        if arguments.csv:
            new = not arguments.csv.exists()
            with arguments.csv.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if new:
                    writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
