"""Pictures with boxes: of one's own, and of COCO's and VOC's annotations."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_detection import COLUMNS, ROWS, random_boxes

import spikedistill as sd
from spikedistill.data import DataSettings, load
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.batches import generator_for
from spikedistill.data.events.frameset import FrameSet
from spikedistill.data.pictures.prepare import prepared_picture
from spikedistill.errors import DataError, InvalidArgument
from spikedistill.report.grid import grid, marked_picture
from spikedistill.tasks import Mark


def test_pictures_with_boxes_train_too(tmp_path):
    """Boxes are no matter of events: any samples with these targets."""
    boxes = random_boxes(24, most=2)
    images = torch.randint(256, (24, 1, ROWS, COLUMNS), dtype=torch.uint8)
    samples = sd.ImageSet(images, boxes, (0.1,), (0.3,))
    splits = sd.Splits(samples, None, samples.rows(slice(8)))
    words = ["--task", "detection", "--model", "spiking_centernet", "--model.width", "2", "--optimizer.epochs", "1"]
    words += ["--optimizer.batch_size", "8", "--objectives.self_distillation", "null", "--branches.enabled", "false"]
    words += ["--objectives.center_points", "{}", "--timesteps", "2"]
    found = sd.train(sd.load_recipe("fashion-small", words), tmp_path / "run", data=splits)
    assert 2 in found.score
    assert found.score_name == "map"
    with pytest.raises(InvalidArgument, match="autoaugment has no effect on pictures with boxes"):
        sd.train(
            sd.load_recipe("fashion-small", [*words, "--data.augmentation.autoaugment", "true"]),
            tmp_path / "other",
            data=splits,
        )


def test_boxes_move_with_the_pictures_of_a_batch():
    """A picture with the pixels of its box alone: after any change they are in the box."""
    boxes = random_boxes(12, most=1, seed=3)
    boxes = sd.Boxes(boxes.boxes.round(), boxes.names, boxes.size)
    images = torch.zeros(12, 1, ROWS, COLUMNS, dtype=torch.uint8)
    for image, (x, y, w, h, c) in zip(images, boxes.boxes[:, 0].int().tolist(), strict=True):
        if c >= 0:
            image[0, y : y + h, x : x + w] = 255
    samples, order, seen = sd.ImageSet(images, boxes, (0.0,), (1.0,)), torch.arange(12), 0
    raw = samples.read_changed(order, order, Augmentation(crop=8, flip=True), generator_for(0))
    for image, (x, y, w, h, c) in zip(raw.parts[0], raw.targets[:, 0].tolist(), strict=True):
        if c >= 0:
            rows, columns = image[0].nonzero().T
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [x, y, x + w, y + h]
            seen += 1
    assert seen > 3


def test_changes_that_places_cannot_follow_are_refused_and_those_of_labels_are_not():
    order = torch.arange(4)
    images = torch.randint(256, (4, 3, ROWS, COLUMNS), dtype=torch.uint8)
    boxes, labels = random_boxes(4), sd.Labels(torch.zeros(4, dtype=torch.long), ("a",))
    change = Augmentation(autoaugment=True)
    sd.ImageSet(images, labels, (0.0,), (1.0,)).read_changed(order, order, change, generator_for(0))
    with pytest.raises(InvalidArgument, match="autoaugment has no effect on pictures with boxes"):
        sd.ImageSet(images, boxes, (0.0,), (1.0,)).read_changed(order, order, change, generator_for(0))
    framing = sd.Framing(2, size=8, sensor=(8, 8))
    frames = np.zeros((4, 2, 2, 8, 8), np.float16)
    places = FrameSet(frames, order, boxes, framing)
    with pytest.raises(InvalidArgument, match="flip has no effect on event frames"):
        places.read_changed(order, order, Augmentation(crop=0, flip=True), generator_for(0))
    places.read_changed(order, order, Augmentation(crop=0, flip=False), generator_for(0))


# ---------------------------------------------------------------- pictures in a folder


@pytest.fixture
def pictures(tmp_path):
    """Grey pictures of 80×60 with one bright box each; train by COCO's file, val by VOC's."""
    root = tmp_path / "pictures"
    table = {"categories": [{"id": 7, "name": "dark"}, {"id": 9, "name": "bright"}], "images": [], "annotations": []}
    for part in ("train", "val"):
        (root / part).mkdir(parents=True)
        for k in range(4):
            x, y, w, h = 8 * k, 4 * k, 20, 12
            picture = np.zeros((60, 80, 3), np.uint8)
            picture[y : y + h, x : x + w] = 255
            Image.fromarray(picture).save(root / part / f"{k}.png")
            table["images"].append({"id": k, "file_name": f"{k}.png"})
            table["annotations"].append({"image_id": k, "bbox": [x, y, w, h], "category_id": 9 if k else 7})
            corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
            inner = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
            name = "bright" if k else "dark"
            xml = f"<annotation><object><name>{name}</name><bndbox>{inner}</bndbox></object></annotation>"
            if part == "val":
                (root / part / f"{k}.xml").write_text(xml)
        if part == "train":
            (root / "train.json").write_text(json.dumps(table))
    return root


def test_both_forms_of_annotations_say_the_same(pictures):
    splits = load(DataSettings("picture-boxes", str(pictures), size=64))
    assert splits.train.targets.description() == {"classes": ["bright", "dark"], "size": [64, 64]}
    assert splits.train.targets.boxes.equal(splits.test.targets.boxes)
    x, y, w, h, c = splits.train.targets.boxes[1, 0].tolist()
    assert [x, y, w, h, c] == pytest.approx([6.4, 4 * 64 / 60, 16, 12.8, 0], abs=1e-5)
    bright = splits.train.images[1, 0] > 127
    rows, columns = bright.nonzero().T
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == pytest.approx([x, y, x + w, y + h], abs=1)


def test_a_file_is_prepared_as_its_network_saw_it(pictures):
    samples = load(DataSettings("picture-boxes", str(pictures), size=64)).train
    found = prepared_picture(pictures / "train/2.png", samples.description())
    assert torch.equal(found, samples.batch(torch.tensor([2])).inputs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "val/1.xml").unlink(), "val/1.png has no annotation"),
        (lambda root: (root / "val/1.png").unlink(), "val/1 is annotated and is not there"),
        (lambda root: (root / "val/1.xml").write_text("<a"), "1.xml is not as VOC has it"),
        (lambda root: (root / "val/1.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><a/>'), "declares entities"),
        (lambda root: (root / "val/1.png").write_bytes(b"no"), "1.png is not a readable picture"),
        (lambda root: (root / "train.json").write_text("[]"), "train.json is not as COCO has it"),
        (lambda root: (root / "train.json").unlink(), "has no annotations: expected"),
        (
            lambda root: (root / "val/1.xml").write_text((root / "val/1.xml").read_text().replace("28", "280")),
            r"box 0 .* is not inside the 64 × 64 pixels",
        ),
    ],
)
def test_annotations_that_cannot_be_used_are_named(change, words, pictures):
    change(pictures)
    with pytest.raises(DataError, match=words):
        load(DataSettings("picture-boxes", str(pictures), size=64))


def test_two_pictures_of_one_name_are_refused(pictures):
    (pictures / "train/more").mkdir()
    (pictures / "train/more/1.png").write_bytes((pictures / "train/1.png").read_bytes())
    with pytest.raises(DataError, match="are both called 1.png; rename one of them"):
        load(DataSettings("picture-boxes", str(pictures), size=64))


def test_marks_are_drawn(tmp_path):
    plain, marked = tmp_path / "plain.png", tmp_path / "marked.png"
    marked_picture(torch.zeros(1, 1, 40, 60), [], "a", plain)
    marked_picture(torch.zeros(1, 1, 40, 60), [Mark((5, 5, 20, 10), "cat")], "a", marked)
    grid(torch.zeros(2, 1, 40, 60), ["a", "b"], tmp_path / "grid.png", [[], [Mark((5, 5, 20, 10), "cat")]])

    def green(path):
        red, green, blue = np.asarray(Image.open(path).convert("RGB")).astype(int).transpose(2, 0, 1)
        return int(((green > red + 50) & (green > blue + 50)).sum())

    assert green(plain) == 0
    assert green(marked) > 100
    assert green(tmp_path / "grid.png") > 30


@pytest.mark.parametrize("shape", [(2, 5, 8, 8), (2, 4, 8, 8), (3, 2, 1, 8, 8), (3, 2, 3, 8, 8)])
def test_samples_of_any_channels_are_drawn(tmp_path, shape):
    assert grid(torch.rand(shape), ["a", "b"], tmp_path / "grid.png") == 2
    assert (tmp_path / "grid.png").exists()


def test_what_is_no_picture_is_not_drawn(tmp_path):
    with pytest.raises(InvalidArgument, match=r"samples \[7\] are no pictures and no event frames"):
        grid(torch.rand(2, 7), ["a", "b"], tmp_path / "grid.png")
    assert not (tmp_path / "grid.png").exists()
