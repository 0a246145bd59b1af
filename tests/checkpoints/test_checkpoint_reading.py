"""Checkpoints that are damaged, refused or named."""

import json
import shutil
from pathlib import Path

import pytest
from pendulums import ARGUMENTS, SMALL, pendulum

from sb3_rfm import SAC, CheckpointEverything, RFMFlow, load_checkpoint
from sb3_rfm.checkpoints.manifest import DamagedCheckpoint


def test_a_damaged_checkpoint_is_replaced_on_the_way(two: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints"
    shutil.copytree(two, path)
    (path / "step_40" / "model.zip").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"step_40.*going on from .*step_20"):
        model = load_checkpoint(RFMFlow, path, pendulum())
    model.learn(10, CheckpointEverything(10, path, keep=1), reset_num_timesteps=False)
    assert sorted(path.name for path in path.iterdir()) == ["step_30", "step_40"]
    model.learn(10, CheckpointEverything(10, path, keep=1), reset_num_timesteps=False)
    assert [path.name for path in path.iterdir()] == ["step_40"]
    assert load_checkpoint(RFMFlow, path, pendulum()).num_timesteps == 40


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints at 20 and 40."""
    path = tmp_path_factory.mktemp("two")
    model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL})
    model.learn(40, callback=CheckpointEverything(20, path))
    return path


@pytest.mark.parametrize("name", ["manifest.json", "model.zip", "replay_buffer.pkl", "state.pkl"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "changed"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_taken(
    name: str, damage: str, two: Path, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoints"
    shutil.copytree(two, path)
    file = path / "step_40" / name
    content = file.read_bytes()
    changed = bytes([content[0] ^ 1]) + content[1:]
    file.write_bytes({"empty": b"", "truncated": content[:-7], "changed": changed}.get(damage, b""))
    if damage == "missing":
        file.unlink()
    with pytest.warns(UserWarning, match=f"step_40/{name}.*going on from .*step_20"):
        model = load_checkpoint(RFMFlow, path, pendulum())
    assert model.num_timesteps == 20
    shutil.rmtree(path / "step_20")
    with pytest.raises(DamagedCheckpoint, match=f"step_40/{name}"):
        load_checkpoint(RFMFlow, path, pendulum())


def test_what_is_refused(two: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="path must be a checkpoint or a folder of them"):
        load_checkpoint(RFMFlow, tmp_path / "nowhere", pendulum())
    with pytest.raises(ValueError, match=r"algorithm must be RFMFlow, .*got SAC"):
        load_checkpoint(SAC, two, pendulum())
    for argument in ("save_freq", "keep"):
        for value in (0, -1, 1.5, "2", True):
            with pytest.raises((ValueError, TypeError), match=f"{argument} must .*an int"):
                CheckpointEverything(**{"save_freq": 1, "path": tmp_path, argument: value})
    model = RFMFlow("MlpPolicy", pendulum(), **{**ARGUMENTS, **SMALL})
    with pytest.raises(ValueError, match=r"further on than step 0; got .* with step_20, step_40"):
        model.learn(10, callback=CheckpointEverything(5, two))
    newer = tmp_path / "step_9"
    newer.mkdir()
    (newer / "manifest.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(DamagedCheckpoint, match="has format 2; this version reads 1"):
        load_checkpoint(RFMFlow, newer, pendulum())


def test_one_checkpoint_can_be_named(two: Path) -> None:
    assert load_checkpoint(RFMFlow, two / "step_20", pendulum()).num_timesteps == 20
    assert load_checkpoint(RFMFlow, two, pendulum()).num_timesteps == 40
