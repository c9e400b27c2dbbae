"""Prepared frames between processes, also without locks; and folders of recordings of which something is missing."""

from __future__ import annotations

import contextlib
import pickle
import threading

import numpy as np
import pytest
import torch
from made_events import recording

from spikedistill.data import DataSettings, Framing, load
from spikedistill.data.check import check
from spikedistill.data.events import cache, write_aedat2
from spikedistill.data.events.recordings import RecordedFrames, find_recordings
from spikedistill.data.events.settings import EventSettings
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


def test_a_folder_that_may_not_be_looked_into_is_passed_over(root, tmp_path, monkeypatch, capsys):
    """As lost+found at the root of a disk; of the names of classes it would be missed."""
    closed = root / "lost+found"
    closed.mkdir()
    iterdir = type(root).iterdir

    def looking(self):
        if self == closed:
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(type(root), "iterdir", looking)
    assert load(settings(root, tmp_path), 2).train.targets.names == ("cat", "dog")
    assert f"{closed} may not be looked into" in capsys.readouterr().err


def test_a_disk_without_modes_can_be_written_to(tmp_path, monkeypatch):
    def refused(self, mode):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(type(tmp_path), "chmod", refused)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
