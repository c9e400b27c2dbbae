"""The folder of a run has one owner, and keeps what somebody else put there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tiny_runs import TINY, start

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.errors import InvalidArgument
from spikedistill.machine.locks import Held, locked
from spikedistill.training.folders import new_folder, owned

TAKES = """
import sys, time
from pathlib import Path
from spikedistill.training.folders import new_folder

print("ready", flush=True)
sys.stdin.readline()
with new_folder(sys.argv[1] if len(sys.argv) > 1 else None, "mine") as folder:
    print(folder, flush=True)
    sys.stdin.readline()
    (folder / "held").touch()
"""


def taken_together(cwd, *out):
    """What two processes say that take a folder at the same time, and how they end."""
    command = [sys.executable, "-c", TAKES, *out]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    both = [subprocess.Popen(command, cwd=cwd, text=True, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:  # none lets go before the other has its own or is refused
        process.stdin.write("take\n")
        process.stdin.flush()
    said = [process.stdout.readline().strip() for process in both]
    return [
        (folder, process.communicate("go\n")[1], process.returncode) for folder, process in zip(said, both, strict=True)
    ]


def test_two_that_start_together_do_not_share_a_folder(tmp_path):
    """By name each gets its own; with one --out the second is refused."""
    found = taken_together(tmp_path)
    assert [code for _, _, code in found] == [0, 0], found
    assert {folder for folder, _, _ in found} == {"runs/mine", "runs/mine-2"}
    one = taken_together(tmp_path, "one")
    assert sorted((folder, code) for folder, _, code in one) == [("", 1), ("one", 0)]
    assert "a run is training in" in next(error for _, error, code in one if code)


@pytest.mark.slow
def test_two_runs_that_start_together_do_not_share_a_folder(tmp_path):
    """The same of whole runs."""
    words = ["train", *TINY, "--optimizer.epochs=1"]
    own = [start(*words, cwd=tmp_path) for _ in range(2)]
    results = [(process.communicate(timeout=120)[1], process.returncode) for process in own]
    assert [code for _, code in results] == [0, 0], results
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"fashion-small", "fashion-small-2"}
    one = [start(*words, "--out", tmp_path / "one") for _ in range(2)]
    results = [(process.communicate(timeout=120)[1], process.returncode) for process in one]
    assert sorted(code for _, code in results) == [0, 1]
    refused = next(error for error, code in results if code)
    assert "a run is training in" in refused or "exists already and is not overwritten" in refused


def test_a_living_run_is_not_resumed_by_another(halfway):
    with (
        owned(halfway),
        pytest.raises(InvalidArgument, match=r"a run is training in .*halfway: process \d+ on .* since"),
    ):
        sd.resume(halfway)
    sd.resume(halfway)


def test_a_run_that_is_refused_leaves_the_lock_of_the_living_one(tmp_path):
    """Even where that has not written anything yet."""
    with new_folder(tmp_path / "one", "x") as folder:
        for _ in range(2):
            with pytest.raises(InvalidArgument, match="a run is training in"), new_folder(tmp_path / "one", "x"):
                pass
        assert (folder / ".lock").is_file()
    assert not folder.exists()


def test_a_lock_is_free_when_its_process_is_gone(tmp_path):
    with locked(tmp_path / "lock", wait=False):
        code = "from pathlib import Path; from spikedistill.machine.locks import *\n"
        code += f"with locked(Path({str(tmp_path / 'lock')!r}), wait=False): pass"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert Held.__name__ in found.stderr
        assert f"process {os.getpid()}" in found.stderr
    with locked(tmp_path / "lock", wait=False):
        pass


def test_a_start_that_was_killed_before_its_first_checkpoint_can_be_repeated(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").write_text("process 4711 on a machine that is gone")
    (folder / "recipe.yaml").write_text("half a re")
    (folder / ".recipe.yaml.123").write_text("half")
    (folder / "tensorboard").mkdir()
    words = ["train", *TINY, "--optimizer.epochs=1", "--out", str(folder)]
    assert main(words) == 0
    assert not list(folder.glob(".recipe*"))
    assert main(words) == 1  # now it holds a run


def test_a_recipe_of_the_users_own_is_not_taken_for_a_start_that_was_killed(tmp_path, capsys):
    own = {
        "recipe.yaml": "# two weeks of tuning\nseed: 3",
        ".recipe.yaml.swp": "of an editor",
        "tensorboard/a": "curves",
    }
    (tmp_path / "tensorboard").mkdir()
    for name, text in own.items():
        (tmp_path / name).write_text(text)
    for _ in range(2):  # the first refusal leaves nothing that the second takes for a run's
        assert main(["train", *TINY, "--out", str(tmp_path)]) == 1
        assert "is not overwritten" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path)]) == 1
    assert "there is no checkpoint" in capsys.readouterr().err
    there = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert there == own


def test_a_start_that_was_killed_keeps_its_recipe_until_a_new_one_is_written(tmp_path, capsys):
    """Perhaps it was edited since, and it may be the only one."""
    (tmp_path / ".lock").write_text("process 4711 on a machine that is gone")
    (tmp_path / "recipe.yaml").write_text("data: {name: cifar10, root: nowhere}  # edited")
    for _ in range(2):
        assert main(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path)]) == 1
        assert "nowhere" in capsys.readouterr().err
    assert "edited" in (tmp_path / "recipe.yaml").read_text()


def test_a_lock_that_is_a_link_is_not_followed(halfway, tmp_path, capsys):
    (tmp_path / "victim").write_text("precious")
    (halfway / ".lock").unlink()
    (halfway / ".lock").symlink_to(tmp_path / "victim")
    assert main(["train", "--resume", str(halfway)]) == 1
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_lock_file_that_was_taken_away_while_somebody_waited_is_no_lock(tmp_path, monkeypatch):
    """A opens the file, B ends and unlinks it, A locks what is no longer there: it has to look again."""
    import fcntl

    path, flock, calls = tmp_path / ".lock", fcntl.flock, []

    def unlinked_first(file, how):
        calls.append(how)
        if len(calls) == 1:
            path.unlink()
        return flock(file, how)

    monkeypatch.setattr(fcntl, "flock", unlinked_first)
    with locked(path, wait=False), pytest.raises(Held), locked(path, wait=False):
        pass
    assert len(calls) == 3


def test_a_file_system_without_locks_is_no_reason_not_to_train(tmp_path, monkeypatch, capsys):
    import fcntl

    def none(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with locked(tmp_path / ".lock", wait=False):
        pass
    assert "cannot be locked (Function not implemented); start no second run there" in capsys.readouterr().err


def test_a_folder_with_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["train", *TINY, "--out", str(tmp_path)]) == 1
    assert "is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_half_written_files_of_a_killed_process_are_cleared_away(halfway):
    (halfway / ".checkpoint.pt.4711").write_bytes(b"half")
    assert main(["train", "--resume", str(halfway)]) == 0
    assert not list(halfway.glob(".checkpoint*"))
