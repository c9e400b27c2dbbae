"""Event recordings: files against a naive decoder, frames by hand, splits, cache, changes, simulator, adapter."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikedistill.cli import main
from spikedistill.data import DataSettings, load
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.batches import Batches, generator_for
from spikedistill.data.events import (
    Events,
    Framing,
    make,
    read_aedat2,
    read_aedat4,
    read_events_npz,
    read_frames_npz,
    to_frames,
    write_aedat2,
)
from spikedistill.data.events.aedat import HEADER
from spikedistill.data.events.cache import prepared
from spikedistill.data.events.frameset import Changes, change, frames_of
from spikedistill.data.events.recordings import CIFAR10_CLASSES, find_recordings
from spikedistill.data.events.simulate import Camera, path, simulate
from spikedistill.data.events.splits import SPLITS, split
from spikedistill.data.sets import EventSettings
from spikedistill.errors import DataError, InvalidArgument


def recording(count=200, seed=0, sensor=128):
    random = np.random.default_rng(seed)
    x, y = random.integers(0, sensor, (2, count)).astype(np.int16)
    p = random.integers(0, 2, count).astype(np.int8)
    return Events(x, y, p, np.sort(random.integers(0, 10**6, count)))


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in "xypt")


def decoded_one_by_one(content):
    """The format in the words of its description, event by event."""
    while content.startswith(b"#"):
        content = content.split(b"\n", 1)[1]
    rows = []
    for k in range(0, len(content), 8):
        address, time = struct.unpack(">II", content[k : k + 8])
        rows.append(((address & 0xFE) >> 1, (address & 0x7F00) >> 8, address & 1, time))
    return Events(*(np.array(column) for column in zip(*rows, strict=True)))


# ---------------------------------------------------------------- files


event = st.tuples(st.integers(0, 127), st.integers(0, 127), st.integers(0, 1), st.integers(0, 2**32 - 1))


@settings(max_examples=50, deadline=None)
@given(st.lists(event, min_size=1, max_size=40))
def test_aedat2_round_trip_and_naive_decoder(tmp_path_factory, rows):
    rows.sort(key=lambda row: row[3])
    events = Events(*(np.array(column) for column in zip(*rows, strict=True)))
    path = tmp_path_factory.mktemp("aedat") / "a.aedat"
    write_aedat2(path, events)
    assert same(read_aedat2(path), events)
    assert same(decoded_one_by_one(path.read_bytes()), events)


def test_the_turned_convention_is_its_own_inverse():
    events = recording()
    turned = events.turned()
    assert turned.x[0] == 127 - events.y[0]
    assert turned.y[0] == 127 - events.x[0]
    assert turned.p[0] == 1 - events.p[0]
    assert same(turned.turned(), events)


def test_reading_is_fast(tmp_path):
    write_aedat2(tmp_path / "a.aedat", recording(2_000_000))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        read_aedat2(tmp_path / "a.aedat")
        times.append(time.perf_counter() - start)
    assert 2_000_000 / min(times) > 5e6  # 20 million a second on a quiet machine; this one may be busy


def words(*pairs):
    return HEADER + b"".join(struct.pack(">II", *pair) for pair in pairs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (words((0, 1), (0, 2))[:-3], r"truncated: 13 bytes .* \(1 whole events\)"),
        (HEADER, "holds no events"),
        (b"#!AER-DAT2.0\r\n# a header without an end", "ends inside its header"),
        (words((0, 1), (0x8000, 2)), r"1 of 2 addresses are not of a DVS128, first event 1 \(0x00008000"),
        (words((0, 5), (0, 9), (0, 3)), r"time runs backwards 1 times, first at event 2 \(9 to 3"),
        (b"just a text file\n", "begins with 'just a text', not with '#!AER-DAT2.0'"),
        (b"#!AER-DAT4.0\r\n", "read by read_aedat4"),
    ],
)
def test_unusable_aedat2(tmp_path, content, message):
    (tmp_path / "bad.aedat").write_bytes(content)
    with pytest.raises(DataError, match=rf"bad.aedat.*{message}"):
        read_aedat2(tmp_path / "bad.aedat")


def test_repair_leaves_out_what_cannot_be_and_sorts(tmp_path):
    (tmp_path / "a.aedat").write_bytes(words((0x0100, 5), (0x8000, 6), (0x0200, 9), (0x0300, 3)))
    events = read_aedat2(tmp_path / "a.aedat", repair=True)
    assert events.t.tolist() == [3, 5, 9]
    assert events.y.tolist() == [3, 1, 2]


def test_the_writer_refuses_what_the_format_cannot_say(tmp_path):
    with pytest.raises(DataError, match=r"x must lie in 0\.\.127; given 130 to 130"):
        write_aedat2(tmp_path / "a.aedat", Events(*(np.array([v]) for v in (130, 0, 0, 0))))
    assert list(tmp_path.iterdir()) == []


def test_aedat4_is_recognised(tmp_path):
    (tmp_path / "a.aedat4").write_bytes(b"#!AER-DAT4.0\r\nnothing")
    with pytest.raises(DataError, match=r"a.aedat4 (is not a readable AEDAT 4 file|needs the package aedat)|reading"):
        read_aedat4(tmp_path / "a.aedat4")
    (tmp_path / "b.aedat4").write_bytes(b"no")
    with pytest.raises(DataError, match="is not an AEDAT 4 file"):
        read_aedat4(tmp_path / "b.aedat4")


def test_npz_of_events_and_frames(tmp_path):
    events = recording()
    np.savez(tmp_path / "e.npz", t=events.t, x=events.x, y=events.y, p=events.p)
    assert same(read_events_npz(tmp_path / "e.npz"), events)
    np.savez(tmp_path / "f.npz", frames=np.zeros((4, 2, 128, 128)))
    assert read_frames_npz(tmp_path / "f.npz", 4).shape == (4, 2, 128, 128)
    with pytest.raises(DataError, match=r"frames are \[4, 2, 128, 128\], expected .*\[10, 2, 128, 128\]"):
        read_frames_npz(tmp_path / "f.npz", 10)
    with pytest.raises(DataError, match="has no array t, x, y, p; it has frames"):
        read_events_npz(tmp_path / "f.npz")
    (tmp_path / "g.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match="g.npz is not a readable npz file"):
        read_frames_npz(tmp_path / "g.npz", 4)
    np.savez(tmp_path / "h.npz", frames=np.array([{"code": 1}], dtype=object))
    with pytest.raises(DataError, match=r"h.npz is not a readable npz file.*pickle"):
        read_frames_npz(tmp_path / "h.npz", 4)


# ---------------------------------------------------------------- frames


def counted_one_by_one(events, timesteps, by):
    frames = np.zeros((timesteps, 2, 128, 128), int)
    size = len(events) // timesteps
    for k in range(len(events)):
        if by == "number":
            t = min(k // max(size, 1), timesteps - 1)
        else:
            t = min(int((events.t[k] - events.t[0]) * timesteps // max(events.t[-1] - events.t[0], 1)), timesteps - 1)
        frames[t, events.p[k], events.y[k], events.x[k]] += 1
    return frames


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.sampled_from(["number", "time"]), st.integers(0, 5))
def test_frames_count_every_event_once(count, timesteps, by, seed):
    events = recording(count, seed)
    frames = to_frames(events, timesteps, by)
    assert frames.sum() == count
    assert np.array_equal(frames, counted_one_by_one(events, timesteps, by))


def test_an_empty_bin_is_an_empty_frame():
    events = Events(np.array([1, 2]), np.array([3, 4]), np.array([0, 1]), np.array([0, 1000]))
    frames = to_frames(events, 5, "time")
    assert frames.sum((1, 2, 3)).tolist() == [1, 0, 0, 0, 1]
    with pytest.raises(DataError, match="no events"):
        to_frames(Events(*(np.array([], int) for _ in range(4))), 5)
    with pytest.raises(InvalidArgument, match="cut by number or time; given 'hand'"):
        to_frames(events, 5, "hand")


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
    for folder, form in ((tmp_path / "e", "events_np"), (tmp_path / "f", "frames"), (events, "events_np")):
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


# ---------------------------------------------------------------- changes and adapter


def test_flip_and_roll_are_those_of_torch():
    frames = torch.rand(3, 5, 2, 8, 8)
    draw = Changes.draw(5, Augmentation(0, True, roll=3), generator_for(0))
    out = change(frames, draw)
    for k in range(5):
        expected = frames[:, k].roll(tuple(draw.roll[k].tolist()), (-2, -1))
        assert torch.equal(out[:, k], expected.flip(-1) if draw.flip[k] else expected)
    assert 0 < draw.flip.sum() < 5


def test_the_neuromorphic_change_is_one_for_the_whole_sequence():
    frame = torch.rand(1, 40, 2, 16, 16).repeat(3, 1, 1, 1, 1)
    out = change(frame, Changes.draw(40, Augmentation(0, False, nda=True), generator_for(0)))
    assert torch.equal(out[0], out[2])
    changed = (out[0] != frame[0]).flatten(1).any(1)
    assert 20 < changed.sum() < 40


def test_any_dataset_of_events_or_frames():
    events = recording()
    fields = np.zeros(len(events), [("t", int), ("x", int), ("y", int), ("p", bool)])
    for name in "xypt":
        fields[name] = getattr(events, name)
    framing = Framing(4, "number", 16)
    forms = [(events, 0), (fields, 1), ({name: getattr(events, name) for name in "xypt"}, 1), (to_frames(events, 4), 0)]
    samples = frames_of(forms, ["a", "b"], framing)
    assert samples.labels.tolist() == [0, 1, 1, 0]
    assert all(np.array_equal(samples.frames[0], samples.frames[k]) for k in range(4))
    with pytest.raises(DataError, match=r"item 0 is ndarray \[3, 2, 8, 8\]; expected frames .* T = 4"):
        frames_of([(np.zeros((3, 2, 8, 8)), 0)], ["a"], framing)
    with pytest.raises(DataError, match="item 0 has label 3, but there are 1 classes"):
        frames_of([(events, 3)], ["a"], framing)


# ---------------------------------------------------------------- simulator and commands


def test_the_path_is_a_closed_loop():
    camera = Camera(loops=2, steps=8, amplitude=4.0)
    offsets = path(camera)
    assert torch.allclose(offsets[:9], offsets[8:])
    assert torch.allclose(offsets.abs().sum(1), torch.full((17,), 4.0))


def test_a_bright_edge_moving_right_gives_the_polarities_one_expects():
    picture = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    picture[..., :16] = 255  # bright on the left
    camera = Camera(noise=0.0, mismatch=0.0, loops=1, steps=16)
    (events,) = simulate(picture, camera, generator_for(0))
    edge = (abs(events.x - 64) < 8) & (abs(events.y - 64) < 30)
    first = events.t < camera.loop_time / 4  # from above the middle to its right
    assert edge.sum() > 100
    assert events.p[edge & first].mean() == 1.0  # the bright side comes
    second = (events.t > camera.loop_time / 4) & (events.t < camera.loop_time * 3 / 4)  # to its left
    assert events.p[edge & second].mean() == 0.0
    events.checked("simulated")


def test_refractory_time_and_noise():
    grey = torch.full((2, 1, 32, 32), 128, dtype=torch.uint8)
    camera = Camera(noise=1.0, threshold=3.0)
    for events in simulate(grey, camera, generator_for(0)):
        expected = 128 * 128 * camera.loops * camera.loop_time * 1e-6
        assert abs(len(events) - expected) < 6 * expected**0.5
    busy = torch.randint(0, 256, (1, 1, 32, 32), dtype=torch.uint8)
    (events,) = simulate(busy, Camera(noise=0.0, refractory=5000), generator_for(0))
    pixel = events.y.astype(int) * 128 + events.x
    order = np.lexsort((events.t, pixel))
    gaps = np.diff(events.t[order])[np.diff(pixel[order]) == 0]
    assert gaps.min() >= 4999  # times are cut to whole µs


def test_commands_from_simulation_to_training(tmp_path, capsys, monkeypatch):
    out = tmp_path / "dvs"
    monkeypatch.setattr(make, "Camera", lambda: Camera(loops=1, steps=8))
    assert main(["data", "simulate-dvs", "--source", "fashion-small", "--out", str(out), "--train-rows", "40",
                 "--test-rows", "40"]) == 0  # fmt: skip
    assert "80 simulated recordings" in capsys.readouterr().out
    assert main(["data", "check", str(out)]) == 0
    assert "train: recordings (aedat2), 40 in 10 classes" in capsys.readouterr().out
    assert main(["data", "simulate-dvs", "--source", "fashion-small", "--out", str(out)]) == 1
    assert "is not overwritten" in capsys.readouterr().err
    words = ["dvs-simulated", "--data.root", str(out), "--data.events.cache", str(tmp_path / "c"),
             "--data.events.size", "16"]  # fmt: skip
    assert main(["data", "show", *words, "--out", str(tmp_path / "grid.png")]) == 0
    assert (tmp_path / "grid.png").stat().st_size > 1000
    assert main(["data", "prepare", *words]) == 0
    assert "40 training and 40 test recordings (split folders)" in capsys.readouterr().out
    run = tmp_path / "run"
    small = ["--optimizer.epochs", "1", "--model.width", "2", "--timesteps", "2", "--out", str(run)]
    assert main(["train", *words, *small]) == 0
    assert "test accuracy on 40 samples" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--timesteps", "1", "2"]) == 0


def test_check_names_what_is_wrong(root, tmp_path, capsys):
    (root / "cat" / "cifar10_cat_0.aedat").write_bytes(b"text")
    for file in (root / "dog").iterdir():
        file.unlink()
    assert main(["data", "check", str(root)]) == 1
    out, err = capsys.readouterr()
    assert "cifar10_cat_0.aedat is not an AEDAT 2.0 file" in out
    assert "classes of CIFAR10-DVS that are missing: dog" in out
    assert "2 problems" in err
    (tmp_path / "empty").mkdir()
    assert main(["data", "check", str(tmp_path / "empty")]) == 1
    assert "holds nothing that is known" in capsys.readouterr().err
    assert main(["data", "chek", str(root)]) == 1
    assert "did you mean check?" in capsys.readouterr().err
