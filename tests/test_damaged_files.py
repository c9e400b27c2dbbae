"""Files of a run that are damaged, foreign or too large."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.errors import CheckpointError, WriteError
from spikedistill.machine.files import write_atomically
from spikedistill.training.checkpoints import before, load_checkpoint, save_checkpoint, save_weights


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path(os.environ["HARM"]),))


def test_a_pickle_disguised_as_weights_is_refused_and_not_run(tmp_path, monkeypatch, finished):
    harm = tmp_path / "harm"
    monkeypatch.setenv("HARM", str(harm))
    save_checkpoint(tmp_path / "checkpoint.pt", {"learner": Harmful()})
    with pytest.raises(CheckpointError, match="would execute code on loading are refused"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Harmful()))
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    with pytest.raises(CheckpointError, match="cannot be read"):
        sd.Trained.load(tmp_path)
    assert not harm.exists()
    pickle.loads(pickle.dumps(Harmful()))  # it would have done harm
    assert harm.exists()


def test_truncated_and_foreign_checkpoints_are_refused(finished, tmp_path):
    good = (finished / "checkpoint.pt").read_bytes()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(path)
    torch.save({"learner": {}}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of this version of spikedistill, or it is truncated"):
        load_checkpoint(path)
    save_checkpoint(path, {"state_dict": {}})
    before(path).unlink()
    with pytest.raises(CheckpointError, match=r"not a checkpoint of spikedistill; it holds \['state_dict'\]"):
        load_checkpoint(path)
    weights = (finished / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        sd.Trained.load(tmp_path)
    save_weights(tmp_path, {"a": torch.zeros(1)}, json.loads((finished / "config.json").read_text()))
    with pytest.raises(CheckpointError, match=r"does not fit the network: missing .* unexpected \['a'\]"):
        sd.Trained.load(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"learner": 1})

    def fails(file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(WriteError, match="No space left on device.*unchanged"):
        write_atomically(path, fails)
    assert load_checkpoint(path) == {"learner": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_full_disk_while_saving(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        path = disk / "checkpoint.pt"
        save_checkpoint(path, {"learner": torch.zeros(1000)})
        with pytest.raises(CheckpointError, match=r"could not write .*unchanged; free some space.*--resume"):
            save_checkpoint(path, {"learner": torch.zeros(10**6)})
        assert load_checkpoint(path)["learner"].shape == (1000,)
        assert [p.name for p in disk.iterdir()] == ["checkpoint.pt"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_corrupt_picture_is_refused(finished, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert main(["predict", str(finished), str(tmp_path / "bad.png")]) == 1
    assert "bad.png is not a readable picture" in capsys.readouterr().err
