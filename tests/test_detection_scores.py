"""The scores of detection, and what is told of its answers."""

import io

import numpy as np
import pytest
import torch
from test_detection import COLUMNS, HEIGHT, NAMES, ROWS, WIDTH, maps_of, random_boxes

import spikedistill as sd
from spikedistill.tasks import Boxes, Detection
from spikedistill.tasks.average_precision import average_precision
from spikedistill.tasks.boxes import Smallest
from spikedistill.tasks.detection import matched
from spikedistill.tasks.heatmaps import USUAL, Middles, found_boxes


def coco(found, boxes):
    """The library itself, fed by hand."""
    import contextlib

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, said = COCO(), []
        annotations = []
        for k in range(len(boxes)):
            for x, y, w, h, c in boxes[k].tolist():
                if c >= 0:
                    annotations.append({"id": len(annotations) + 1, "image_id": k + 7, "category_id": int(c) + 1})
                    annotations[-1] |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            for x, y, w, h, score, c in found[k].tolist():
                said.append({"image_id": k + 7, "category_id": int(c) + 1, "bbox": [x, y, w, h], "score": score})
        truth.dataset = {"images": [{"id": k + 7} for k in range(len(boxes))], "annotations": annotations, "info": {}}
        truth.dataset["categories"] = [{"id": k + 1} for k in range(len(NAMES))]
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(said), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3].tolist()


def test_perfect_answers_have_a_precision_of_one():
    boxes = random_boxes(12, most=1).boxes
    meter = Detection().meter()
    meter.add(maps_of(boxes), boxes)
    assert meter.columns()["map"] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_precision_is_the_librarys(seed):
    boxes = random_boxes(20, seed=seed)
    noise = torch.randn(boxes.boxes[..., :4].shape, generator=torch.Generator().manual_seed(seed)) * 3
    wrong = boxes.boxes.clone()
    wrong[..., :4] = (wrong[..., :4] + noise).clamp(min=1)
    said = torch.rand(20, wrong.shape[1], 1, generator=torch.Generator().manual_seed(seed + 50))
    found = torch.cat([wrong[..., :4], said, wrong[..., 4:].clamp(min=0)], -1)
    ours = average_precision(found, boxes.boxes, len(NAMES))
    assert [ours["map"], ours["map50"], ours["map75"]] == pytest.approx(coco(found, boxes.boxes), abs=1e-12)
    assert 0.02 < ours["map"] < 0.98


