"""Folders of recordings: found in every form, divided, prepared once, and trained on by commands."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from made_events import aedat4, recording

from spikedistill.cli import main
from spikedistill.data import Augmentation, Batches, DataSettings, Framing, ImageSet, load
from spikedistill.data.check import check
from spikedistill.data.events import Events, frames_of_file, make, read_aedat2, to_frames, write_aedat2
from spikedistill.data.events.aedat import HEADER
from spikedistill.data.events.cache import prepared
from spikedistill.data.events.layouts import CIFAR10_CLASSES
from spikedistill.data.events.recordings import RecordedFrames, find_recordings
from spikedistill.data.events.settings import EventSettings
from spikedistill.data.events.simulate import Camera
from spikedistill.data.events.splits import split
from spikedistill.errors import DataError, InvalidArgument
from spikedistill.tasks import Labels

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
    forms = {tmp_path / "x": "aedat2", tmp_path / "e": "events_np", tmp_path / "f": "frames", events: "events_np"}
    for folder, form in (forms | {frames: "frames"}).items():
        other = find_recordings(folder, framing, CIFAR10_CLASSES)
        assert (other.form, other.labels) == (form, found.labels)
        assert np.array_equal(other.frames(0, framing), upright)
        assert np.array_equal(frames_of_file(other.paths[0], framing), upright)
    with pytest.raises(
        DataError, match=r"expected .* frames_number_4_split_by_time/CLASS.*it holds frames_number_4_split"
    ):
        find_recordings(tmp_path / "f", Framing(4, "time", 16))  # cut in another way
    with pytest.raises(DataError, match=r"frames are \[4, 2, 128, 128\], expected .*\[5, 2, 128, 128\]"):
        find_recordings(tmp_path / "f", Framing(5, "number", 16)).frames(0, Framing(5, "number", 16))


def test_missing_and_empty_folders(root, tmp_path):
    for name in ("cat", "ship"):
        for file in (root / name).iterdir():
            file.unlink()
    with pytest.raises(DataError, match="missing or empty: cat, ship"):
        find_recordings(root, classes=CIFAR10_CLASSES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no recordings: expected CLASS/\* of .aedat.*it holds nothing"):
        find_recordings(tmp_path / "empty")
    with pytest.raises(DataError, match="is not a folder"):
        find_recordings(tmp_path / "nowhere")


def test_splits(root):
    found = find_recordings(root)
    rows = {name: split(found, name, 0) for name in ("first-90", "last-900", "authors")}
    for train, test in rows.values():
        assert sorted(torch.cat([train, test]).tolist()) == list(range(30))
    assert [found.number(k) for k in rows["last-900"][1].tolist()] == [0, 99] * 10
    assert rows["first-90"][1].tolist() == list(range(2, 30, 3))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(42))
    assert rows["authors"][1].tolist() == sorted(order[27:].tolist())
    with pytest.raises(DataError, match="leaves 30 of 30 recordings for training and 0 for the test"):
        split(found, "stratified-90-10", 0)


def test_all_folds_together_test_every_recording_once(root):
    found = find_recordings(root)
    many = type(found)("aedat2", root, found.paths * 10, found.labels * 10, found.classes)
    tested = []
    for k in range(5):
        train, test = split(many, f"fold-{k + 1}-of-5", 0)
        assert torch.tensor(many.labels)[test].bincount().tolist() == [6] * 10
        assert len(train) == 240
        tested += test.tolist()
    assert sorted(tested) == list(range(300))


def test_stratified_takes_a_tenth_of_each_class(root):
    found = find_recordings(root)
    many = type(found)("aedat2", root, found.paths * 10, found.labels * 10, found.classes)
    train, test = split(many, "stratified-90-10", 0)
    assert torch.tensor(many.labels)[test].bincount().tolist() == [3] * 10
    assert len(train) == 270
    assert not torch.equal(split(many, "stratified-90-10", 1)[1], test)


def test_the_cache_is_made_once_and_by_what_matters(root, tmp_path):
    found, framing = find_recordings(root), Framing(4, "number", 16)
    frames = prepared(RecordedFrames(found, framing), tmp_path / "c")
    assert (frames.shape, frames.dtype) == ((30, 4, 2, 16, 16), np.float16)
    assert np.array_equal(frames[7], found.frames(7, framing))
    prepared(RecordedFrames(found, framing), tmp_path / "c")
    assert len(list((tmp_path / "c").glob("[!.]*"))) == 1
    prepared(RecordedFrames(found, Framing(4, "time", 16)), tmp_path / "c")
    assert len(list((tmp_path / "c").glob("[!.]*"))) == 2
    os.utime(found.paths[0], (1, 1))
    prepared(RecordedFrames(found, framing), tmp_path / "c")
    assert len(list((tmp_path / "c").glob("[!.]*"))) == 3


@pytest.mark.parametrize("damage", ["flipped", "truncated", "no about", "copied"])
def test_frames_that_are_not_those_that_were_made_are_made_again(root, tmp_path, damage, capsys):
    found, framing = find_recordings(root), Framing(4, size=16)
    good = np.array(prepared(RecordedFrames(found, framing), tmp_path / "cache"))
    (folder,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    frames = folder / "frames.npy"
    content = frames.read_bytes()
    if damage == "no about":
        (folder / "about.json").unlink()
    elif damage == "copied":  # as it was, with another time
        os.utime(frames, (1, 1))
    else:
        frames.write_bytes(content[:-100] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(frames, (1, 1))
    assert np.array_equal(prepared(RecordedFrames(found, framing), tmp_path / "cache"), good)
    assert ("are made again" in capsys.readouterr().err) == (damage != "copied")


def test_a_clock_that_began_again_is_no_time_that_runs_backwards(tmp_path):
    """Of 32 bits in µs: after 71 minutes."""
    made = recording(60)
    start = 2**32 - int(made.t[30])
    wrapped = Events(made.x, made.y, made.p, (made.t + start) % 2**32)
    write_aedat2(tmp_path / "long.aedat", wrapped)
    for repair in (False, True):
        assert np.array_equal(np.diff(read_aedat2(tmp_path / "long.aedat", repair).t), np.diff(made.t))


def test_every_bad_recording_is_named_and_no_cache_is_left(root, tmp_path):
    found = find_recordings(root)
    found.paths[3].write_bytes(b"text")
    found.paths[20].write_bytes(HEADER)
    with pytest.raises(
        DataError, match=rf"2 of 30 recordings(?s:.*){found.paths[3].name}(?s:.*){found.paths[20].name}"
    ):
        prepared(RecordedFrames(found, Framing(4, "number", 16)), tmp_path / "c")
    assert list((tmp_path / "c").glob("[!.]*")) == []


def test_a_cache_folder_that_cannot_be_written(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be kept in .*file.*--data.events.cache FOLDER"):
        prepared(RecordedFrames(find_recordings(root), Framing(4, "number", 16)), tmp_path / "file")


def write_frames(folder, damage=lambda frames: frames):
    """Ready-made frames, two of each class; the second of class "dog" is damaged."""
    frames = folder / "frames_number_4_split_by_number"
    for label, name in enumerate(CIFAR10_CLASSES):
        (frames / name).mkdir(parents=True)
        for k in range(2):
            counts = to_frames(recording(60, 2 * label + k), 4).astype(np.float64)
            np.savez(frames / name / f"{k}.npz", frames=damage(counts) if (name, k) == ("dog", 1) else counts)
    return folder


def set_one(value):
    def damage(frames):
        frames[3, 1, 100, 100] = value
        return frames

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (set_one(np.nan), "frames hold 1 numbers that are NaN or infinite"),
        (set_one(-2), "frames run from -2 to"),
        (lambda frames: frames[:3], r"frames are \[3, 2, 128, 128\], (expected|those of most files)"),
    ],
)
def test_frames_that_cannot_be_are_named_before_a_cache_is_made(tmp_path, damage, message):
    root = write_frames(tmp_path / "frames", damage)
    found, framing = find_recordings(root), Framing(4, "number", 16)
    with pytest.raises(DataError, match=rf"1 of 20 recordings cannot be used:\n.*dog/1.npz: {message}"):
        prepared(RecordedFrames(found, framing), tmp_path / "c")
    assert list((tmp_path / "c").glob("[!.]*")) == []
    (part,) = check(root)
    assert len(part.bad) == 1
    assert "dog/1.npz: frames" in part.bad[0]


def test_check_of_a_folder_whose_first_file_is_damaged(tmp_path):
    root = write_frames(tmp_path / "frames") / "frames_number_4_split_by_number"
    first = root / CIFAR10_CLASSES[0] / "0.npz"
    first.write_bytes(b"PK nothing")
    (part,) = check(root)
    assert (part.form, sum(part.counts.values())) == ("recordings (frames)", 20)
    assert part.bad == [part.bad[0]]
    assert part.bad[0].startswith(f"{first} is not a readable npz file")


def test_event_samples_of_a_data_set(root, tmp_path):
    events = EventSettings(size=16, split="first-90", cache=str(tmp_path / "c"))
    augmentation = Augmentation(0, True, roll=2)
    settings = DataSettings("cifar10-dvs", str(root), augmentation=augmentation, events=events)
    splits = load(settings, 4)
    assert (len(splits.train), len(splits.test), splits.train.targets.names) == (20, 10, CIFAR10_CLASSES)
    assert splits.test.targets.numbers.tolist() == list(range(10))
    assert splits.division == "split first-90: the first 90 % of each class, by name, train; the rest test"
    found = find_recordings(root)
    third = torch.from_numpy(found.frames(5, Framing(4, "number", 16))).float()
    assert torch.equal(splits.test.batch(torch.tensor([1])).inputs[:, 0], third)
    batch = next(Batches(splits.train, 6, augmentation, 0).epoch(0))
    assert (batch.inputs.shape, batch.targets.shape, len(batch)) == ((4, 6, 2, 16, 16), (6,), 6)
    with_workers = next(Batches(splits.train, 6, augmentation, 0, workers=1).epoch(0))
    assert torch.equal(with_workers.inputs, batch.inputs)
    assert torch.equal(with_workers.targets, batch.targets)
    with pytest.raises(InvalidArgument, match="the ANN twin has no T"):
        load(settings, None)
    with pytest.raises(InvalidArgument, match=r"augmentation.crop has no effect on event frames.*crop 0"):
        next(Batches(splits.train, 6, Augmentation(), 0).epoch(0))
    with pytest.raises(InvalidArgument, match=r"data.events has no effect on 'cifar10' .*it is for cifar10-dvs"):
        DataSettings("cifar10", events=events)


# ---------------------------------------------------------------- simulated recordings


def part_of(labels):
    images = torch.randint(0, 256, (len(labels), 1, 28, 28), dtype=torch.uint8)
    return ImageSet(images, Labels(torch.tensor(labels), ("ant", "bee", "wasp")), (0.5,), (0.5,))


def test_simulating_needs_a_picture_of_every_class(tmp_path, monkeypatch):
    def simulate(*args):
        raise AssertionError("work was done")

    monkeypatch.setattr(make, "simulate", simulate)
    parts = {"train": part_of([0, 1, 2]), "test": part_of([1, 1])}
    message = (
        r"the first 2 test pictures of insects are not of every class: ant, wasp are missing\. Take more of them: "
        "--test-rows N"
    )
    with pytest.raises(DataError, match=message):
        make.make_recordings(parts, tmp_path / "out", "insects", 0)
    assert list(tmp_path.iterdir()) == []


def test_what_is_simulated_is_read_again(tmp_path):
    parts = {"train": part_of([0, 1, 2, 0]), "test": part_of([2, 1, 0])}
    events = make.make_recordings(parts, tmp_path / "out", "insects", 0, Camera(loops=1, steps=8))
    names = [str(p.relative_to(tmp_path / "out")) for p in sorted((tmp_path / "out").glob("*/*/*"))]
    assert names[:3] == [
        "test/ant/insects_ant_0.aedat",
        "test/bee/insects_bee_0.aedat",
        "test/wasp/insects_wasp_0.aedat",
    ]
    assert names[3:5] == ["train/ant/insects_ant_0.aedat", "train/ant/insects_ant_1.aedat"]
    settings = DataSettings(
        "cifar10-dvs", str(tmp_path / "out"), events=EventSettings(split="folders", size=128, cache=str(tmp_path / "c"))
    )
    splits = load(settings, 4)
    assert (len(splits.train), len(splits.test)) == (4, 3)
    assert splits.test.targets.captions(torch.arange(3)) == ["ant", "bee", "wasp"]
    counted = sum(part.batch(torch.arange(len(part))).inputs.sum() for part in (splits.train, splits.test))
    assert counted == events


# ---------------------------------------------------------------- commands


@pytest.mark.whole
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
    few = ["--out", str(tmp_path / "few"), "--train-rows", "40", "--test-rows", "3"]
    assert main(["data", "simulate-dvs", "--source", "fashion-small", *few]) == 1
    assert "the first 3 test pictures of fashion-small are not of every class" in capsys.readouterr().err
    assert not (tmp_path / "few").exists()
    words = ["dvs-simulated", "--data.root", str(out), "--data.events.cache", str(tmp_path / "c"),
             "--data.events.size", "16"]  # fmt: skip
    assert main(["data", "show", *words, "--out", str(tmp_path / "grid.png")]) == 0
    assert (tmp_path / "grid.png").stat().st_size > 1000
    assert main(["data", "prepare", *words]) == 0
    said = capsys.readouterr()
    assert "40 training and 40 test samples (split folders: " in said.out
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
