"""Folders of recordings: found in every form, divided, prepared once, and trained on by commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from made_events import aedat4, recording

from spikedistill.cli import main
from spikedistill.data import DataSettings, load
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.batches import Batches
from spikedistill.data.events import (
    Framing,
    make,
    read_aedat2,
    to_frames,
    write_aedat2,
)
from spikedistill.data.events.aedat import HEADER
from spikedistill.data.events.cache import prepared
from spikedistill.data.events.recordings import CIFAR10_CLASSES, find_recordings
from spikedistill.data.events.simulate import Camera
from spikedistill.data.events.splits import SPLITS, split
from spikedistill.data.specs import EventSettings
from spikedistill.errors import DataError, InvalidArgument

# ---------------------------------------------------------------- folders, splits, cache


@pytest.fixture
def root(tmp_path):
    """Three recordings of each class of CIFAR10-DVS."""
    folder = tmp_path / "dvs"
    for label, name in enumerate(CIFAR10_CLASSES):
        (folder / name).mkdir(parents=True)
        for k in range(3):
            write_aedat2(folder / name / f"cifar10_{name}_{k * 99}.aedat", recording(60, 3 * label + k))
    return folder


def test_recordings_are_found_in_every_form(root, tmp_path):
    found = find_recordings(root)
    assert (found.form, len(found), found.classes) == ("aedat2", 30, CIFAR10_CLASSES)
    framing = Framing(4, "number", 16)
    upright = found.frames(0, framing)
    events, frames = tmp_path / "e" / "events_np", tmp_path / "f" / "frames_number_4_split_by_number"
    for folder, content in (
        (events, lambda e: {name: getattr(e, name) for name in "xypt"}),
        (frames, lambda e: {"frames": to_frames(e, 4)}),
    ):
        for k, file in enumerate(found.paths):
            (folder / found.classes[found.labels[k]]).mkdir(parents=True, exist_ok=True)
            np.savez(folder / file.parent.name / f"{file.stem}.npz", **content(read_aedat2(file).turned()))
    (tmp_path / "4").mkdir()
    ((tmp_path / "4") / "cat").mkdir()
    (tmp_path / "4" / "cat" / "a.aedat4").write_bytes(aedat4(read_aedat2(found.paths[0]).turned()))
    assert find_recordings(tmp_path / "4").form == "aedat4"
    if find_spec("aedat"):
        assert np.array_equal(find_recordings(tmp_path / "4").frames(0, framing), upright)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "extract").symlink_to(root)
    places = {tmp_path / "x": "aedat2", tmp_path / "e": "events_np", tmp_path / "f": "frames", events: "events_np"}
    for folder, form in (places | {frames: "frames"}).items():
        other = find_recordings(folder, framing, CIFAR10_CLASSES)
        assert (other.form, other.labels) == (form, found.labels)
        assert np.array_equal(other.frames(0, framing), upright)


def test_missing_and_empty_folders(root, tmp_path):
    for name in ("cat", "ship"):
        for file in (root / name).iterdir():
            file.unlink()
    with pytest.raises(DataError, match="missing or empty: cat, ship"):
        find_recordings(root, classes=CIFAR10_CLASSES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no recordings: expected CLASS/\*.aedat.*it holds nothing"):
        find_recordings(tmp_path / "empty")
    with pytest.raises(DataError, match="is not a folder"):
        find_recordings(tmp_path / "nowhere")


def test_splits(root):
    found = find_recordings(root)
    rows = {name: split(found, name, 0) for name in SPLITS if name != "stratified-90-10"}
    for train, test in rows.values():
        assert sorted(torch.cat([train, test]).tolist()) == list(range(30))
    assert [found.number(k) for k in rows["last-900"][1].tolist()] == [0, 99] * 10
    assert rows["first-90"][1].tolist() == list(range(2, 30, 3))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(42))
    assert rows["authors"][1].tolist() == sorted(order[27:].tolist())
    with pytest.raises(DataError, match="leaves 30 of 30 recordings for training and 0 for the test"):
        split(found, "stratified-90-10", 0)


def test_stratified_takes_a_tenth_of_each_class(root):
    found = find_recordings(root)
    many = type(found)("aedat2", root, found.paths * 10, found.labels * 10, found.classes)
    train, test = split(many, "stratified-90-10", 0)
    assert torch.tensor(many.labels)[test].bincount().tolist() == [3] * 10
    assert len(train) == 270
    assert not torch.equal(split(many, "stratified-90-10", 1)[1], test)


def test_the_cache_is_made_once_and_by_what_matters(root, tmp_path):
    found, framing = find_recordings(root), Framing(4, "number", 16)
    frames = prepared(found, framing, tmp_path / "c")
    assert (frames.shape, frames.dtype) == ((30, 4, 2, 16, 16), np.float16)
    assert np.array_equal(frames[7], found.frames(7, framing))
    prepared(found, framing, tmp_path / "c")
    assert len(list((tmp_path / "c").glob("[!.]*"))) == 1
    prepared(found, Framing(4, "time", 16), tmp_path / "c")
    assert len(list((tmp_path / "c").glob("[!.]*"))) == 2
    os.utime(found.paths[0], (1, 1))
    prepared(found, framing, tmp_path / "c")
    assert len(list((tmp_path / "c").glob("[!.]*"))) == 3


def test_every_bad_recording_is_named_and_no_cache_is_left(root, tmp_path):
    found = find_recordings(root)
    found.paths[3].write_bytes(b"text")
    found.paths[20].write_bytes(HEADER)
    with pytest.raises(
        DataError, match=rf"2 of 30 recordings(?s:.*){found.paths[3].name}(?s:.*){found.paths[20].name}"
    ):
        prepared(found, Framing(4, "number", 16), tmp_path / "c")
    assert list((tmp_path / "c").glob("[!.]*")) == []


def test_a_cache_folder_that_cannot_be_written(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be kept in .*file.*--data.events.cache FOLDER"):
        prepared(find_recordings(root), Framing(4, "number", 16), tmp_path / "file")


PREPARE = """
import sys, time
from spikedistill.data.events import Framing, cache, recordings
slow = recordings.Recordings.frames
def frames(self, k, framing, repair=False):
    time.sleep(0.05)
    return slow(self, k, framing, repair)