def test_the_precision_adds_up_over_processes():
    boxes = random_boxes(20, seed=5).boxes
    noise = torch.randn(20, 7, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.8
    noise[:, 3:5] /= USUAL
    output = maps_of(boxes) + noise
    whole, parts = Detection().meter(), [Detection().meter() for _ in range(3)]
    whole.add(output, boxes)
    parts[0].add(output[:9], boxes[:9])
    parts[0].add(output[9:12], boxes[9:12, :3])  # of a data set with room for fewer boxes
    parts[1].add(output[12:], boxes[12:])
    together = Detection().meter()
    for part in parts:  # one has nothing to say
        together.add_state(part.state())
    short = boxes.clone()
    short[9:12, 3:] = -1
    other = Detection().meter()
    other.add(output, short)
    assert together.columns() == pytest.approx(other.columns())
    assert whole.columns()["map"] > 0.1
    assert Detection().meter().columns() == {}


def test_what_is_found_counts_once():
    true = torch.tensor([[0.0, 0, 10, 10, 1], [40, 40, 10, 10, 2]])
    said = torch.tensor(
        [
            [1.0, 0, 10, 10, 0.9, 1],  # found
            [0.0, 0, 10, 10, 0.8, 1],  # the same once more
            [40, 40, 10, 10, 0.7, 1],  # of another class
            [40, 40, 10, 12, 0.6, 2],  # found
            [40, 44, 10, 10, 0.5, 2],  # not near enough
        ]
    )
    assert matched(said, true).tolist() == [True, False, False, True, False]
    assert matched(said, true[:0]).tolist() == [False] * 5


def test_the_inspector_says_what_became_of_each_class():
    boxes = random_boxes(20, most=1, seed=2)
    finds = Detection().inspector(boxes.description())
    output = maps_of(boxes.boxes)
    output[:5, :3] = -10.0  # nothing is seen in five of them
    finds.add(output, boxes.boxes)
    missed = int((boxes.boxes[:5, :, 4] >= 0).sum())
    assert finds.counts[:, 0].sum() == sum(boxes.counts().values())
    assert finds.counts[:, 0].sum() - finds.counts[:, 1].sum() == missed > 0
    assert finds.counts[:, 2].sum() == 0
    assert "a" in finds.lines()[1]


def test_hits_are_where_the_heatmap_is_right():
    boxes = random_boxes(20, most=1, seed=2).boxes
    hits = Detection().training_meter()
    output = maps_of(boxes)
    hits.add(output, boxes)
    assert hits.columns() == {"hit": 1.0}
    output[:10, :3] = -10
    half = Detection().training_meter()
    half.add(output, boxes)
    half.add_state(hits.state())
    there = (boxes[..., 4] >= 0).sum(1)
    assert half.columns()["hit"] == pytest.approx(float(1 - there[:10].sum() / (2 * there.sum())))


def one_answer(box, height, width, sure=5.0):
    """What a network with one class would say of one box, everything else being surely none."""
    output = torch.full((1, 5, height, width), -20.0)
    middles = Middles.of(torch.tensor([[[*box, 0.0]]]), height, width)
    row, column = int(middles.row), int(middles.column)
    output[0, 0, row, column] = sure
    output[0, 1:3, row, column] = middles.size[0, 0] / USUAL
    output[0, 3:, row, column] = middles.offset[0, 0]
    return output


def test_the_score_is_of_the_sample_and_not_of_its_padding():
    """GEN1 has 240 × 304 pixels, and the network's map 64 × 80 cells, those of 256 × 320."""
    truth = Boxes.of([torch.tensor([[254.0, 180, 50, 60, 0]])], ["car"], (240, 304))
    large = one_answer((246.0, 170, 66, 80), 64, 80)  # reaches beyond the sensor, where it is cut to 58 × 70
    task, description = Detection(), truth.description()
    meter, without = task.meter(description), task.meter()
    for each in (meter, without):
        each.add(large, truth.boxes)
    assert meter.columns()["map"] == pytest.approx(0.5)  # 3000 of 4060 overlap
    assert without.columns()["map"] == pytest.approx(0.2)
    evaluated = sd.evaluate(
        Says(large), [(torch.zeros(1, 1, 4, 4), truth.boxes)], 1, task=task, description=description
    )
    assert evaluated.score[1] == pytest.approx(0.5)
    # cells below row 240 are none of the sample's
    beyond = found_boxes(one_answer((100.0, 242, 20, 8), 64, 80), 3, (240, 304))
    assert (beyond[..., 4] < 1e-6).all()


class Says(torch.nn.Module):
    """Answers the same whatever it sees."""

    def __init__(self, answer):
        super().__init__()
        self.answer = torch.nn.Parameter(answer)

    def forward(self, x):
        return (x.mean((1, 2, 3), keepdim=True) * 0 + self.answer)  # fmt: skip


def test_found_boxes_that_are_too_small_to_count_are_none():
    """As published results on GEN1 have it: a found car of 20 pixels is no mistake where no such car counts."""
    truth = Boxes.of([torch.tensor([[100.0, 100, 50, 40, 0]])], ["car"], (240, 304), smallest=Smallest(30.0, 10.0))
    said = torch.maximum(one_answer((100.0, 100, 50, 40), 64, 80, 2.0), one_answer((20.0, 20, 20, 20), 64, 80, 5.0))
    for description, expected in ((truth.description(), 1.0), (truth.description() | {"smallest": [0, 0]}, 0.5)):
        meter = Detection().meter(description)
        meter.add(said, truth.boxes)
        assert meter.columns()["map"] == pytest.approx(expected, abs=0.01)
    assert truth.description()["smallest"] == [30.0, 10.0]
    assert "smallest" not in Boxes.of([torch.zeros(0, 5)], ["car"], (8, 8)).description()


def test_of_equal_neighbours_one_is_a_box():
    for logits in ((4.0, 4.0), (20.0, 18.0)):  # the sigmoids of both are 1.0 in float32
        output = torch.full((1, 5, 6, 6), -30.0)
        output[0, 0, 2, 2:4] = torch.tensor(logits)
        assert int((found_boxes(output, 10, (24, 24))[0, :, 4] > 0.5).sum()) == 1
    flat = found_boxes(torch.zeros(1, 6, 4, 4), 100, (16, 16))
    assert int((flat[0, :, 4] > 0).sum()) == 2  # one of each class


def test_boxes_may_be_arrays_and_lists():
    found = Boxes.of([np.array([[1.0, 2, 3, 4, 0]]), [[1, 2, 3, 4, 1]], torch.zeros(0, 5)], NAMES, (20, 20))
    assert found.boxes[:, 0, 4].tolist() == [0, 1, -1]


def test_answers_are_boxes_in_words_and_to_be_drawn():
    boxes = Boxes.of([torch.tensor([[10.0, 20, 30, 40, 2]])], NAMES, (ROWS, COLUMNS))
    output = maps_of(boxes.boxes)[0]
    said = Detection().answer(output, boxes.description())
    assert said.startswith("c 100% at x 10, y 20, 30 × 40")
    (mark,) = Detection(sure=0.9).marks(output, boxes.description())
    assert mark.box == pytest.approx((10, 20, 30, 40), abs=1e-3)
    assert Detection().answer(torch.full((7, HEIGHT, WIDTH), -9.0), boxes.description()).startswith("nothing")
