"""Pictures as events of I2E, against an obvious version, and as a data set from the recipe to a picture file."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.data import Augmentation, Batches, DataSettings, load
from spikedistill.data.pictures.shifts import SHARE, STEPS, shifted
from spikedistill.errors import CheckpointError, InvalidArgument
from spikedistill.training.config import check_config


def by_pixel(picture):
    """Events [8, 2, H, W] of one picture [C, H, W], pixel by pixel."""
    bright = picture.amax(0).tolist()
    height, width = len(bright), len(bright[0])
    values = [value for row in bright for value in row]
    limit = SHARE * (max(values) - min(values))

    def at(row, column):
        return bright[min(max(row, 0), height - 1)][min(max(column, 0), width - 1)]

    events = torch.zeros(len(STEPS), 2, height, width)
    for step, ((r0, c0), (r1, c1)) in enumerate(STEPS):
        for row in range(height):
            for column in range(width):
                change = at(row + r1, column + c1) - at(row + r0, column + c0)
                events[step, 0, row, column] = change < -limit
                events[step, 1, row, column] = change > limit
    return events


def pictures(count=3, size=7):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.manual_seed(0))


def test_events_are_those_of_each_pixel():
    found = shifted(pictures())
    assert found.shape == (8, 3, 2, 7, 7)
    for k, picture in enumerate(pictures()):
        assert torch.equal(found[:, k], by_pixel(picture))
    assert 0.2 < found.mean() < 0.5  # neither all pixels nor none


def test_the_directions_are_eight_of_the_half_circle():
    angles = {math.degrees(math.atan2(r0 - r1, c1 - c0)) % 180 for (r0, c0), (r1, c1) in STEPS}
    assert sorted(round(angle) for angle in angles) == [0, 27, 45, 63, 90, 117, 135, 153]


def test_fewer_frames_count_the_events_of_steps_that_follow_each_other():
    every = shifted(pictures())
    for timesteps in (4, 2, 1):
        expected = every.unflatten(0, (timesteps, 8 // timesteps)).sum(1)
        assert torch.equal(shifted(pictures(), timesteps), expected)


def test_an_edge_is_seen_across_and_not_along():
    """Dark left, bright right: the step to the right sees it, the step upwards does not."""
    picture = torch.zeros(1, 1, 6, 6, dtype=torch.uint8)
    picture[..., 3:] = 200
    events = shifted(picture)
    right, up = STEPS.index(((0, 0), (0, 1))), STEPS.index(((0, 0), (-1, 0)))
    assert events[right, 0, 1].sum() == 6
    assert bool(events[right, 0, 1, :, 2].all())
    assert events[right, 0, 0].sum() == events[up].sum() == 0
    assert torch.equal(shifted(255 - picture)[:, :, 0], events[:, :, 1])  # darker and brighter change places
    assert shifted(torch.full((1, 3, 6, 6), 9, dtype=torch.uint8)).sum() == 0


def test_the_changes_of_pictures_come_before_the_events():
    data = load(DataSettings("fashion-small-i2e", train_rows=64), 4).train
    augmentation = Augmentation(crop=2, flip=True)
    batch = next(iter(Batches(data, 32, augmentation, seed=3).epoch(0)))
    plain = load(DataSettings("fashion-small", train_rows=64)).train
    changed = next(iter(Batches(plain, 32, augmentation, seed=3).epoch(0)))
    middle, spread = plain.mean[0], plain.std[0]
    as_bytes = ((changed.inputs * spread + middle) * 255).round().to(torch.uint8)
    assert torch.equal(batch.inputs, shifted(as_bytes, 4))
    assert torch.equal(batch.targets, changed.targets)
    with pytest.raises(InvalidArgument, match="augmentation.cutout has no effect on events of pictures"):
        next(iter(Batches(data, 32, Augmentation(crop=0, flip=False, cutout=4), seed=3).epoch(0)))


@pytest.mark.parametrize(("timesteps", "message"), [(3, "in 8, 4, 2 or 1 frames; given --timesteps 3"), (None, "ANN")])
def test_steps_that_cannot_be(timesteps, message):
    with pytest.raises(InvalidArgument, match=message):
        load(DataSettings("fashion-small-i2e"), timesteps)


def test_train_evaluate_and_predict(tmp_path, capsys):
    run = tmp_path / "run"
    fields = "--model.name resnet18 --model.width 2 --optimizer.epochs 1 --data.train_rows 64 --data.test_rows 32"
    common = ["--data.name", "fashion-small-i2e", "--data.validation_rows", "0", "--timesteps", "2", *fields.split()]
    main(["train", "fashion-small", "--out", str(run), *common])
    trained = sd.load(run)
    assert trained.config["input"]["kind"] == "shifts"
    picture = load(DataSettings("fashion-small")).test.images[0]
    Image.fromarray(picture[0].numpy()).save(tmp_path / "a.png")
    assert torch.equal(trained.prepared(tmp_path / "a.png")[:, 0], shifted(picture.unsqueeze(0), 2)[:, 0])
    capsys.readouterr()
    main(["predict", str(run), str(tmp_path / "a.png")])
    assert "a.png" in capsys.readouterr().out
    main(["evaluate", str(run)])
    assert "T = 2" in capsys.readouterr().out
    for entry, value in (("channels", 2), ("timesteps", 3), ("timesteps", 2.0)):
        config = {**trained.config, "input": {**trained.config["input"], entry: value}}
        with pytest.raises(CheckpointError, match=f"input.{entry}"):
            check_config(config, "config.json")
