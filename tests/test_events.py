"""Event recordings: files against a naive decoder, frames by hand, changes, the simulator, the adapter."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_events import aedat4, recording

from spikedistill.data import Augmentation, Splits
from spikedistill.data.batches import generator_for
from spikedistill.data.events import (
    Events,
    Framing,
    read_aedat2,
    read_aedat4,
    read_events_npz,
    read_frames_npz,
    to_frames,
    write_aedat2,
)
from spikedistill.data.events.aedat import HEADER
from spikedistill.data.events.changes import Changes, change
from spikedistill.data.events.frameset import frames_of
from spikedistill.data.events.layouts import CIFAR10_CLASSES
from spikedistill.data.events.simulate import Camera, path, simulate
from spikedistill.errors import DataError, InvalidArgument
from spikedistill.report.grid import grid
from spikedistill.training.recipe_files import load_recipe
from spikedistill.training.run import train


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


def test_aedat4_is_read(tmp_path):
    pytest.importorskip("aedat")
    events = recording(200)
    (tmp_path / "a.aedat4").write_bytes(aedat4(events))
    assert same(read_aedat4(tmp_path / "a.aedat4"), events)


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
    with pytest.raises(DataError, match="y runs from 3 to 128, but the sensor has 128 rows"):
        to_frames(Events(np.array([1, 2]), np.array([3, 128]), np.array([0, 1]), np.array([0, 1000])), 5)
    with pytest.raises(InvalidArgument, match="cut by number or time; given 'hand'"):
        to_frames(events, 5, "hand")


# ---------------------------------------------------------------- changes and adapter


def test_flip_and_roll_are_those_of_torch():
    frames = torch.rand(3, 5, 2, 8, 8)
    draw = Changes.draw(5, Augmentation(0, True, roll=3), generator_for(0))
    out = change(frames, draw)
    for k in range(5):
        expected = frames[:, k].roll(tuple(draw.roll[k].tolist()), (-2, -1))
        assert torch.equal(out[:, k], expected.flip(-1) if draw.flip[k] else expected)
    assert 0 < draw.flip.sum() < 5


def test_the_grid_of_recordings_says_which_and_when(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("spikedistill.report.grid.save_figure", lambda figure, path, dpi: drawn.append(figure))
    grid(torch.rand(10, 3, 2, 8, 8), ["cat", "dog", "ship"], tmp_path / "grid.png")
    axes = np.array(drawn[0].axes).reshape(3, 5)
    assert [axis.get_title() for axis in axes[0]] == ["t = 1", "t = 3", "t = 5", "t = 7", "t = 10"]
    assert [row[0].get_ylabel() for row in axes] == ["cat", "dog", "ship"]
    assert all(axis.get_title() == "" for axis in axes[1:].flat)
    grid(torch.rand(11, 3, 8, 8), [f"picture {k}" for k in range(11)], tmp_path / "grid.png")
    assert [axis.get_title() for axis in drawn[1].axes] == [f"picture {k}" for k in range(11)] + [""] * 5
    monkeypatch.undo()
    for frames in (torch.rand(1, 1, 2, 8, 8), torch.zeros(3, 20, 2, 8, 8), torch.rand(3, 1, 8, 8)):
        grid(frames, ["a"] * 20, tmp_path / "grid.png")
        assert (tmp_path / "grid.png").stat().st_size > 1000


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
    assert samples.targets.numbers.tolist() == [0, 1, 1, 0]
    assert samples.targets.names == ("a", "b")
    assert all(np.array_equal(samples.frames[0], samples.frames[k]) for k in range(4))
    with pytest.raises(DataError, match=r"item 0 is ndarray \[3, 2, 8, 8\]; expected frames .* T = 4"):
        frames_of([(np.zeros((3, 2, 8, 8)), 0)], ["a"], framing)
    with pytest.raises(DataError, match="item 0 has label 3, but there are 1 classes"):
        frames_of([(events, 3)], ["a"], framing)
    with pytest.raises(DataError, match="item 1 has label 0.5; expected a class index"):
        frames_of([(events, np.int64(0)), (events, 0.5)], ["a"], framing)


def test_spikingjellys_dataset_and_training_on_it(tmp_path, capsys):
    sj = pytest.importorskip("spikingjelly.datasets.cifar10_dvs")
    for name in CIFAR10_CLASSES:
        (tmp_path / "events_np" / name).mkdir(parents=True)
        for k in range(2):
            np.savez(tmp_path / "events_np" / name / f"{k}.npz", **vars(recording(300, k)))
    events = sj.CIFAR10DVS(str(tmp_path), data_type="event")
    frames = sj.CIFAR10DVS(str(tmp_path), data_type="frame", frames_number=4, split_by="number")
    framing = Framing(4, "number", 128)
    samples = frames_of(events, CIFAR10_CLASSES, framing)
    assert np.array_equal(samples.frames, frames_of(frames, CIFAR10_CLASSES, framing).frames)  # our cutting is theirs

    small = frames_of(events, CIFAR10_CLASSES, Framing(4, "number", 16))
    words = ["--timesteps", "4", "--model.width", "2", "--optimizer.epochs", "1", "--optimizer.batch_size", "10"]
    train(load_recipe("dvs-simulated", words), tmp_path / "run", data=Splits(small, None, small))
    assert "test accuracy on 20 samples" in capsys.readouterr().out


# ---------------------------------------------------------------- simulator


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
