"""Recordings of other cameras: N-MNIST's form, its division, and sensors that are no DVS128."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from made_events import atis, n_mnist, of_digit, recording

from spikedistill.cli import main
from spikedistill.data import DataSettings, load
from spikedistill.data.check import check
from spikedistill.data.events import Events, Framing, frames_of_file, to_frames, write_aedat2
from spikedistill.data.events.atis import OVERFLOW, read_atis
from spikedistill.data.events.event import Sensor
from spikedistill.data.events.frameset import frames_of
from spikedistill.data.events.settings import EventSettings
from spikedistill.errors import DataError, InvalidArgument

NMNIST = Sensor(34, 34)
SHARED = Path(__file__).parents[2] / "shared/data/nmnist-1100.zip"


@pytest.fixture
def root(tmp_path):
    return n_mnist(tmp_path / "N-MNIST")


def same(found, events):
    return all(np.array_equal(getattr(found, name), getattr(events, name)) for name in "xypt")


# ---------------------------------------------------------------- the form


def test_five_bytes_an_event(tmp_path):
    events = of_digit(1)
    (tmp_path / "a.bin").write_bytes(atis(events))
    assert same(read_atis(tmp_path / "a.bin", NMNIST), events)
    by_hand = bytes([3, 33, 0x80 | 0x12, 0x34, 0x56])
    (tmp_path / "b.bin").write_bytes(by_hand)
    found = read_atis(tmp_path / "b.bin", NMNIST)
    assert (found.x[0], found.y[0], found.p[0], found.t[0]) == (3, 33, 1, 0x123456)


def test_a_clock_that_begins_again_and_a_counter_that_runs_over(tmp_path):
    times = np.array([2**23 - 2000, 2**23 - 10, 2**23 + 5, 2**23 + 900])
    events = Events(np.arange(4, dtype=np.int16), np.arange(4, dtype=np.int16), np.ones(4, np.int8), times)
    (tmp_path / "wraps.bin").write_bytes(atis(events))
    assert np.array_equal(read_atis(tmp_path / "wraps.bin", NMNIST).t, times)
    # one event of the round before, after the first of the new one, is disorder and no second round
    mixed = [2**23 - 2, 2**23 + 1, 2**23 - 1, 2**23 + 3]
    (tmp_path / "mixed.bin").write_bytes(atis(dataclasses.replace(events, t=np.array(mixed))))
    with pytest.raises(DataError, match=r"time runs backwards 1 times, first at event 2 \(8388609 to 8388607 µs\)"):
        read_atis(tmp_path / "mixed.bin", NMNIST)
    assert read_atis(tmp_path / "mixed.bin", NMNIST, repair=True).t.tolist() == sorted(mixed)
    over = bytes([0, 240, 0, 0, 200])  # the camera's note that its counter ran over
    rows = [bytes([1, 1, 0, 0, 100]), over, bytes([2, 2, 128, 0, 250]), over, bytes([3, 3, 0, 1, 0])]
    (tmp_path / "over.bin").write_bytes(b"".join(rows))
    found = read_atis(tmp_path / "over.bin", NMNIST)
    assert found.t.tolist() == [100, 250 + OVERFLOW, 256 + 2 * OVERFLOW]
    assert found.x.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no events"),
        (bytes(7), "truncated: 7 bytes are no multiple of 5"),
        (bytes([34, 3, 0, 0, 1]), "x runs from 34 to 34, but the sensor has 34 columns"),
        (bytes([3, 200, 0, 0, 1]), "y runs from 200 to 200, but the sensor has 34 rows"),
        (bytes([1, 1, 0, 0, 9, 1, 1, 0, 0, 2]), "time runs backwards 1 times, first at event 1"),
        (bytes([0, 240, 0, 0, 0]), "holds no events"),
    ],
)
def test_what_is_refused(content, message, tmp_path):
    (tmp_path / "bad.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_atis(tmp_path / "bad.bin", NMNIST)


def test_repair_leaves_out_what_cannot_be(tmp_path):
    rows = [bytes([1, 2, 0, 0, 9]), bytes([99, 2, 0, 0, 9]), bytes([4, 5, 128, 0, 3])]
    (tmp_path / "bad.bin").write_bytes(b"".join(rows))
    found = read_atis(tmp_path / "bad.bin", NMNIST, repair=True)
    assert (found.x.tolist(), found.t.tolist()) == ([4, 1], [3, 9])


# ---------------------------------------------------------------- the data set


def test_n_mnist_has_a_division_of_its_own(root, tmp_path):
    settings = DataSettings("n-mnist", str(root), events=EventSettings(cache=str(tmp_path / "cache")))
    splits = load(settings, 3)
    assert (len(splits.train), len(splits.test)) == (40, 20)
    assert splits.train.targets.names == tuple("0123456789")
    assert splits.division == "split folders: train/ and test/"
    batch = splits.train.batch(torch.tensor([5]))
    assert tuple(batch.inputs.shape) == (3, 1, 2, 34, 34)
    expected = to_frames(read_atis(root / "Train/1/11.bin", NMNIST), 3, sensor=NMNIST)
    assert np.array_equal(batch.inputs[:, 0].numpy(), expected)
    assert batch.targets.tolist() == [1]


def test_folds_are_over_training_and_test_recordings_together(root, tmp_path):
    tested = []
    for k in range(5):
        events = EventSettings(cache=str(tmp_path / "cache"), split=f"fold-{k + 1}-of-5")
        splits = load(DataSettings("n-mnist", str(root), events=events), 3)
        assert not set(splits.test.index.tolist()) & set(splits.train.index.tolist())
        tested += splits.test.index.tolist()
    assert sorted(tested) == list(range(60))
    for file in (root / "Test/9").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="missing or empty: 9"):
        load(DataSettings("n-mnist", str(root), events=events), 3)


@pytest.mark.parametrize("form", ["events_np", "frames_number_3_split_by_number"])
def test_other_libraries_forms(form, root, tmp_path):
    """SpikingJelly's folders, in which the parts stand below the form."""
    for part in ("train", "test"):
        for digit in range(10):
            folder = tmp_path / "sj" / form / part / str(digit)
            folder.mkdir(parents=True)
            events = of_digit(digit)
            arrays = {name: getattr(events, name) for name in "xypt"}
            if form != "events_np":
                arrays = {"frames": to_frames(events, 3, sensor=NMNIST)}
            np.savez(folder / f"{digit}.npz", **arrays)
    events = EventSettings(cache=str(tmp_path / "cache"))
    splits = load(DataSettings("n-mnist", str(tmp_path / "sj"), events=events), 3)
    assert np.array_equal(
        splits.test.batch(torch.tensor([4])).inputs[:, 0].numpy(), to_frames(of_digit(4), 3, sensor=NMNIST)
    )


