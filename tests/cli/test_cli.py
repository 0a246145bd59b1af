"""The command line: help, errors and exit codes. What the commands do is tested beside them."""

import subprocess
import sys
from pathlib import Path

import pytest

import sb3_rfm
from sb3_rfm.cli import main as cli


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def _python(*arguments):
    """A fresh interpreter, which finds the package from the repository's root."""
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["plot", "--help"]])
def test_help_is_there_without_importing_what_is_slow(arguments):
    script = f"""
import sys
from sb3_rfm.cli.main import main
try:
    code = main({arguments})
except SystemExit as error:  # argparse
    code = error.code
heavy = {{"torch", "gymnasium", "stable_baselines3", "rl_zoo3", "matplotlib", "shimmy"}}
print("code", code, sorted(heavy & set(sys.modules)))
"""
    done = _python("-c", script)
    assert done.stdout.startswith("usage: sb3-rfm")
    assert done.stdout.endswith("code 0 []\n"), done.stdout + done.stderr


def test_help_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out.split("commands:\n")[1].split("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()] == list(cli.COMMANDS)


def test_no_command_shows_the_help_and_fails(capsys):
    assert cli.main([]) == 2
    assert "usage: sb3-rfm COMMAND" in capsys.readouterr().out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{sb3_rfm.__version__}\n"


def test_an_unknown_command_brings_the_one_meant(capsys):
    assert cli.main(["trian"]) == 2
    error = capsys.readouterr().err
    assert "unknown command 'trian' (did you mean train?)" in error
    assert "run, plot, train, enjoy, record" in error


def test_the_entry_point_passes_the_exit_code_on():
    assert _python("-m", "sb3_rfm.cli", "nothing").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--env", "Pendulm-v1"], "Unknown environment 'Pendulm-v1': did you mean Pendulum"),
        (["run", "--env", "CartPole-v1"], "must have continuous actions (a Box), got CartPole-v1"),
        (["run", "--env", "Pendulum-v1", "--steps", "-1"], "steps must be an integer of at least"),
        (["run", "--env", "Pendulum-v1", "--threads", "0"], "threads must be an integer of at"),
        (
            ["run", "--env", "Pendulum-v1", "--hyperparams", "gamma"],
            "hyperparams must be key:value, got 'gamma'",
        ),
        (
            ["run", "--env", "Pendulum-v1", "--hyperparams", "n_partcles:3"],
            "RFMFlow has no hyperparameter 'n_partcles': it has policy, env, ",
        ),
        (
            ["run", "--env", "Pendulum-v1", "--hyperparams", "estimatr.name:diagonal"],
            "RFMFlow has no hyperparameter 'estimatr': did you mean estimator",
        ),
        (
            ["run", "--env", "Pendulum-v1", "--hyperparams", "n_particles:3"],
            "RFMFlow has no hyperparameter 'n_particles': it is estimator.n_particles now",
        ),
        (
            ["run", "--algo", "qne", "--env", "Pendulum-v1", "--hyperparams", "temprature:3"],
            "QNE has no hyperparameter 'temprature': did you mean temperature",
        ),
        (["run", "--env", "Pendulum-v1", "--device", "moon"], "device must be 'auto' or a device"),
        (["run", "--env", "Pendulum-v1", "--device", "mps"], "device 'mps' cannot be used here"),
        (["run", "--env", "nowhere:Thing-v0"], "No module named 'nowhere'"),
        *[
            (["run", "--env", "Pendulum-v1", "--hyperparams", pair, *more], message)
            for pair, message, *more in [
                ("estimator.n_partcles:3", "no setting 'n_partcles': did you mean n_particles"),
                ("flow.steps:many", "flow.steps must be an int of at least 1; got 'many'"),
                ("flow:fast", "flow must be a dict of its settings"),
                ("flow:fast", "flow must be a dict of its settings; got 'fast'", "flow.steps:3"),
                ("critic_update.learning_rate:fast", "critic_update.learning_rate must be a"),
                ("buffer_size:30.5", "buffer_size must be an int of at least 1; got 30.5"),
                ("policy_kwargs:dict(activation_fn=nn.ReLU)", "classes can be given in Python"),
                ("policy_kwargs:dict(foo=1)", "unexpected keyword argument 'foo'"),
                ("train_freq:(1,'episode')", "in steps with several environments", "n_envs:2"),
                ("buffer_size:many", "RFMFlow cannot be made: "),
                ("n_timesteps:many", "n_timesteps must be an integer, got 'many'"),
                ("n_envs:0", "n_envs must be an integer of at least 1, got 0"),
                ("noise_type:normal", "noise_std must be a number", "noise_std:loud"),
                ("env_wrapper:no.such.Wrapper", "No module named 'no'"),
                ("env_wrapper:gymnasium.wrappers.No", "has no attribute 'No'"),
                (
                    "env_wrapper:{'gymnasium.wrappers.TimeLimit': {'steps': 3}}",
                    "missing a required argument: 'max_episode_steps'",
                ),
            ]
        ],
        (["run", "--resume", "nothing"], "--resume: there is no folder nothing"),
        (["run", "--resume", "."], ". is not the folder of a run: it has no config.yml"),
        (["plot", "nothing"], "There is no folder nothing"),
        (["plot", "."], "There is no evaluation in ."),
        (["train"], "--env is required"),
        (["enjoy", "--env", "chetah-run"], "did you mean cheetah-run"),
    ],
)
def test_errors_of_the_user_are_one_line(arguments, message, tmp_path, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sb3-rfm: {arguments[0]}: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())  # and nothing is left behind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "--env is required"),
        (["run", "--algo", "dqn", "--env", "Pendulum-v1"], "invalid choice: 'dqn'"),
        (["run", "--resume", "x", "--steps", "9", "--eval-freq", "3"], "drop --eval-freq"),
        (["plot"], "required: folders"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("rl_zoo3", ["train", "--env", "Pendulum-v1"], "zoo"),
        ("yaml", ["run", "--env", "Pendulum-v1"], "zoo"),
        ("shimmy", ["run", "--env", "dm_control/cheetah-run-v0"], "dmc"),
    ],
)
def test_a_missing_package_brings_the_extra_to_install(package, arguments, extra):
    script = f"import sys; sys.modules[{package!r}] = None\n"
    script += f"from sb3_rfm.cli.main import main; sys.exit(main({arguments}))"
    done = _python("-c", script)
    assert done.returncode == 1, done.stderr
    assert f"install the extra: pip install '.[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.filterwarnings("ignore:.*is out of date")
