"""Folders that are whole or not there."""

from __future__ import annotations

import pytest

from spikedistill.errors import DataError, WriteError
from spikedistill.machine.files import whole_folder


def test_a_link_to_an_empty_folder_gets_what_was_made(tmp_path):
    (tmp_path / "large_disk" / "empty").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "large_disk" / "empty")
    with whole_folder(link) as unfinished:
        assert unfinished.parent == tmp_path / "large_disk"  # no copy between disks at the end
        (unfinished / "file").write_text("hours of work")
    assert (link / "file").read_text() == "hours of work"
    assert [path.name for path in (tmp_path / "large_disk").iterdir()] == ["empty"]


def test_the_current_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is the current folder; name a new one"), whole_folder(tmp_path / "."):
        pass


def test_what_cannot_be_replaced_is_refused_before_the_work(tmp_path, monkeypatch):
    """As a place where a disk is mounted."""

    def busy(self):
        raise OSError("Device or resource busy")

    (tmp_path / "out").mkdir()
    monkeypatch.setattr("pathlib.Path.rmdir", busy)
    with pytest.raises(WriteError, match="cannot be replaced .Device or resource busy.; name a folder that"):  # noqa: SIM117
        with whole_folder(tmp_path / "out"):
            pytest.fail("the work began")


def test_two_that_make_one_folder_do_not_destroy_each_other(tmp_path):
    with whole_folder(tmp_path / "out") as unfinished:
        (unfinished / "file").write_text("hours of work")
        with pytest.raises(DataError, match="out is being made by process .*; wait for it"):  # noqa: SIM117
            with whole_folder(tmp_path / "out"):
                pytest.fail("the work began")
    assert (tmp_path / "out" / "file").read_text() == "hours of work"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
