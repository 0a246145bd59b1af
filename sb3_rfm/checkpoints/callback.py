"""
Checkpoints from which training goes on as if it had never stopped, written so that no kill, full
disk or damaged file costs more than the last of them.
"""

import contextlib
import io
import random
import shutil
import warnings
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

from sb3_rfm.checkpoints.env_state import EnvironmentNotSaved, capture, capture_wrappers, restore
from sb3_rfm.checkpoints.manifest import (
    checkpoints_in,
    is_whole,
    latest_checkpoint,
    read_manifest,
    steps_of,
    write_manifest,
    writers_lock,
)
from sb3_rfm.sampling.registry import require_int
from sb3_rfm.utils.episodes import close_episode
from sb3_rfm.utils.files import naming, remove_folder, rename, sync_folder, temporary
from sb3_rfm.utils.locks import Locked
from sb3_rfm.utils.versions import versions

Algorithm = TypeVar("Algorithm", bound=OffPolicyAlgorithm)
MODEL, BUFFER, STATE = "model.zip", "replay_buffer.pkl", "state.pkl"


class CheckpointEverything(BaseCallback):
    """
    Saves all that training consists of, every so many steps: model, optimizers, replay buffer,
    counters, random numbers, and where they can be pickled the environments with ``VecNormalize``'s
    averages. :func:`load_checkpoint` goes on from there bit for bit (on a CPU).

    A checkpoint is a folder ``step_<steps>`` with a manifest of sizes and SHA-256 sums. It is
    written aside, forced to the disk and then renamed. It is taken between two rollouts, when all
    that was collected is stored and trained on. Where writing fails (a full disk) a warning says
    so, training goes on, the earlier checkpoints stay, and the next is tried when it is due.

    The folder is locked while training goes on: no other process writes into it.

    What starts anew: the walk of an ``OrnsteinUhlenbeckActionNoise`` (SB3 resets it in ``learn``),
    other callbacks, and the log's clock.

    :param save_freq: environment steps between two checkpoints, at least 1
    :param path: folder of the checkpoints
    :param keep: how many to keep, at least 1; with 2, one may be damaged later
    :param verbose: 1 to say when one is saved
    :raises ValueError: a number that is not allowed; when training starts, a folder with
        checkpoints of a run that is further on, or one that another process writes into
    """

    def __init__(self, save_freq: int, path: str | Path, keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        require_int("save_freq", save_freq)
        require_int("keep", keep)
        self.save_freq, self.path, self.keep = save_freq, Path(path), keep
        self._last = 0
        self._between_rollouts = True

    def notes(self) -> dict[str, Any]:
        """
        What the manifest is to say besides.

        :return: plain values
        """
        return {}

    def note(self, error: Exception | None) -> None:
        """
        Called after each try to save.

        :param error: why it failed; None where it did not
        """

    def save(self) -> None:
        """Save now, which has to be between two rollouts; a warning where that fails."""
        assert isinstance(self.model, OffPolicyAlgorithm)
        self._last = self.num_timesteps  # whatever comes of it: the next is due in its time
        try:
            path = save_checkpoint(self.model, self.path, self.keep, self.notes())
        except (OSError, Locked) as error:
            warnings.warn(f"no checkpoint at step {self.num_timesteps}: {error}", stacklevel=2)
            self.note(error)
            return
        self.note(None)
        if self.verbose:
            print(f"Saved {path}")

    def _is_due(self) -> bool:
        return self.num_timesteps // self.save_freq > self._last // self.save_freq

    def _is_due_at_the_end(self) -> bool:
        return self.num_timesteps > self._last

    def _on_training_start(self) -> None:
        self._last = self.num_timesteps
        self._lock = writers_lock(self.path)
        with contextlib.suppress(OSError):  # it will be said when a checkpoint cannot be written
            self._lock.take()
        later = [p for p in checkpoints_in(self.path) if steps_of(p) > self.num_timesteps]
        ahead = [p.name for p in later if is_whole(p)]  # what is damaged will be replaced
        if ahead:
            self._lock.drop()
            raise ValueError(
                f"path must be a folder without checkpoints of a run further on than step "
                f"{self.num_timesteps}; got {self.path} with {', '.join(ahead)}: go on from there "
                "with load_checkpoint, or name another folder."
            )

    def _on_rollout_start(self) -> None:
        if self._is_due():
            self.save()

    def _on_step(self) -> bool:
        self._between_rollouts = False
        return True

    def _on_rollout_end(self) -> None:
        self._between_rollouts = True

    def _on_training_end(self) -> None:
        # where a callback broke a rollout off, the step under way is not in the buffer
        if self._between_rollouts and self._is_due_at_the_end():
            self.save()
        self._lock.drop()


def save_checkpoint(
    model: OffPolicyAlgorithm, folder: Path, keep: int = 2, notes: dict[str, Any] | None = None
) -> Path:
    """
    Save all that training consists of (see :class:`CheckpointEverything`).

    :param model: between two rollouts
    :param folder: of the checkpoints; made if need be
    :param keep: how many to keep, this one included
    :param notes: plain values to write in the manifest
    :return: the checkpoint's folder
    :raises OSError: it cannot be written; the earlier checkpoints stay
    :raises Locked: another process writes into the folder; it is a ``ValueError``
    """
    target = folder / f"step_{model.num_timesteps}"
    with naming(target), writers_lock(folder):
        if target.exists():
            if is_whole(target):
                return target
            remove_folder(target)
        unfinished = temporary(target)
        try:
            unfinished.mkdir()
            _write(model, unfinished, notes or {})
            rename(unfinished, target)
            sync_folder(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        earlier = [p for p in checkpoints_in(folder) if steps_of(p) < model.num_timesteps]
        for path in earlier[: max(len(earlier) + 1 - keep, 0)]:
            remove_folder(path)
    return target


def _write(model: OffPolicyAlgorithm, folder: Path, notes: dict[str, Any]) -> None:
    """Everything into a folder, and onto the disk."""
    file = io.BytesIO()  # torch makes something else of an OSError in the midst of its writing
    model.save(file)
    (folder / MODEL).write_bytes(file.getvalue())
    if model.replay_buffer is not None:
        with (folder / BUFFER).open("wb") as buffer:  # to be closed also where that fails
            model.save_replay_buffer(buffer)
    environment, state = _state(model)
    (folder / STATE).write_bytes(state)
    manifest = {
        "algorithm": type(model).__name__,
        "steps": model.num_timesteps,
        "environment": environment,
        "versions": versions(),
        "notes": notes,
    }
    write_manifest(folder, manifest)


def load_checkpoint(
    algorithm: type[Algorithm], path: str | Path, env: GymEnv, device: th.device | str = "auto"
) -> Algorithm:
    """
    The model of a checkpoint, ready for ``model.learn(more_steps, reset_num_timesteps=False)``.

    The files are unpickled, which runs what they say: load only what you trust.

    :param algorithm: its class
    :param path: a checkpoint, or a folder of checkpoints, of which the newest whole one is taken; a
        warning names those that are damaged
    :param env: built as the one that was trained on; the saved state is put into it. Where the
        manifest says that it was not saved, the episode under way counts as cut short and ``env``
        begins another
    :param device: of PyTorch
    :return: the model
    :raises FileNotFoundError: there is no checkpoint
    :raises DamagedCheckpoint: none that is whole; the message says what is wrong with each
    :raises ValueError: another algorithm or environment than the checkpoint's
    """
    checkpoint = latest_checkpoint(Path(path))
    manifest = read_manifest(checkpoint)
    if manifest["algorithm"] != algorithm.__name__:
        raise ValueError(
            f"algorithm must be {manifest['algorithm']}, that of {checkpoint}; "
            f"got {algorithm.__name__}."
        )
    with warnings.catch_warnings():
        # n_steps is in the saved buffer: SB3 takes that for a buffer class of the user's
        warnings.filterwarnings("ignore", message="`n_steps=.*` is ignored")
        model = algorithm.load(checkpoint / MODEL, env, device, force_reset=False)
    assert model.env is not None
    whole = manifest["environment"] == "saved"
    together = restore(model.env, (checkpoint / STATE).read_bytes())
    if BUFFER in manifest["files"]:
        model.load_replay_buffer(checkpoint / BUFFER, truncate_last_traj=not whole)
    model.action_space = together["action_space"]
    if not whole:
        model._last_obs = None
        close_episode(model.replay_buffer)
        if model.seed is not None:  # not the episodes of the beginning once more
            model.env.seed(model.seed + model.num_timesteps)
    _set_generators(together["generators"])
    return model


def _state(model: OffPolicyAlgorithm) -> tuple[str, bytes]:
    """Random numbers and environment, and whether the latter is whole ("saved", or why not)."""
    assert model.env is not None
    together = {"generators": _generators(), "action_space": model.action_space}
    try:
        return "saved", capture(model.env, together)
    except EnvironmentNotSaved as reason:
        return f"not saved: {reason}", capture_wrappers(model.env, together)


def _generators() -> dict[str, Any]:
    """States of the global random generators."""
    return {
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
        "numpy": np.random.get_state(),  # noqa: NPY002
        "python": random.getstate(),
    }


def _set_generators(states: dict[str, Any]) -> None:
    """The inverse of :func:`_generators`; GPUs only where there are as many as there were."""
    th.set_rng_state(states["torch"])
    if th.cuda.is_available() and len(states["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all(states["cuda"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])
