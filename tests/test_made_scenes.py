"""Scenes that are made of recordings and pictures, and the whole way from a folder of them to drawn predictions."""

import time

import numpy as np
import pytest
import torch
from made_events import n_mnist
from test_scenes import settings

from spikedistill.cli import main
from spikedistill.data import DataSettings, load
from spikedistill.data.events.dat import DatFile
from spikedistill.data.events.event import Sensor
from spikedistill.data.scenes import things as things_room
from spikedistill.data.scenes.box_files import read_boxes
from spikedistill.data.scenes.make import EDGE, PERIOD, Scenery, make_scenes
from spikedistill.data.scenes.settings import SceneSettings
from spikedistill.data.scenes.things import Digits, Shown
from spikedistill.errors import DataError, InvalidArgument


def digits(root):
    return {part: Digits(root, part) for part in ("train", "test")}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    n_mnist(folder / "N-MNIST")
    make_scenes(digits(folder / "N-MNIST"), folder / "scenes", {"train": 24, "test": 8}, 0)
    return folder


def test_scenes_do_not_depend_on_how_many_there_are(scenes, tmp_path):
    few = {"train": 2, "test": 1}
    things = digits(scenes / "N-MNIST")
    make_scenes(things, tmp_path / "a", few, 0)
    for name in ("train/scene_00001_td.dat", "train/scene_00001_bbox.npy", "test/scene_00000_td.dat"):
        assert (tmp_path / "a" / name).read_bytes() == (scenes / "scenes" / name).read_bytes()
    make_scenes(things, tmp_path / "b", few, 1)
    name = "train/scene_00001_td.dat"
    assert (tmp_path / "b" / name).read_bytes() != (scenes / "scenes" / name).read_bytes()
    with pytest.raises(DataError, match="is not overwritten"):
        make_scenes(things, tmp_path / "b", few, 1)
    with pytest.raises(InvalidArgument, match="a scene needs a sensor of at least 34 × 34 pixels"):
        make_scenes(things, tmp_path / "c", few, 1, Scenery(sensor=Sensor(20, 40)))
    with pytest.raises(InvalidArgument, match="a thing and some time"):
        Scenery(most=0)


def test_boxes_of_scenes_are_around_their_digits(tmp_path):
    """Without noise and motion nearly all late events lie in a box."""
    n_mnist(tmp_path / "N")
    make_scenes(digits(tmp_path / "N"), tmp_path / "s", {"train": 6}, 3, Scenery(speed=0.0, noise=0.0))
    for path in sorted((tmp_path / "s/train").glob("*_td.dat")):
        events = DatFile.open(path).events()
        boxes = read_boxes(path.with_name(path.name.replace("_td.dat", "_bbox.npy"))).boxes
        late = events.t >= 50_000
        inside = np.zeros(int(late.sum()), bool)
        for x, y, w, h, _ in boxes.tolist():
            across, down = events.x[late] + 0.5, events.y[late] + 0.5
            inside |= (across > x - 1) & (across < x + w + 1) & (down > y - 1) & (down < y + h + 1)
        assert inside.mean() > 0.9
        assert 1 <= len(boxes) <= 4


def test_the_box_of_a_scene_is_as_large_as_its_digit(tmp_path):
    """Of one digit that does not move: from the first to the last of its pixels, but for the few at the edges."""
    n_mnist(tmp_path / "N")
    make_scenes(digits(tmp_path / "N"), tmp_path / "s", {"train": 8}, 3, Scenery(most=1, speed=0.0, noise=0.0))
    for path in sorted((tmp_path / "s/train").glob("*_td.dat")):
        events = DatFile.open(path).events()
        (x, y, w, h, _) = read_boxes(path.with_name(path.name.replace("_td.dat", "_bbox.npy"))).boxes[0].tolist()
        late = events.t >= Scenery().length - PERIOD
        for values, start, size in ((events.x, x, w), (events.y, y, h)):
            low, high = np.quantile(values[late], [EDGE, 1 - EDGE])
            assert abs(start - low) <= 0.51
            assert abs(size - (high - low + 1)) <= 0.1


def test_pictures_are_things_that_a_camera_records():
    """Where the picture is as dark as what is around it, nothing is seen, and the order of asking changes nothing."""
    pictures = load(DataSettings("fashion-small", train_rows=40)).train
    shown = Shown(pictures, "fashion-small", 5)
    assert (shown.sensor, len(shown), shown.classes) == (Sensor(36, 36), 40, pictures.targets.names)
    again = Shown(pictures, "fashion-small", 5)
    last, label = again[34]
    assert label == int(pictures.targets.numbers[34])
    for k in (3, 34):
        events = shown[k][0].checked("a picture", shown.sensor)
        ink = pictures.images[k, 0] > 20
        rows, columns = ink.any(1).nonzero()[:, 0] + 4, ink.any(0).nonzero()[:, 0] + 4
        assert int(rows[0]) - 5 <= events.y.min() <= events.y.max() <= int(rows[-1]) + 5
        assert int(columns[0]) - 5 <= events.x.min() <= events.x.max() <= int(columns[-1]) + 5
        assert len(events) > 1000
    assert np.array_equal(events.t, last.t)
    assert np.array_equal(events.x, last.x)


