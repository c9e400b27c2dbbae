"""A table of bad inputs, walked over every command, reader and format: an error in words, and nothing is lost."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path

import bad_files
import pytest
import torch

from spikedistill.cli import main
from spikedistill.training.recipe_parsing import known_fields

ROWS = [
    line.split(" | ")
    for line in (Path(__file__).parent / "bad_inputs.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
SMALL = "--optimizer.epochs 1 --data.validation_rows 0 --model.width 2"
SECONDS = 60
"""What an error may take, on a busy machine."""

FREE_TEXT = {
    "data.root",
    "init",
    "model.import",
    "objectives.distillation.teacher",
    "data.events.cache",
    "branches.stages",
}
"""Fields in which any word is a word; what they name is not there, which is another row."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The files, and a finished run, which must be as it was at the end."""
    root = tmp_path_factory.mktemp("bad")
    torch.set_num_threads(1)
    good = root / "good"
    words = ["--model.width=2", "--data.train_rows=60", "--data.validation_rows=0", "--data.test_rows=20"]
    words += ["--optimizer.epochs=1", "--optimizer.batch_size=20", "--timesteps=2", "--precision=fp32", "--compile=off"]
    before = Path.cwd()
    os.chdir(root)
    assert main(["train", *words, "--out", str(good)]) == 0
    bad_files.make_all(root, good)
    yield root
    os.chdir(before)


def state(root):
    """Every file below a folder with its size and time."""
    found = {}
    for folder, _, files in os.walk(root):
        for file in files:
            path = Path(folder) / file
            if "cache" not in path.parts and file != ".lock":
                found[str(path)] = (path.lstat().st_size, path.lstat().st_mtime_ns)
    return found


def fails(words, expected, capfd):
    """One row: exit code 1, the words, no traceback, soon."""
    start = time.monotonic()
    code = main(words)
    out, err = capfd.readouterr()
    assert code == 1, (words, code, out[-500:], err[-500:])
    assert expected in out + err, (words, err[-1000:])
    assert "Traceback" not in out + err, words
    assert err.strip(), words
    assert time.monotonic() - start < SECONDS, words


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.filterwarnings("default")
def test_every_bad_input_is_an_error_in_words_and_changes_nothing(place, capfd, monkeypatch):
    assert len(ROWS) >= 300
    monkeypatch.chdir(place)
    before, problems = state(place), []
    values = {"root": str(place), "good": str(place / "good"), "small": SMALL, "cache": str(place / "cache")}
    for what, command, expected in ROWS:
        try:
            fails(shlex.split(command.format(**values)), expected, capfd)
        except (Exception, SystemExit) as error:  # an AssertionError, or what should not have come out
            problems.append(f"{what}: {command}\n    {type(error).__name__}: {str(error)[:600]}")
    assert not problems, f"{len(problems)} of {len(ROWS)}:\n" + "\n".join(problems)
    assert state(place) == before


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_nonsense_in_any_field_is_refused_by_its_name(place, capfd, monkeypatch):
    """Every field of every choice, on the command line."""
    monkeypatch.chdir(place)
    problems, tried = [], 0
    for name in known_fields():
        if name in FREE_TEXT or name.startswith("claim."):
            continue
        group, _, rest = name.partition(".")
        chosen = {"rule": "rate", "optimizer": "sgd"}.get(group)
        tried += 1
        for more in ([], ["--optimizer", "adamw"] if chosen == "sgd" else []):
            try:
                fails(["train", *more, f"--{name}", "@nonsense@"], "nonsense" if "name" in rest else "", capfd)
            except (Exception, SystemExit) as error:
                problems.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    assert not problems, "\n".join(problems)
    assert tried > 60