recordings.Recordings.frames = frames
found = recordings.find_recordings(sys.argv[1])
print("begin", flush=True)
print(cache.prepared(found, Framing(4, "number", 16), sys.argv[2]).shape, flush=True)
"""


def test_two_processes_and_one_that_was_killed(root, tmp_path):
    def start():
        command = [sys.executable, "-c", PREPARE, str(root), str(tmp_path / "c")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    killed = start()
    assert killed.stdout.readline() == "begin\n"
    while not list((tmp_path / "c").glob(".*.making/frames.npy")):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert list((tmp_path / "c").glob("[!.]*")) == []
    both = [start(), start()]
    assert [p.communicate()[0].splitlines()[-1] for p in both] == ["(30, 4, 2, 16, 16)"] * 2
    assert list((tmp_path / "c").glob(".*.making")) == []
    found = find_recordings(root)
    frames = prepared(found, Framing(4, "number", 16), tmp_path / "c")
    assert np.array_equal(frames[29], found.frames(29, Framing(4, "number", 16)))


def test_event_samples_of_a_data_set(root, tmp_path):
    events = EventSettings(size=16, split="first-90", cache=str(tmp_path / "c"))
    how = DataSettings("cifar10-dvs", str(root), augmentation=Augmentation(0, True, roll=2), events=events)
    splits = load(how, 4)
    assert (len(splits.train), len(splits.test), splits.train.classes) == (20, 10, CIFAR10_CLASSES)
    assert splits.test.labels.tolist() == list(range(10))
    assert splits.division == "split first-90: the first 90 % of each class, by name, train; the rest test"
    found = find_recordings(root)
    third = torch.from_numpy(found.frames(5, Framing(4, "number", 16))).float()
    assert torch.equal(splits.test.batch(torch.tensor([1]))[:, 0], third)
    inputs, labels = next(iter(Batches(splits.train, 6, how.augmentation, 0).epoch(0)))
    assert (inputs.shape, labels.shape) == ((4, 6, 2, 16, 16), (6,))
    with_workers = next(iter(Batches(splits.train, 6, how.augmentation, 0, workers=1).epoch(0)))
    assert torch.equal(with_workers[0], inputs)
    with pytest.raises(InvalidArgument, match="the ANN twin has none"):
        load(how, None)
    with pytest.raises(InvalidArgument, match=r"augmentation.crop has no effect on event frames.*crop 0"):
        next(iter(Batches(splits.train, 6, Augmentation(), 0).epoch(0)))


# ---------------------------------------------------------------- commands


def test_commands_from_simulation_to_training(tmp_path, capsys, monkeypatch):
    out = tmp_path / "dvs"
    monkeypatch.setattr(make, "Camera", lambda: Camera(loops=1, steps=8))
    assert main(["data", "simulate-dvs", "--source", "fashion-small", "--out", str(out), "--train-rows", "40",
                 "--test-rows", "40"]) == 0  # fmt: skip
    said = capsys.readouterr()
    assert "80 simulated recordings" in said.out
    assert "simulating train: 40 of 40" in said.err
    assert main(["data", "check", str(out)]) == 0
    assert "train: recordings (aedat2), 40 in 10 classes" in capsys.readouterr().out
    assert main(["data", "simulate-dvs", "--source", "fashion-small", "--out", str(out)]) == 1
    assert "is not overwritten" in capsys.readouterr().err
    words = ["dvs-simulated", "--data.root", str(out), "--data.events.cache", str(tmp_path / "c"),
             "--data.events.size", "16"]  # fmt: skip
    assert main(["data", "show", *words, "--out", str(tmp_path / "grid.png")]) == 0
    assert (tmp_path / "grid.png").stat().st_size > 1000
    assert main(["data", "prepare", *words]) == 0
    said = capsys.readouterr()
    assert "40 training and 40 test recordings (split folders)" in said.out
    assert said.err.count("preparing frames") == 20  # once, by data show: a line each tenth of train and test
    for bad in ("nowhere/grid.png", "grid.txt"):
        assert main(["data", "show", *words, "--out", str(tmp_path / bad)]) == 1
        assert "in a folder that exists; given" in capsys.readouterr().err
    run = tmp_path / "run"
    small = ["--optimizer.epochs", "1", "--model.width", "2", "--timesteps", "2", "--out", str(run)]
    assert main(["train", *words, *small]) == 0
    said = capsys.readouterr()
    assert "40 for the test; split folders: train/ and test/" in said.err
    assert "test accuracy on 40 samples (split folders: train/ and test/)" in said.out
    assert json.loads((run / "result.json").read_text())["split"] == "split folders: train/ and test/"
    assert main(["evaluate", str(run), "--timesteps", "1", "2"]) == 0
    assert "test accuracy on 40 samples (split folders: train/ and test/)" in capsys.readouterr().out
    assert main(["predict", str(run), *map(str, sorted((out / "test" / "Coat").glob("*.aedat"))[:2])]) == 0
    assert capsys.readouterr().out.count("%") == 6
    (tmp_path / "bad.aedat").write_text("no events")
    assert main(["predict", str(run), str(tmp_path / "bad.aedat")]) == 1
    assert "bad.aedat is not an AEDAT 2.0 file" in capsys.readouterr().err
    assert main(["predict", str(run), str(tmp_path / "none.aedat")]) == 1
    assert "none.aedat cannot be read" in capsys.readouterr().err


def test_check_names_what_is_wrong(root, tmp_path, capsys):
    (root / "cat" / "cifar10_cat_0.aedat").write_bytes(b"text")
    for file in (root / "dog").iterdir():
        file.unlink()
    (root / "cat" / "cifar10_cat_1.mat").touch()
    assert main(["data", "check", str(root)]) == 1
    out, err = capsys.readouterr()
    assert "1 other files, which are not read: cat/cifar10_cat_1.mat" in out
    assert "cifar10_cat_0.aedat is not an AEDAT 2.0 file" in out
    assert "classes of CIFAR10-DVS that are missing: dog" in out
    assert "2 problems" in err
    (tmp_path / "empty").mkdir()
    assert main(["data", "check", str(tmp_path / "empty")]) == 1
    assert "holds nothing that is known" in capsys.readouterr().err
    assert main(["data", "chek", str(root)]) == 1
    assert "did you mean check?" in capsys.readouterr().err
