"""Numbers of events that cannot be, and what a repair makes of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from made_events import recording
from test_events import same

from spikedistill.data import DataSettings, load
from spikedistill.data.events import (
    Framing,
    read_events_npz,
    read_frames_npz,
    to_frames,
    write_aedat2,
)
from spikedistill.data.events.frames import LARGEST
from spikedistill.data.events.frameset import frames_of
from spikedistill.data.events.layouts import LAYOUTS
from spikedistill.data.events.settings import EventSettings
from spikedistill.errors import DataError, InvalidArgument


def fields(**changed):
    """A recording of four events as a mapping, with other values in some fields."""
    return {"x": [1, 2, 3, 4], "y": [5, 6, 7, 8], "p": [0, 1, 1, 0], "t": [0, 10, 20, 30]} | changed


def arrays(**changed):
    return {name: np.array(values) for name, values in fields(**changed).items()}


BAD_FIELDS = [
    (
        {"x": [1, 2, 3.7, 4]},
        "x is 3.7 at event 2, and no whole number of 64 bits at 1 of 4 events; columns are counted",
    ),
    ({"y": [5, np.nan, 7, np.nan]}, "y is nan at event 1, and no whole number of 64 bits at 2 of 4 events"),
    ({"t": [0, 0.5, 1, 1.5]}, "t is 0.5 at event 1, and no whole number .* 2 of 4 events; times are in whole µs"),
    ({"t": [0, np.inf, 1, 2]}, "t is inf at event 1"),
    ({"t": np.array([0, 1, 2, 2**63], np.uint64)}, "t is 9223372036854775808 at event 3"),
    ({"p": [0, 1, 2, 1]}, "a polarity is 0 or 1 .or -1 and 1.; found 0, 1, 2. Map yours"),
    ({"p": [0, 1, -1, 1]}, "found -1, 0, 1"),
    ({"p": [0, 1, 0.5, 1]}, "p is 0.5 at event 2"),
    ({"x": [1, 2, 128, 4]}, "x runs from 1 to 128, but the sensor has 128 columns"),
    ({"y": [-1, 2, 3, 4]}, "y runs from -1 to 4"),
    ({"x": [1, 2, 2**16 + 5, 4]}, "x runs from 1 to 65541"),  # 5, if it were cut to 16 bits
    ({"t": [0, 20, 10, 30]}, "time runs backwards 1 times, first at event 2"),
    ({"x": ["1", "2", "3", "4"]}, "x is <U1 .4.; expected one whole number for each event"),
    ({"x": [[1, 2, 3, 4]]}, r"x is int64 \[1, 4\]; expected one whole number"),
    ({"x": [1, 2]}, "must have one length; given x 2, y 4, p 4, t 4"),
]


@pytest.mark.parametrize(("changed", "message"), BAD_FIELDS)
def test_events_that_cannot_be_are_refused_by_name(tmp_path, changed, message):
    np.savez(tmp_path / "bad.npz", **arrays(**changed))
    with pytest.raises(DataError, match=message) as refused:
        read_events_npz(tmp_path / "bad.npz")
    assert "bad.npz" in str(refused.value) or "one length" in message
    with pytest.raises(DataError, match=message) as refused:
        frames_of([(recording(), 0), (arrays(**changed), 0)], ["a"], Framing(2, "number", 16))
    assert "item 1" in str(refused.value) or "one length" in message
    assert "--data" not in str(refused.value)  # there is no recipe to say it in


@pytest.mark.parametrize("sensor", [(34, 34, 2), 34, (34.0, 34), "34"])
def test_a_sensor_is_rows_and_columns(sensor):
    for made in (lambda: Framing(4, sensor=sensor), lambda: to_frames(recording(), 4, sensor=sensor)):
        with pytest.raises(InvalidArgument, match=r"a sensor is \(rows, columns\), two whole numbers; given"):
            made()
    assert to_frames(recording(), 4, sensor=(128, 130)).shape == (4, 2, 128, 130)


def test_the_mean_of_the_frames_is_a_picture_for_any_number_of_steps():
    items = [(recording(60, k), k % 2) for k in range(4)]
    each, mean = (frames_of(items, "ab", Framing(4, "number", 16, shown=shown)) for shown in ("each", "mean"))
    order = torch.arange(4)
    assert torch.equal(mean.batch(order).inputs, each.batch(order).inputs.mean(0))
    assert mean.description()["framing"]["shown"] == "mean"
    asked = EventSettings(frames=4, shown="mean").of(LAYOUTS["cifar10-dvs"])
    assert asked.framing(9) == asked.framing(None) == Framing(4, shown="mean")
    with pytest.raises(InvalidArgument, match=r"data.events.frames is 4, .* T = 9 .*--data.events.shown mean"):
        EventSettings(frames=4).of(LAYOUTS["cifar10-dvs"]).framing(9)
    with pytest.raises(InvalidArgument, match="say it: --data.events.frames 10"):
        EventSettings().of(LAYOUTS["cifar10-dvs"]).framing(None)
    for wrong in ({"shown": "sum"}, {"frames": 0}):
        with pytest.raises(InvalidArgument):
            EventSettings(**wrong)


def test_an_item_that_is_no_pair_is_named():
    for item, what in (({"events": 1, "label": 0}, "dict"), ((recording(), 0, 1), "tuple of 3")):
        with pytest.raises(DataError, match=rf"item 0 is a {what}; expected a pair \(recording, label\)"):
            frames_of([item], ["a"], Framing(2, "number", 16))


def test_what_a_repair_leaves_out_is_said(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    for k in range(10):
        events = recording(60, k)
        x = events.x.copy()
        x[:5] = 140
        np.savez(tmp_path / "a" / f"{k}.npz", x=x, y=events.y, p=events.p, t=events.t)
    wanted = EventSettings(cache=str(tmp_path / "cache"))
    words = DataSettings("recordings", str(tmp_path), events=wanted)
    with pytest.raises(DataError, match=r"larger camera has to be said: --data.events.sensor"):
        load(words, 2)
    load(dataclasses.replace(words, events=dataclasses.replace(wanted, repair=True)), 2)
    said = capsys.readouterr().err
    assert "left out 50 events outside the sensor of 128 rows and 128 columns, of 10 recordings" in said


def test_what_a_repair_leaves_out_of_aedat_is_said_too(tmp_path, capsys):
    events = recording(60)
    for k in range(10):
        (tmp_path / "a").mkdir(exist_ok=True)
        write_aedat2(tmp_path / "a" / f"{k}.aedat", events)
        content = bytearray((tmp_path / "a" / f"{k}.aedat").read_bytes())
        content[-8 * 7 :: 8] = b"\xff" * 7  # the highest byte of the last addresses
        (tmp_path / "a" / f"{k}.aedat").write_bytes(content)
    wanted = EventSettings(cache=str(tmp_path / "cache"), repair=True)
    load(DataSettings("recordings", str(tmp_path), events=wanted), 2)
    assert "left out 70 events" in capsys.readouterr().err


def test_repair_of_events_outside_the_sensor(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(x=[1, 2**16 + 5, -3, 4], t=[30, 20, 10, 0]))
    events = read_events_npz(tmp_path / "a.npz", repair=True)
    assert (events.x.tolist(), events.t.tolist()) == ([4, 1], [0, 30])
    assert events.x.dtype == np.int16
    np.savez(tmp_path / "b.npz", **arrays(x=[1, 2, 3.7, 4]))
    with pytest.raises(DataError, match="x is 3.7"):
        read_events_npz(tmp_path / "b.npz", repair=True)


def test_numbers_that_say_the_same_are_converted(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    expected = read_events_npz(tmp_path / "a.npz")
    same_events = [{"p": [-1, 1, 1, -1]}, {"p": [False, True, True, False]}, {"p": [-1.0, 1.0, 1.0, -1.0]},
                   {"x": [1.0, 2.0, 3.0, 4.0], "t": [0.0, 10.0, 20.0, 30.0]}]  # fmt: skip
    for changed in same_events:
        np.savez(tmp_path / "b.npz", **arrays(**changed))
        found = read_events_npz(tmp_path / "b.npz")
        assert same(found, expected)
        assert [getattr(found, name).dtype for name in "xypt"] == [np.int16, np.int16, np.int8, np.int64]
    np.savez(tmp_path / "c.npz", **arrays(p=[-1, -1, -1, -1]))
    assert read_events_npz(tmp_path / "c.npz").p.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "frames hold 1 numbers that are NaN or infinite; expected counts of events from 0 to 65504"),
        (np.inf, "frames hold 1 numbers that are NaN or infinite"),
        (-1.0, "frames run from -1 to 0"),
        (70_000.0, "frames run from 0 to 70000"),  # infinite as float16
    ],
)
def test_frames_that_cannot_be_are_refused_by_name(tmp_path, value, message):
    frames = np.zeros((4, 2, 128, 128))
    frames[2, 1, 5, 7] = value
    np.savez(tmp_path / "bad.npz", frames=frames)
    with pytest.raises(DataError, match=rf"bad.npz: {message}"):
        read_frames_npz(tmp_path / "bad.npz", 4)
    with pytest.raises(DataError, match=rf"item 1: {message}"):
        frames_of([(np.zeros((4, 2, 16, 16)), 0), (frames, 0)], ["a"], Framing(4, "number", 16))


def test_frames_of_no_numbers_and_the_largest_count():
    framing = Framing(4, "number", 16)
    with pytest.raises(DataError, match="item 0: frames are <U1; expected counts of events"):
        frames_of([(np.full((4, 2, 16, 16), "a"), 0)], ["a"], framing)
    largest = frames_of([(np.full((4, 2, 16, 16), float(LARGEST)), 0)], ["a"], framing)
    assert largest.batch(torch.tensor([0])).inputs.max() == LARGEST
    one_pixel = {"x": np.full(70_000, 3), "y": np.full(70_000, 4), "p": np.ones(70_000), "t": np.arange(70_000)}
    with pytest.raises(DataError, match="item 0: frames run from 0 to 70000"):
        frames_of([(one_pixel, 0)], ["a"], Framing(1, "number", 128))
