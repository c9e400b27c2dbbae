"""Recordings of Prophesee cameras: there and back, byte by byte, and what is refused."""

import numpy as np
import pytest
from made_events import recording

from spikedistill.data import DataSettings
from spikedistill.data.events import Events
from spikedistill.data.events.dat import DatFile, read_dat, write_dat
from spikedistill.data.events.event import Sensor
from spikedistill.data.events.recordings import find_recordings
from spikedistill.errors import DataError

SMALL = Sensor(40, 60)


def events_of(count=400, seed=0, sensor=SMALL, length=300_000):
    random = np.random.default_rng(seed)
    x, y = random.integers(0, sensor.columns, count), random.integers(0, sensor.rows, count)
    t = np.sort(random.integers(0, length, count))
    return Events.of(x, y, random.integers(0, 2, count), t, "made")


def same(found, events):
    return all(np.array_equal(getattr(found, name), getattr(events, name)) for name in "xypt")


def test_a_recording_comes_back(tmp_path):
    events = events_of()
    write_dat(tmp_path / "a.dat", events, SMALL)
    file = DatFile.open(tmp_path / "a.dat")
    assert file.sensor == SMALL
    assert same(file.events(), events)
    assert same(read_dat(tmp_path / "a.dat", sensor=SMALL), events)
    chosen = (events.t >= 100_000) & (events.t < 150_000)
    assert np.array_equal(file.window(100_000, 150_000).t, events.t[chosen])
    assert len(file.window(10**7, 2 * 10**7)) == len(file.window(-50, 0)) == 0
    assert file.span == (events.t[0], events.t[-1]) == DatFile.open(tmp_path / "a.dat", "unseen").span


def test_a_recording_byte_by_byte(tmp_path):
    # column 3, row 5, polarity 1 at 7 µs, after a header of Prophesee's
    word = 3 | 5 << 14 | 1 << 28
    content = b"% Date 2014\n% Version 2\n\x0c\x08" + (7).to_bytes(4, "little") + word.to_bytes(4, "little")
    (tmp_path / "a.dat").write_bytes(content)
    found = read_dat(tmp_path / "a.dat")
    assert [found.x[0], found.y[0], found.p[0], found.t[0]] == [3, 5, 1, 7]
    assert DatFile.open(tmp_path / "a.dat").sensor is None


def test_repair_sorts_by_time(tmp_path):
    write_dat(tmp_path / "a.dat", events_of(), SMALL)
    content = (tmp_path / "a.dat").read_bytes()
    start = len(content) - 8 * len(events_of())
    records = [content[k : k + 8] for k in range(start, len(content), 8)]
    (tmp_path / "a.dat").write_bytes(content[:start] + b"".join(reversed(records)))
    with pytest.raises(DataError, match="time runs backwards"):
        read_dat(tmp_path / "a.dat", sensor=SMALL)
    assert np.array_equal(read_dat(tmp_path / "a.dat", repair=True, sensor=SMALL).t, events_of().t)


def test_times_are_mended_and_windows_are_those_of_the_mended(tmp_path):
    """An event gets at least the time of those before it, and keeps its place."""
    times = [5, 9, 7, 7, 12, 11, 20]
    (tmp_path / "a.dat").write_bytes(dat(*((1, k, t) for k, t in enumerate(times))))
    file = DatFile.open(tmp_path / "a.dat", "mended")
    mended = [5, 9, 9, 9, 12, 12, 20]
    assert file.mended
    for start in range(22):
        found = file.window(start, start + 5)
        expected = [(k, t) for k, t in enumerate(mended) if start <= t < start + 5]
        assert list(zip(found.y.tolist(), found.t.tolist(), strict=True)) == expected
    write_dat(tmp_path / "b.dat", events_of(), SMALL)
    assert not DatFile.open(tmp_path / "b.dat", "mended").mended


def dat(*events, kind=b"\x0c\x08", header=b"% Height 40\n% Width 60\n"):
    return header + kind + b"".join(t.to_bytes(4, "little") + (x | y << 14).to_bytes(4, "little") for x, y, t in events)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (dat((1, 1, 5), (1, 1, 4)), r"time runs backwards, first at event 1 \(5 to 4 µs\)"),
        (dat((1, 1, 5))[:-3], "is truncated: 5 bytes of events are no multiple of 8"),
        (dat(kind=b"\x05\x08"), r"is no DAT recording of events: after its header stands \[5, 8\]"),
        (b"% only a header\n", "the end of the file"),
        (b"%" * 70_000, "its header does not end"),
        (dat((1, 1, 5), header=b"% Height tall\n% Width 60\n"), "'60' × 'tall' pixels"),
        (dat((1, 1, 5), header=b"% Height 0\n% Width 60\n"), "60 × 0 pixels"),
        (dat((61, 1, 5)), "x runs from 61 to 61, but the sensor has 60 columns"),
    ],
)
def test_damaged_recordings_are_refused(content, words, tmp_path):
    (tmp_path / "bad.dat").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_dat(tmp_path / "bad.dat", sensor=SMALL)


def test_what_the_form_cannot_say_is_not_written(tmp_path):
    late = Events.of([1], [1], [0], [2**32], "late")
    with pytest.raises(DataError, match="do not fit into 32 bits"):
        write_dat(tmp_path / "a.dat", late, SMALL)
    with pytest.raises(DataError, match="x runs from"):
        write_dat(tmp_path / "a.dat", recording(50), SMALL)
    assert not list(tmp_path.iterdir())


def test_recordings_of_one_thing_are_read_too(tmp_path):
    """N-Cars has a class for each folder, and no boxes."""
    for name in ("background", "cars"):
        (tmp_path / name).mkdir()
        write_dat(tmp_path / name / "obj_1.dat", events_of(), SMALL)
    assert find_recordings(tmp_path).form == "dat"
    words = {"root": str(tmp_path), "name": "recordings"}
    assert len(find_recordings(tmp_path)) == 2
    assert DataSettings(**words).request(True, 2).root == str(tmp_path)
