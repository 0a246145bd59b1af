"""One training run with everything on the disk: ``sb3-rfm run``."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_rfm.checkpoints.replay import grow
from sb3_rfm.experiments.folder import RunFolder
from sb3_rfm.experiments.hyperparams import algorithm_class
from sb3_rfm.experiments.resources import USUAL, Resources
from sb3_rfm.experiments.settings import RunSettings, buffer_length, make_env, make_model
from sb3_rfm.results.evaluations import Evaluation
from sb3_rfm.utils.shell import command_line
from sb3_rfm.utils.versions import versions

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    from sb3_rfm.experiments.callbacks import Clock, StopRequest

INTERRUPTED = 130  # the shell's exit code for Ctrl-C
UNWRITTEN = 1  # exit code of a run that did what it could, and could not write all of it


def start(
    settings: RunSettings,
    parent: Path = Path("runs"),
    resources: Resources = USUAL,
    command: str = "",
    folder: RunFolder | None = None,
    callbacks: "Sequence[BaseCallback]" = (),
) -> tuple[RunFolder, int]:
    """
    Train from scratch, in a new folder.

    :param settings: what to train on what
    :param parent: where the run's folder is made
    :param resources: device, threads, progress bar, video
    :param command: noted in ``config.yml``
    :param folder: one that is there already, and holds no run, in place of a new one in ``parent``
    :param callbacks: called at each step, besides the run's own
    :return: the folder, and the exit code: 0; 130 when it was stopped; 1 when something that it
        leaves behind could not be written, which ``folder.unwritten`` names
    :raises ValueError: when the environment or a hyperparameter is unknown, or a video is asked for
        and there is nothing to draw with
    :raises OSError: when the folder cannot be made
    """
    from sb3_rfm.experiments.callbacks import Clock, StopRequest

    clock = Clock()
    resources.use()
    settings = settings.resolved()
    spent = clock.seconds()
    resources.check_video(settings)
    clock = Clock(spent)  # what a video costs is none of the training's time
    with StopRequest() as stop:
        model, hyperparams = make_model(settings, resources.device)
        created = folder is None
        folder = folder or RunFolder.create(parent, settings.folder_name())
        with folder.lock:
            try:
                folder.write_config(
                    {
                        "command": command,
                        "settings": asdict(settings),
                        "hyperparameters": hyperparams,
                        "versions": versions(),
                    }
                )
                code = _train(model, folder, settings, resources, clock, stop, callbacks)
            except BaseException:
                if created and model._n_updates == 0:  # nothing was learnt to go on from
                    folder.discard()
                raise
    return folder, _leave_the_rest(folder, resources, code)


def resume(
    path: Path | RunFolder,
    resources: Resources = USUAL,
    steps: int | None = None,
    callbacks: "Sequence[BaseCallback]" = (),
) -> tuple[RunFolder, int]:
    """
    Go on with a run, to its own target or a later one, from its latest checkpoint.

    Training goes on bit for bit as an unbroken run would have (on a CPU), where the environment
    can be saved; else with a new episode. See :func:`sb3_rfm.checkpoints.callback.load_checkpoint`.

    :param path: the run's folder; as an object where the caller has locked it
    :param resources: device, threads, progress bar, video
    :param steps: a new target, not before the run's own; the replay buffer grows with it
    :param callbacks: called at each step, besides the run's own
    :return: the folder, and the exit code, as :func:`start`
    :raises FileNotFoundError: when ``path`` is not a run or has no checkpoint
    :raises ValueError: when the new target lies before the run's own, no checkpoint is whole, or
        another process is at work there
    :raises OSError: when the folder cannot be written to
    """
    folder = path if isinstance(path, RunFolder) else RunFolder.open(path)
    with folder.lock:
        code = _go_on(folder, resources, steps, callbacks)
    return folder, _leave_the_rest(folder, resources, code)


def _leave_the_rest(folder: RunFolder, resources: Resources, code: int) -> int:
    """
    Leave a video of the final model beside it, where one is asked for, and say what of the run
    could not be written.

    :param folder: of the run
    :param resources: whether a video is asked for
    :param code: exit code of the run so far
    :return: exit code of all of it
    """
    if resources.video and folder.model_file.exists():
        from sb3_rfm.experiments.recording import record_once

        record_once(folder, resources.device)
    if not folder.unwritten:
        return code
    print(f"sb3-rfm: {folder.unwritten}", file=sys.stderr, flush=True)
    return UNWRITTEN


def _go_on(
    folder: RunFolder,
    resources: Resources,
    steps: int | None,
    callbacks: "Sequence[BaseCallback]",
) -> int:
    """
    What ``resume`` does in a folder that is locked.

    :param folder: of the run
    :param resources: device, threads, progress bar
    :param steps: a new target
    :param callbacks: called at each step, too
    :return: exit code
    :raises FileNotFoundError: when there is no checkpoint
    :raises ValueError: when the new target lies before the run's own, or no checkpoint is whole
    """
    config = folder.read_config()
    settings = RunSettings.stored(config, folder.config_file)
    longer = steps is not None and steps != settings.steps
    if longer or not folder.model_file.exists():
        resources.check_video(settings)
    if steps is not None and longer:
        if steps < settings.steps:
            raise ValueError(f"steps must be at least the run's own {settings.steps}, got {steps}.")
        folder.latest_checkpoint()  # there is something to go on from
        settings = replace(settings, steps=steps)
        folder.write_config(config | {"settings": asdict(settings)})
        for file in (folder.model_file, *folder.video_files):
            file.unlink(missing_ok=True)
    if folder.model_file.exists():
        print(f"{folder.path} is finished: {settings.steps} of {settings.steps} steps done.")
        return 0
    folder.latest_checkpoint()  # there is something to go on from
    from sb3_rfm.checkpoints.callback import load_checkpoint
    from sb3_rfm.checkpoints.manifest import read_manifest
    from sb3_rfm.experiments.callbacks import Clock, StopRequest

    resources.use()
    with StopRequest() as stop:
        env = make_env(settings, training=True)
        algorithm = algorithm_class(settings.algo)
        model = load_checkpoint(algorithm, folder.checkpoints, env, resources.device)
        size = buffer_length(settings)
        if size is not None:
            grow(model.replay_buffer, size // model.n_envs)
        folder.drop_evaluations_after(model.num_timesteps)
        checkpoint = folder.checkpoints / f"step_{model.num_timesteps}"
        spent = read_manifest(checkpoint)["notes"]["wall_seconds"]
        clock = Clock(spent, model.num_timesteps)
        print(f"Going on from step {model.num_timesteps} of {settings.steps}.")
        return _train(model, folder, settings, resources, clock, stop, callbacks)


def _train(
    model: "OffPolicyAlgorithm",
    folder: RunFolder,
    settings: RunSettings,
    resources: Resources,
    clock: "Clock",
    stop: "StopRequest",
    callbacks: "Sequence[BaseCallback]",
) -> int:
    """
    Train to the target or to a stop, and leave everything on the disk that can be written.

    :param model: new or loaded
    :param folder: of the run
    :param settings: resolved
    :param resources: device, threads, progress bar
    :param clock: of the run
    :param stop: watched at each step
    :param callbacks: called at each step, too
    :return: exit code
    :raises RuntimeError: when an update fails; the checkpoints stay
    """
    from sb3_rfm.experiments.callbacks import EvaluateToCsv, RunCheckpoint
    from sb3_rfm.experiments.run_log import EventLog

    print(f"{settings.algo} on {settings.env}, seed {settings.seed}: {folder.path}", flush=True)
    eval_env = make_env(settings, training=False)
    evaluation = EvaluateToCsv(eval_env, settings, folder, clock, stop, _reporter(settings.steps))
    checkpoint = RunCheckpoint(settings.checkpoint_freq, folder, clock, stop, evaluation)
    every = [*callbacks, evaluation, checkpoint]
    with EventLog(folder.tensorboard / f"{settings.algo}_1", folder.unwritten) as log:
        model.tensorboard_log = str(folder.tensorboard)
        model.set_logger(log.logger(model.verbose))
        try:
            _learn(model, every, settings, resources.progress)
            finished = not stop.requested and (
                evaluation.last_steps == model.num_timesteps or evaluation.evaluate()
            )
        finally:
            evaluation.write()
    if finished:
        with folder.unwritten.noting(folder.model_file):
            folder.save_final(model)
    if not folder.model_file.exists():
        checkpoint.save_what_is_left()  # to go on from: to the target, or to the final model
    for env in (model.env, eval_env):
        if env is not None:
            env.close()
    _finish(folder, settings, evaluation.rows, model.num_timesteps, finished, video=resources.video)
    return 0 if finished else INTERRUPTED


def _learn(
    model: "OffPolicyAlgorithm",
    callbacks: "list[BaseCallback]",
    settings: RunSettings,
    progress: bool,
) -> None:
    """
    Train to the target, or until a callback ends it.

    :param model: new or loaded
    :param callbacks: called at each step
    :param settings: resolved
    :param progress: whether to show a progress bar
    :raises RuntimeError: when an update fails
    :raises EndlessEpisode: when an evaluation does not end
    """
    from sb3_rfm.experiments.episodes import EndlessEpisode
    from sb3_rfm.population.training import taking_part

    try:
        with taking_part(model):
            model.learn(
                settings.steps - model.num_timesteps,
                callback=callbacks,
                reset_num_timesteps=model.num_timesteps == 0,
                progress_bar=progress,
            )
    except EndlessEpisode:
        raise  # the user can put it right
    except (ValueError, AssertionError, FloatingPointError) as error:
        raise RuntimeError(f"training failed at step {model.num_timesteps}: {error}") from error


def _reporter(steps: int) -> Callable[[Evaluation], None]:
    """
    What prints each evaluation as it comes.

    :param steps: of the whole run
    :return: a function of an evaluation
    """

    def report(row: Evaluation) -> None:
        result = f"return {row.mean_return:.1f} ± {row.std_return:.1f} ({row.n_episodes} episodes)"
        speed = "" if math.isnan(row.steps_per_second) else f", {row.steps_per_second:.0f} steps/s"
        print(f"step {row.steps} of {steps}: {result}, {row.wall_seconds:.0f} s{speed}", flush=True)

    return report


def _finish(
    folder: RunFolder,
    settings: RunSettings,
    rows: list[Evaluation],
    steps: int,
    finished: bool,
    video: bool,
) -> None:
    """
    Draw the curve, and print what came out and where it lies.

    :param folder: of the run
    :param settings: of the run
    :param rows: what was measured
    :param steps: done
    :param finished: whether that is all of them
    :param video: whether a video is to be made in the end
    """
    from sb3_rfm.results.plots import draw_run

    if rows:
        with folder.unwritten.noting(folder.curve_file):
            draw_run(rows, folder.curve_file)
        first, last = rows[0], rows[-1]
        print(f"Return before training: {first.mean_return:.1f} ± {first.std_return:.1f}")
        print(f"Return at step {last.steps}: {last.mean_return:.1f} ± {last.std_return:.1f}")
    print(f"  model        {folder.model_file if finished else folder.checkpoints}")
    print(f"  evaluations  {folder.csv_file}")
    print(f"  curve        {folder.curve_file}")
    print(f"  TensorBoard  {folder.tensorboard}")
    if not finished:
        print(f"Stopped at step {steps} of {settings.steps}. To go on:")
        path = command_line([str(folder.path)])
        print(f"  sb3-rfm run --resume {path}{' --video' if video else ''}")
        options = " ARGS=--video" if video else ""
        print(f"or, in a checkout: make train RESUME={path}{options}", flush=True)