def test_no_more_pictures_are_recorded_than_are_kept(monkeypatch):
    monkeypatch.setattr(things_room, "MOST", 5)
    shown = Shown(load(DataSettings("fashion-small", train_rows=40)).train, "fashion-small", 0)
    assert len(shown) == 5
    assert len(shown[4][0]) > 1000
    with pytest.raises(IndexError):
        shown[5]


def test_scenes_of_pictures_need_no_folder(tmp_path, capsys):
    out = tmp_path / "scenes"
    main(["data", "make-scenes", "--source", "fashion-small", "--out", str(out), "--train", "3", "--test", "2"])
    assert "3 training and 2 test scenes" in capsys.readouterr().out
    assert "pictures of fashion-small that a simulated camera recorded" in (out / "README.txt").read_text()
    settings = DataSettings("event-boxes", str(out), scenes=SceneSettings(cache=str(tmp_path / "cache")))
    splits = load(settings, 4)
    assert (len(splits.train), len(splits.test)) == (3, 2)
    assert splits.train.targets.description()["classes"][0] == "T-shirt"
    for words, message in (
        (["--source", "cifar10"], "cifar10"),
        ([], "where is n-mnist? Give its folder: --root FOLDER"),
        (["--source", "fashion-mnist"], "where is fashion-mnist? Give its folder: --root FOLDER"),
    ):
        assert main(["data", "make-scenes", "--out", str(tmp_path / "b"), *words]) != 0
        assert message in capsys.readouterr().err


def test_thirty_windows_a_second_and_more(scenes, tmp_path):
    start = time.perf_counter()
    train = load(settings(scenes / "scenes", tmp_path), 5).train
    for k in range(0, len(train), 8):
        train.batch(torch.arange(k, min(k + 8, len(train))))
    assert len(train) / (time.perf_counter() - start) > 30


def test_from_a_folder_to_a_detector_and_drawn_predictions(scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root, run = str(scenes / "scenes"), str(tmp_path / "run")
    assert main(["data", "check", root]) == 0
    assert "recordings with boxes, 24 files, boxes by class" in capsys.readouterr().out
    assert main(["data", "show", "event-boxes", "--data.root", root, "--out", str(tmp_path / "seen.png")]) == 0
    words = ["--model.width", "2", "--optimizer.epochs", "1", "--timesteps", "3", "--task.sure", "0.05"]
    words += ["--optimizer.warmup_epochs", "0"]
    assert main(["train", "event-boxes", "--data.root", root, *words, "--out", run]) == 0
    assert "test map on 8 samples" in capsys.readouterr().out
    assert main(["evaluate", run, "--timesteps", "1", "3", "--data.root", root]) == 0
    said = capsys.readouterr().out
    assert "T = 1" in said
    assert "by class (overlap 0.5, confidence 0.05)" in said
    file = str(scenes / "scenes/test/scene_00000_td.dat")
    assert main(["predict", run, file, "--out", str(tmp_path / "drawn")]) == 0
    assert "scene_00000_td.dat: " in capsys.readouterr().out
    assert (tmp_path / "drawn/scene_00000_td.png").stat().st_size > 1000
    assert main(["predict", run, file, "--out", str(tmp_path / "drawn")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["predict", run, file, file, "--out", str(tmp_path / "new")]) == 1
    assert "several files are called scene_00000_td" in capsys.readouterr().err
    assert main(["predict", run, file, "--out", file]) == 1
    assert "is a file; name a folder" in capsys.readouterr().err
    (tmp_path / "bad_td.dat").write_bytes(b"% nothing\n")
    assert main(["predict", run, str(tmp_path / "bad_td.dat")]) == 1


def test_a_detector_learns_from_the_twin_that_sees_the_mean_of_the_frames(scenes, tmp_path):
    words = [
        "--data.root",
        str(scenes / "scenes"),
        "--data.scenes.cache",
        str(tmp_path / "cache"),
        "--model.width",
        "2",
    ]
    words += ["--optimizer.epochs", "1", "--optimizer.warmup_epochs", "0"]
    twin, taught = str(tmp_path / "ann"), tmp_path / "taught"
    no_time = ["--rule", "ann", "--phases.rate_twin", "0", "--data.scenes.frames", "5"]
    assert main(["train", "event-boxes", *no_time, *words, "--out", twin]) == 0
    teacher = ["--objectives.heatmap_distillation.teacher", twin]
    assert main(["train", "event-boxes", *teacher, *words, "--out", str(taught)]) == 0
    assert "heatmap_distillation" in (taught / "metrics.csv").read_text().splitlines()[0]