def test_what_an_environment_needs_is_one_line(tmp_path, capsys):
    assert cli.main(["run", "--env", "Ant-v2"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("sb3-rfm: run: The mujoco v2 and v3 based environments have been moved")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["a file/runs", "a file"])
def test_a_folder_that_cannot_be_made_is_one_line(where, tmp_path, capsys):
    (tmp_path / "a file").touch()
    arguments = ["run", "--algo", "sac", "--env", "Pendulum-v1", "--folder", str(tmp_path / where)]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert "a file" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    ["{[", "nothing: 1", "settings: 3", "settings: {algo: sac, env: Pendulum-v1, moon: 3}"],
)
def test_a_configuration_that_is_not_ours_is_one_line(text, tmp_path, capsys):
    (tmp_path / "config.yml").write_text(text)
    assert cli.main(["run", "--resume", "."]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sb3-rfm: run: config.yml")
    assert error.count("\n") == 1


@pytest.mark.parametrize("kind", [TypeError, KeyError, AttributeError, RuntimeError])
def test_a_fault_keeps_its_traceback(kind, monkeypatch):
    def broken(arguments):
        raise kind("ours")

    monkeypatch.setitem(cli.COMMANDS, "run", broken)
    with pytest.raises(kind, match="ours"):
        cli.main(["run"])


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(arguments):
        import no_such_module  # noqa: F401

    monkeypatch.setitem(cli.COMMANDS, "run", broken)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        cli.main(["run"])


def test_an_early_ctrl_c(monkeypatch, capsys):
    def stopped(arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "run", stopped)
    assert cli.main(["run"]) == 130
    assert capsys.readouterr().err == "sb3-rfm: stopped\n"
