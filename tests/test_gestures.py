"""AEDAT 3.1, and DVS128 Gesture as it was published: cut into gestures, and read by its name."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest
import torch
from made_events import aedat3, recording

from spikedistill.cli import main
from spikedistill.data import DataSettings, load
from spikedistill.data.check import check
from spikedistill.data.events import Events, to_frames
from spikedistill.data.events.aedat3 import read_aedat3
from spikedistill.data.events.event import Sensor
from spikedistill.data.events.gestures import cut_gestures, read_gestures
from spikedistill.data.events.recordings import find_recordings, frames_of_file
from spikedistill.data.events.settings import EventSettings
from spikedistill.errors import DataError

HEADER = b"#!AER-DAT3.1\r\n#!END-HEADER\r\n"


def same(found, events):
    return all(np.array_equal(getattr(found, name), getattr(events, name)) for name in "xypt")


def later(events, by):
    return dataclasses.replace(events, t=events.t + by)


# ---------------------------------------------------------------- the form


def test_packets_are_read_and_others_passed_over(tmp_path):
    (tmp_path / "a.aedat").write_bytes(aedat3(recording()))
    assert same(read_aedat3(tmp_path / "a.aedat"), recording())


def test_an_event_by_hand(tmp_path):
    """Column 5, row 9, brighter, at 1000 µs after the clock ran over twice; an invalid one is left out."""
    rows = struct.pack("<IiIi", 5 << 17 | 9 << 2 | 2 | 1, 1000, 6 << 17 | 9 << 2, 1001)
    (tmp_path / "a.aedat").write_bytes(HEADER + struct.pack("<hhiiiiii", 1, 0, 8, 4, 2, 2, 2, 1) + rows)
    found = read_aedat3(tmp_path / "a.aedat")
    assert [int(getattr(found, name)[0]) for name in "xypt"] == [5, 9, 1, 1000 + 2 * 2**31]
    assert len(found) == 1


def test_wider_sensors(tmp_path):
    events = recording(sensor=200)
    (tmp_path / "a.aedat").write_bytes(aedat3(events))
    assert same(read_aedat3(tmp_path / "a.aedat", sensor=Sensor(200, 200)), events)
    with pytest.raises(DataError, match="but the sensor has 128 columns"):
        read_aedat3(tmp_path / "a.aedat")
    assert read_aedat3(tmp_path / "a.aedat", repair=True).x.max() < 128


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an AEDAT 3.1 file: it begins with 'nothing'"),
        (b"#!AER-DAT2.0\r\n", "begins with '#!AER-DAT2.0'"),
        (b"#!AER-DAT3.1\r\n#Format: RAW\r\n", "has no line #!END-HEADER"),
        (HEADER, "holds no events"),
        (HEADER + struct.pack("<hhiiiiii", 1, 0, 8, 4, 0, 2, 2, 2) + bytes(8), "the file ends 8 bytes before that"),
        (HEADER + bytes(5), "at byte 28 it announces 0 events of 0 bytes"),
        (HEADER + struct.pack("<hhiiiiii", 1, 0, 12, 4, 0, 1, 1, 1) + bytes(12), "polarity events of 12 bytes"),
        (HEADER + struct.pack("<hhiiiiii", 2, 0, 8, 4, 0, 1, -1, 1), "announces -1 events of 8 bytes"),
        (HEADER + struct.pack("<hhiiiiii", 1, 0, 8, 4, -1, 1, 1, 1) + bytes(8), "-1 times around the clock"),
    ],
)
def test_what_is_refused(content, message, tmp_path):
    (tmp_path / "bad.aedat").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_aedat3(tmp_path / "bad.aedat")


def test_repair_keeps_what_comes_before_the_damage(tmp_path, capsys):
    whole = aedat3(recording(100), packet=40)
    (tmp_path / "cut.aedat").write_bytes(whole[:-30])
    with pytest.raises(DataError, match="the file ends 30 bytes before that"):
        read_aedat3(tmp_path / "cut.aedat")
    found = read_aedat3(tmp_path / "cut.aedat", repair=True)
    assert "what follows is left out" in capsys.readouterr().err
    assert np.array_equal(found.t, recording(100).t[:80])


def test_recordings_of_this_form_are_found_like_others(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "r_0.aedat").write_bytes(aedat3(recording()))
    found = find_recordings(tmp_path)
    assert found.form == "aedat3"
    settings = EventSettings(size=128, sensor=[128, 128])
    frames = frames_of_file(tmp_path / "a" / "r_0.aedat", settings.framing(4))
    assert np.array_equal(frames, to_frames(recording(), 4))


# ---------------------------------------------------------------- gestures


@pytest.fixture
def published(tmp_path):
    """As published: two recordings train and one tests, each with all classes, one after the other."""
    root = tmp_path / "DvsGesture"
    root.mkdir()
    for name in ("user01_led", "user02_led", "user03_lab"):
        seed = int(name[4:6])
        parts = [later(recording(50, seed * 20 + k), 2_000_000 * (k + 1)) for k in range(11)]
        together = Events(*(np.concatenate([getattr(part, field) for part in parts]) for field in "xypt"))
        (root / f"{name}.aedat").write_bytes(aedat3(together))
        lines = [f"{k + 1},{2_000_000 * (k + 1)},{2_000_000 * (k + 1) + 1_000_001}" for k in range(11)]
        (root / f"{name}_labels.csv").write_text("\n".join(["class,startTime_usec,endTime_usec", *lines, ""]))
    (root / "trials_to_train.txt").write_text("user01_led.aedat\nuser02_led.aedat\n")
    (root / "trials_to_test.txt").write_text("user03_lab.aedat\n\n")
    return root


def test_gestures_are_cut_and_read_by_their_name(published, tmp_path, capsys):
    out = tmp_path / "gestures"
    main(["data", "cut-gestures", "--root", str(published), "--out", str(out)])
    assert "22 training and 11 test gestures" in capsys.readouterr().out
    settings = DataSettings("dvs128-gesture", str(out), events=EventSettings(cache=str(tmp_path / "cache")))
    splits = load(settings, 3)
    assert (len(splits.train), len(splits.test)) == (22, 11)
    assert splits.test.targets.names == tuple(map(str, range(11)))
    batch = splits.test.batch(torch.tensor([7]))
    assert np.array_equal(batch.inputs[:, 0].numpy(), to_frames(recording(50, 67), 3))
    assert batch.targets.tolist() == [7]
    with pytest.raises(DataError, match="exists already"):
        cut_gestures(published, out)


def test_the_published_folder_says_what_to_do(published):
    with pytest.raises(DataError, match="data cut-gestures --root"):
        load(DataSettings("dvs128-gesture", str(published)), 3)
    with pytest.raises(DataError, match="data cut-gestures --root"):
        check(published)


def test_the_command_says_how_it_repairs(published, tmp_path, capsys):
    whole = (published / "user02_led.aedat").read_bytes()
    (published / "user02_led.aedat").write_bytes(whole[:-4])
    words = ["data", "cut-gestures", "--root", str(published), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "sort by time: --repair" in capsys.readouterr().err
    assert main([*words, "--repair"]) == 0


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("trials_to_test.txt", "../other.aedat\n", "recordings of its own folder, one in a line; given ../other.aedat"),
        ("trials_to_test.txt", "\n", "given none"),
        ("trials_to_test.txt", "user01_led.aedat\n", "user01_led.aedat stands in the lists more than once"),
        ("user02_led_labels.csv", "class,startTime_usec,endTime_usec\n" + "9" * 200_000, "line 2: 999"),
        ("trials_to_test.txt", "user09_lab.aedat\n", "user09_lab.aedat is missing; copy or unpack"),
        (
            "user02_led_labels.csv",
            "a,b\n1,2\n",
            "should begin with class,startTime_usec,.*; it begins with a,b",
        ),
        ("user02_led_labels.csv", "", "it begins with nothing"),
        ("user02_led_labels.csv", "class,startTime_usec,endTime_usec\n12,0,5\n", "line 2: 12,0,5; expected a class"),
        ("user02_led_labels.csv", "class,startTime_usec,endTime_usec\n1,7,7\n", "a start and a later end"),
        ("user02_led_labels.csv", "class,startTime_usec,endTime_usec\n1,0\n", "line 2: 1,0"),
        ("user02_led_labels.csv", "class,startTime_usec,endTime_usec\n1,0,9\n", "has no events from 0 to 9 µs"),
    ],
)
def test_what_is_wrong_with_a_published_folder(file, text, message, published, tmp_path):
    (published / file).write_text(text)
    with pytest.raises(DataError, match=message):
        cut_gestures(published, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_list_that_is_not_there(published, tmp_path):
    (published / "trials_to_test.txt").unlink()
    with pytest.raises(DataError, match="as it was published: trials_to_train.txt"):
        cut_gestures(published, tmp_path / "out")
    assert read_gestures(published / "user01_led.aedat")[3].label == 3