def test_a_run_evaluation_and_prediction(root, tmp_path, capsys):
    words = ["train", "n-mnist-small", "--data.root", str(root), "--data.events.cache", str(tmp_path / "c")]
    words += ["--model.width", "2", "--optimizer.epochs", "1", "--timesteps", "2", "--optimizer.batch_size", "8"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    evaluate = ["evaluate", str(tmp_path / "run"), "--data.root", str(root), "--data.events.cache", str(tmp_path / "c")]
    assert main(evaluate) == 0
    assert main(["predict", str(tmp_path / "run"), str(root / "Test/3/30.bin")]) == 0
    (tmp_path / "large.bin").write_bytes(bytes([50, 3, 0, 0, 1]))
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "large.bin")]) == 1
    assert "the sensor has 34 columns" in capsys.readouterr().err


def test_what_cannot_be_used_is_named(root, tmp_path):
    def read(folder, **events):
        cache = EventSettings(cache=str(tmp_path / "cache"), **events)
        return load(DataSettings("n-mnist", str(folder), events=cache), 3)

    whole = (root / "Train/7/70.bin").read_bytes()
    (root / "Train/7/70.bin").write_bytes(bytes([40, 3, 0, 0, 1]))
    with pytest.raises(DataError, match=r"1 of 40 recordings cannot be used:\n.*70.bin: x runs from 40 to 40"):
        read(root)
    (root / "Train/7/70.bin").write_bytes(whole)
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped/Train.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"holds archives \(Train.zip\).*unpack them"):
        read(tmp_path / "zipped")
    for file in (root / "Test/9").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="missing or empty: 9"):
        read(root)


def test_check_knows_the_sensor(root):
    (root / "Train/7/70.bin").write_bytes(bytes([40, 3, 0, 0, 1]))
    parts = {Path(part.name).name: part for part in check(root)}
    assert parts["Train"].counts["7"] == 4
    assert "the sensor has 34 columns" in parts["Train"].bad[0]
    assert not parts["Test"].bad


