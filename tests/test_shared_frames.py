"""Prepared frames between processes, also without locks; and folders of recordings of which something is missing."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from made_events import recording
from PIL import ExifTags, Image

from spikedistill.data import DataSettings, Framing, load, samples_of
from spikedistill.data.check import check
from spikedistill.data.events import cache, write_aedat2
from spikedistill.data.events.recordings import RecordedFrames, find_recordings
from spikedistill.data.events.settings import EventSettings
from spikedistill.data.pictures.boxed import Annotated, check_annotated
from spikedistill.data.pictures.decode import decode
from spikedistill.data.pictures.folder import _files_below
from spikedistill.errors import DataError
from spikedistill.machine.files import write_text


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "animals"
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for k in range(10):
            write_aedat2(folder / name / f"{k}.aedat", recording(60, 10 * label + k))
    return folder


def settings(root, tmp_path):
    return DataSettings("recordings", str(root), events=EventSettings(size=16, cache=str(tmp_path / "c")))


def test_without_locks_two_that_prepare_the_same_frames_both_get_all_of_them(root, tmp_path, monkeypatch):
    """As on Windows, or on a network disk that has no locks."""
    monkeypatch.setattr(cache, "locked", lambda path, wait: contextlib.nullcontext(False))
    both, framing, found = threading.Barrier(2, timeout=30), Framing(2, "number", 16), {}

    class Together(RecordedFrames):
        def make(self, k):
            if k in (0, 19):  # both are in the middle of it
                both.wait()
            return super().make(k)

    def prepare(number):
        found[number] = np.array(cache.prepared(Together(find_recordings(root), framing), tmp_path / "c"))

    threads = [threading.Thread(target=prepare, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = cache.prepared(RecordedFrames(find_recordings(root), framing), tmp_path / "alone")
    assert all(np.array_equal(found[number], alone) for number in range(2))
    assert [path for path in (tmp_path / "c").iterdir() if path.name.startswith(".")] == []


def test_a_worker_is_sent_the_place_of_the_frames_and_not_the_frames(root, tmp_path):
    samples = load(settings(root, tmp_path), 40).train
    sent = pickle.dumps(samples)
    assert len(sent) < samples.frames.nbytes / 4
    back = pickle.loads(sent)
    index = torch.arange(len(samples))
    assert torch.equal(back.batch(index).inputs, samples.batch(index).inputs)
    part = np.array(samples.frames)  # in memory there is no other way
    assert pickle.loads(pickle.dumps(type(samples)(part, *list(vars(samples).values())[1:]))).frames.sum() == part.sum()


def test_a_class_whose_files_did_not_come_is_named(root, tmp_path):
    (root / "owl").mkdir()
    for beside in ("lost+found", ".hidden", "frames_number_4_split_by_number"):
        (root / beside).mkdir()
    with pytest.raises(DataError, match=r"without a recording of the form aedat2: owl. Copy what is missing, or move"):
        load(settings(root, tmp_path), 2)
    assert "folders without a recording of this form: owl" in [problem for part in check(root) for problem in part.bad]
    (root / "owl").rmdir()
    assert load(settings(root, tmp_path), 2).train.targets.names == ("cat", "dog")


@pytest.mark.parametrize("name", ["lost+found", "owl"])
def test_a_folder_that_may_not_be_looked_into_is_named_unless_it_is_of_the_disk(name, root, tmp_path, monkeypatch):
    closed = root / name
    closed.mkdir()
    iterdir = type(root).iterdir

    def looking(self):
        if self == closed:
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(type(root), "iterdir", looking)
    if name == "lost+found":
        assert load(settings(root, tmp_path), 2).train.targets.names == ("cat", "dog")
    else:
        with pytest.raises(DataError, match="owl may not be looked into; change its permissions, or move it away"):
            load(settings(root, tmp_path), 2)


def test_a_folder_of_pictures_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "a/inner").mkdir(parents=True)
    scandir = os.scandir

    def listing(path):
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listing)
    with pytest.raises(DataError, match="inner cannot be read: Permission denied"):
        _files_below(tmp_path, "a")


def test_a_picture_of_a_turned_camera_is_turned_back_as_that_of_a_file(tmp_path):
    picture, turned = Image.new("L", (20, 10)), Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "a.jpg", exif=turned)
    with Image.open(tmp_path / "a.jpg") as opened:
        samples = samples_of([(opened, 0)], ("a",))
    assert samples.images.shape[1:] == decode(tmp_path / "a.jpg", 1).shape == (1, 20, 10)


def test_a_box_that_cannot_be_is_found_by_data_check(tmp_path):
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    check_annotated(Annotated(tmp_path / "a.png", ((2, 1, 15, 8, "cat"),)))
    with pytest.raises(DataError, match="a.png: box 0 .* is not inside"):
        check_annotated(Annotated(tmp_path / "a.png", ((-50, 1, 20, 8, "cat"),)))


def test_a_disk_without_modes_can_be_written_to(tmp_path, monkeypatch):
    def refused(self, mode):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(type(tmp_path), "chmod", refused)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


PREPARE = """
import sys, time
from spikedistill.data.events import Framing, cache, recordings
slow = recordings.Recordings.frames
def frames(self, k, framing, repair=False, left_out=None):
    time.sleep(0.05)
    return slow(self, k, framing, repair)
recordings.Recordings.frames = frames
found = recordings.find_recordings(sys.argv[1])
print("begin", flush=True)
print(cache.prepared(recordings.RecordedFrames(found, Framing(4, "number", 16)), sys.argv[2]).shape, flush=True)
"""


@pytest.mark.whole
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
    assert [p.communicate()[0].splitlines()[-1] for p in both] == ["(20, 4, 2, 16, 16)"] * 2
    assert list((tmp_path / "c").glob(".*.making")) == []
    found = find_recordings(root)
    frames = cache.prepared(RecordedFrames(found, Framing(4, "number", 16)), tmp_path / "c")
    assert np.array_equal(frames[19], found.frames(19, Framing(4, "number", 16)))
