"""Recordings in HDF5: both forms, windows, what is refused, and detection from them as from DAT files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from made_events import recording
from test_dat import SMALL, events_of

from spikedistill.data import DataSettings, load
from spikedistill.data.check import check
from spikedistill.data.events import Events, hdf5, to_frames
from spikedistill.data.events.dat import write_dat
from spikedistill.data.events.event import DVS128, Sensor
from spikedistill.data.events.hdf5 import STRIDE, Hdf5File, read_hdf5
from spikedistill.data.events.recordings import find_recordings, frames_of_file
from spikedistill.data.events.settings import EventSettings
from spikedistill.data.scenes.box_files import LabelledBoxes, write_boxes
from spikedistill.data.scenes.settings import SceneSettings
from spikedistill.errors import DataError


def write_arrays(path, events, sensor=None, **compression):
    """In the form in which 1 Mpx is passed on."""
    with h5py.File(path, "w") as file:
        for name in "xypt":
            values = getattr(events, name)
            file.create_dataset(f"events/{name}", data=values, chunks=True if len(values) else None, **compression)
        if sensor:
            file["events/height"], file["events/width"] = sensor


def write_records(path, events, sensor=None):
    """In the form of Prophesee's tools, without their compression."""
    records = np.zeros(len(events), [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
    for name in "xypt":
        records[name] = getattr(events, name)
    with h5py.File(path, "w") as file:
        file["CD/events"] = records
        if sensor:
            file.attrs["geometry"] = f"{sensor.columns}x{sensor.rows}"


def same(found, events):
    return all(np.array_equal(getattr(found, name), getattr(events, name)) for name in "xypt")


@pytest.mark.parametrize("write", [write_arrays, write_records])
def test_both_forms(write, tmp_path):
    write(tmp_path / "a.h5", recording(), Sensor(128, 130))
    file = Hdf5File.open(tmp_path / "a.h5")
    span = (int(recording().t[0]), int(recording().t[-1]))
    assert (len(file), file.sensor, file.span) == (200, Sensor(128, 130), span)
    assert Hdf5File.open(tmp_path / "a.h5", "unseen").span == span
    assert same(read_hdf5(tmp_path / "a.h5"), recording())
    write(tmp_path / "b.h5", recording())
    assert Hdf5File.open(tmp_path / "b.h5").sensor is None


@pytest.mark.parametrize("count", [1, STRIDE - 1, STRIDE, STRIDE + 1, 3 * STRIDE + 5])
def test_windows_are_those_of_all_events(count, tmp_path):
    """Also where many events have one time, at the ends, and beyond them."""
    events = recording(count, seed=count)
    events = Events(events.x, events.y, events.p, events.t // 1000 * 1000)
    write_arrays(tmp_path / "a.h5", events, compression="gzip")
    file = Hdf5File.open(tmp_path / "a.h5")
    last = int(events.t[-1])
    edges = [-5, 0, int(events.t[0]), int(events.t[count // 2]), last, last + 1, 2_000_000]
    for start in edges:
        for end in edges:
            inside = (events.t >= start) & (events.t < end)
            found = file.window(start, end)
            assert same(found, Events(events.x[inside], events.y[inside], events.p[inside], events.t[inside]))


@pytest.mark.parametrize("first", [0, 1])  # of three: 1 is also the first event behind a stride
@pytest.mark.parametrize("count", [7, 2 * STRIDE + 5])
def test_times_are_mended(count, first, tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "PART", STRIDE)  # also from one part to the next
    events = recording(count, seed=count)
    times = events.t.copy()
    times[first::3] -= 40_000
    write_arrays(tmp_path / "a.h5", Events(events.x, events.y, events.p, times))
    file, mended = Hdf5File.open(tmp_path / "a.h5", "mended"), np.maximum.accumulate(times)
    assert file.mended
    assert file.span == (mended[0], mended[-1])
    for start in (mended[0], mended[STRIDE % count] - 10, int(mended[count // 2]) - 3, int(mended[-1]) - 50_000):
        inside = (mended >= start) & (mended < start + 60_000)
        found = file.window(int(start), int(start) + 60_000)
        assert same(found, Events(events.x[inside], events.y[inside], events.p[inside], mended[inside]))


def test_an_empty_recording(tmp_path):
    nothing = np.zeros(0, np.int64)
    write_arrays(tmp_path / "a.h5", Events(nothing, nothing, nothing, nothing))
    file = Hdf5File.open(tmp_path / "a.h5")
    assert (len(file), file.span, len(file.window(0, 10))) == (0, (0, 0), 0)
    assert Hdf5File.open(tmp_path / "a.h5", "unseen").span == (0, 0)
    with pytest.raises(DataError, match="holds no events"):
        read_hdf5(tmp_path / "a.h5")


def _backwards(path):
    events = recording()
    write_arrays(path, Events(events.x, events.y, events.p, events.t[::-1].copy()))


def _without_time(path):
    with h5py.File(path, "w") as file:
        file["events/x"], file["other"] = [1], [2]


def _other_lengths(path):
    with h5py.File(path, "w") as file:
        for name in "xypt":
            file[f"events/{name}"] = np.zeros(3 if name == "t" else 2)


def _text(path):
    with h5py.File(path, "w") as file:
        for name in "xypt":
            file[f"events/{name}"] = np.array([b"a"])


def _link(path):
    write_arrays(path.with_name("other.h5"), recording())
    with h5py.File(path, "w") as file:
        file["events"] = h5py.ExternalLink("other.h5", "/events")


def _raw_elsewhere(path):
    path.with_name("secret").write_bytes(bytes(1600))
    with h5py.File(path, "w") as file:
        for name in "xypt":
            file.create_dataset(f"events/{name}", (200,), "i8", external=[(str(path.with_name("secret")), 0, 1600)])


def _no_fields(path):
    with h5py.File(path, "w") as file:
        file["CD/events"] = np.zeros(3, [("x", "<u2"), ("t", "<i8")])


def _no_camera(path):
    write_arrays(path, recording(), (0, 128))


BAD = {
    "time runs backwards, first at event": _backwards,
    r"has no events/y, events/p, events/t, and no CD/events; it holds events, other": _without_time,
    "must be rows of numbers, as many of each": _other_lengths,
    r"must be rows of numbers.*given \(1,\)": _text,
    "is a link; copy what it leads to into the file": _link,
    "lie in another file; copy them into this one": _raw_elsewhere,
    "CD/events has no y, p; it has x, t": _no_fields,
    "says 128 × 0 pixels": _no_camera,
    "is not a readable HDF5 recording": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50)),
    "no file|does not exist|cannot be read|No such": lambda path: None,
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_refused(message, tmp_path):
    BAD[message](tmp_path / "bad.h5")
    with pytest.raises(DataError, match=message):
        read_hdf5(tmp_path / "bad.h5")


def test_a_damaged_chunk_is_said_and_not_zeros(tmp_path):
    write_arrays(tmp_path / "a.h5", recording(3000), compression="gzip")
    content = bytearray((tmp_path / "a.h5").read_bytes())
    with h5py.File(tmp_path / "a.h5") as file:
        chunk = file["events/x"].id.get_chunk_info(0)
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read to its end"):
        read_hdf5(tmp_path / "a.h5")


def test_repair_sorts_by_time(tmp_path):
    _backwards(tmp_path / "a.h5")
    found = read_hdf5(tmp_path / "a.h5", repair=True)
    assert np.array_equal(found.t, recording().t)
    order = np.argsort(recording().t[::-1], kind="stable")
    assert np.array_equal(found.x, recording().x[order])


def test_what_a_small_file_claims_is_not_believed(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "xypt":
            file.create_dataset(f"events/{name}", (2**26,), "i8", chunks=(2**16,))
    with pytest.raises(DataError, match="claims 67108864 numbers and holds none"):
        Hdf5File.open(tmp_path / "a.h5")
    write_arrays(tmp_path / "b.h5", recording())
    monkeypatch.setattr("spikedistill.data.events.hdf5.AT_ONCE", 100)
    with pytest.raises(DataError, match="holds 200 events, more than the 100"):
        read_hdf5(tmp_path / "b.h5")


def test_a_geometry_of_bytes_is_read_too(tmp_path):
    write_records(tmp_path / "a.h5", recording())
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.attrs["geometry"] = np.bytes_("1280x720")
    assert Hdf5File.open(tmp_path / "a.h5").sensor == Sensor(720, 1280)


def test_check_takes_recordings_of_wider_cameras(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_records(tmp_path / name / "r_0.h5", recording(sensor=1000), Sensor(1000, 1000))
    assert [part.bad for part in check(tmp_path)] == [[]]


def test_a_refused_file_is_closed_and_can_be_written_again(tmp_path):
    kept = []  # an error that is kept keeps what its frames held
    for _ in range(2):
        _backwards(tmp_path / "a.h5")
        with pytest.raises(DataError, match="time runs backwards") as error:
            Hdf5File.open(tmp_path / "a.h5")
        kept.append(error)


def test_recordings_of_classes(tmp_path):
    (tmp_path / "a").mkdir()
    write_arrays(tmp_path / "a" / "r_0.h5", recording(), DVS128)
    assert find_recordings(tmp_path).form == "hdf5"
    framing = EventSettings(size=128, sensor=[128, 128]).framing(4)
    assert np.array_equal(frames_of_file(tmp_path / "a" / "r_0.h5", framing), to_frames(recording(), 4))


def test_detection_from_either_form_is_the_same(tmp_path):
    import torch

    for kind, write in (("dat", None), ("h5", write_arrays), ("dat.h5", write_records)):
        root = tmp_path / kind
        for part in ("train", "test"):
            (root / part).mkdir(parents=True)
            if write:
                write(root / part / f"a_td.{kind}", events_of(seed=1), SMALL)
            else:
                write_dat(root / part / "a_td.dat", events_of(seed=1), SMALL)
            boxes = torch.tensor([[5.0, 6, 20, 10, 0], [1, 2, 30, 30, 1]])
            write_boxes(root / part / "a_bbox.npy", LabelledBoxes(np.array([150_000, 250_000]), boxes))
        (root / "classes.txt").write_text("cat\ndog\n")
    batches = []
    for kind in ("dat", "h5", "dat.h5"):
        scenes = SceneSettings(cache=str(tmp_path / "cache"))
        data = load(DataSettings("event-boxes", str(tmp_path / kind), scenes=scenes), 4).train
        batches.append(data.batch(torch.arange(2)).inputs)
        assert [len(part.bad) for part in check(tmp_path / kind)] == [0, 0]
    assert batches[0].sum() > 0
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])
    write_dat(tmp_path / "h5/train/a_td.dat", events_of(seed=1), SMALL)
    with pytest.raises(DataError, match="are both called a"):
        load(DataSettings("event-boxes", str(tmp_path / "h5"), scenes=scenes), 4)