# ---------------------------------------------------------------- any camera


def test_a_sensor_with_more_columns_than_rows(tmp_path):
    sensor = Sensor(18, 24)
    random = np.random.default_rng(0)
    x, y = random.integers(0, 24, 500), random.integers(0, 18, 500)
    events = Events.of(x, y, random.integers(0, 2, 500) * 2 - 1, np.arange(500), "mine")  # polarities −1 and 1
    frames = to_frames(events, 4, sensor=sensor)
    assert frames.shape == (4, 2, 18, 24)
    assert frames.sum() == 500
    assert frames[0, events.p[0], y[0], x[0]] >= 1
    samples = frames_of([(events, 0)], ("a",), Framing(4, size=16, sensor=(18, 24)))
    assert tuple(samples.batch(torch.tensor([0])).inputs.shape) == (4, 1, 2, 16, 16)
    with pytest.raises(DataError, match="y runs from .*the sensor has 16 rows"):
        to_frames(events, 4, sensor=Sensor(16, 24))


def test_recordings_of_ones_own_camera(tmp_path):
    for name in ("left", "right"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for k in range(10):
            events = recording(100, k, sensor=200)
            np.savez(tmp_path / "mine" / name / f"{k}.npz", **{field: getattr(events, field) for field in "xypt"})

    def read(**more):
        events = EventSettings(cache=str(tmp_path / "cache"), size=20, **more)
        return load(DataSettings("recordings", str(tmp_path / "mine"), events=events), 2)

    splits = read(sensor=[200, 240])
    assert (len(splits.train), len(splits.test)) == (18, 2)
    assert splits.train.targets.names == ("left", "right")
    assert splits.train.description()["framing"]["sensor"] == [200, 240]
    with pytest.raises(DataError, match="the sensor has 128 columns"):
        read()
    with pytest.raises(InvalidArgument, match=r"data.events.sensor is \[200\]; expected rows and columns"):
        read(sensor=[200])


@pytest.mark.skipif(not SHARED.exists(), reason="no real recordings here")
def test_real_recordings(tmp_path):
    with zipfile.ZipFile(SHARED) as archive:
        for name in archive.namelist():
            if name.startswith("Test/") or name.endswith("1.bin"):
                archive.extract(name, tmp_path / "N-MNIST")
    settings = DataSettings("n-mnist", str(tmp_path / "N-MNIST"), events=EventSettings(cache=str(tmp_path / "cache")))
    splits = load(settings, 10)
    assert len(splits.test) == 100
    frames = splits.test.batch(torch.arange(100)).inputs
    counts = frames.sum((0, 2, 3, 4))
    assert counts.min() >= 1000
    assert counts.max() <= 7200
    # a digit stands in the middle, and both polarities are there
    assert frames[..., 8:26, 8:26].sum() > 0.6 * frames.sum()
    assert 0.3 < frames[:, :, 1].sum() / frames.sum() < 0.7


def test_check_looks_where_loading_looks(tmp_path):
    for part in ("train", "test"):
        folder = tmp_path / "events_np" / part / "0"
        folder.mkdir(parents=True)
        events = recording(50, 0, sensor=200)
        np.savez(folder / "0.npz", **{field: getattr(events, field) for field in "xypt"})
    parts = check(tmp_path)
    assert [part.counts for part in parts] == [{"0": 1}, {"0": 1}]
    assert not any(part.bad for part in parts)  # of which camera they are cannot be seen


def test_forms_that_cannot_say_a_sensor(root, tmp_path):
    cache = str(tmp_path / "cache")
    with pytest.raises(DataError, match=r"rows up to 239; the sensor of these settings is \(260, 346\)"):
        load(DataSettings("n-mnist", str(root), events=EventSettings(cache=cache, sensor=[260, 346])), 2)
    write_aedat2(tmp_path / "a.aedat", recording(20))
    with pytest.raises(DataError, match=r"a.aedat is AEDAT 2.0, of a DVS128; .* is \(34, 34\)"):
        frames_of_file(tmp_path / "a.aedat", Framing(2, sensor=NMNIST))


@pytest.mark.parametrize("sensor", [[180.5, 240], [True, 240], ["180", "240"], [10**6, 10**6], [0, 3]])
def test_what_is_no_sensor(sensor):
    with pytest.raises(InvalidArgument, match="expected rows and columns from 1 to"):
        EventSettings(sensor=sensor)
