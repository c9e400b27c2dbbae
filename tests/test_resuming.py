"""A run can always go on, whatever happened to its files; and never as another run."""

from __future__ import annotations

import pytest
import torch
import yaml
from tiny_runs import same_weights

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.errors import CheckpointError, NonFiniteLoss
from spikedistill.training import run as run_module
from spikedistill.training.checkpoints import before, load_checkpoint, save_checkpoint


def test_every_flipped_bit_of_a_checkpoint_is_noticed(halfway):
    """And the one before it is taken."""
    path = halfway / "checkpoint.pt"
    good = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(len(good), (40,), generator=generator).tolist():
        damaged = bytearray(good)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"is damaged|is truncated"):
            load_checkpoint(path.rename(path.with_name("alone.pt")))
        path.with_name("alone.pt").unlink()
    path.write_bytes(good)
    torch.load(path, weights_only=True)  # it is torch's own file still


@pytest.mark.whole
@pytest.mark.parametrize("damage", ["zero bytes", "half", "missing", "foreign"])
def test_a_lost_checkpoint_leaves_the_one_before(halfway, finished, damage, capsys):
    path = halfway / "checkpoint.pt"
    content = {"zero bytes": b"", "half": path.read_bytes()[:5000], "foreign": b"x" * 9000}
    path.unlink()
    if damage in content:
        path.write_bytes(content[damage])
    assert main(["train", "--resume", str(halfway)]) == 0
    assert "Going on from the one before" in capsys.readouterr().err
    assert same_weights(halfway, finished)
    load_checkpoint(before(path))  # the damaged one was not put into its place


def test_without_any_checkpoint_it_says_so(halfway, capsys):
    for path in halfway.glob("checkpoint*"):
        path.unlink()
    assert main(["train", "--resume", str(halfway)]) == 1
    assert "there is no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "epoch,lo", "epoch,loss\n1,", "epoch,loss\n1,0.5\n2,x\n", "\0\0\0"])
def test_no_damage_of_the_metrics_prevents_going_on(halfway, finished, content):
    (halfway / "metrics.csv").write_text(content)
    assert main(["train", "--resume", str(halfway)]) == 0
    lines = [(folder / "metrics.csv").read_text().splitlines() for folder in (halfway, finished)]
    plain = [[line.rpartition(",")[0].rpartition(",")[0] for line in each] for each in lines]
    assert len(lines[0]) == 4
    assert [line.split(",")[:5] for line in lines[0]] == [line.split(",")[:5] for line in lines[1]], plain


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer.lr", 0.2, "optimizer.lr was .* and is 0.2"),
        ("seed", 7, "seed was 0 and is 7"),
        ("rule.timesteps", 3, "rule.timesteps was 2 and is 3"),
        ("model.neuron.threshold", 0.5, "model.neuron.threshold was 1.0 and is 0.5"),
        ("objectives.self_distillation.soft_weight", 0.0, "soft_weight was 0.3 and is 0.0"),
        ("data.augmentation.flip", False, "data.augmentation.flip was"),
        ("precision", "bf16", "precision was 'fp32' and is 'bf16'"),
        ("data.train_rows", 200, "data.train_rows was 300 and is 200"),
    ],
)
def test_a_run_that_goes_on_is_the_run_that_was_started(halfway, field, value, message):
    path = halfway / "recipe.yaml"
    values = yaml.safe_load(path.read_text())
    group = values
    *groups, name = field.split(".")
    for each in groups:
        group = group[each]
    group[name] = value
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(CheckpointError, match=message + r".*--init"):
        sd.resume(halfway)


def changed_checkpoint(folder, change):
    state = load_checkpoint(folder / "checkpoint.pt")
    change(state)
    save_checkpoint(folder / "checkpoint.pt", state)
    before(folder / "checkpoint.pt").unlink()


def test_another_number_of_processes_is_refused(halfway):
    changed_checkpoint(halfway, lambda state: state.update(processes=2))
    with pytest.raises(CheckpointError, match=r"was trained by 2 process\(es\), and this is 1"):
        sd.resume(halfway)


def shorten_momentum(state):
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorten_momentum, r"momentum_buffer in the checkpoint is \(1,\), its parameter \("),
        (lambda s: s["optimizer"]["param_groups"].pop(), "has other parameters"),
        (lambda s: s.update(optimizer=3), "does not fit this run"),
        (lambda s: s["progress"].update(epoch=-1), "progress is not made of numbers"),
        (lambda s: s["progress"].update(epoch="1"), "the checkpoint's epoch is '1'"),
        (lambda s: s["progress"].pop("rows"), "the checkpoint's rows is None"),
        (lambda s: s["progress"].update(rows=[{"epoch": "x"}]), "not made of numbers"),
        (lambda s: s["progress"].update(meter={"samples": "x", "correct": 1}), "does not fit this run"),
        (lambda s: s.update(random=torch.zeros(3, dtype=torch.uint8)), "does not fit this run"),
        (lambda s: s.pop("recipe"), "does not say what it is of"),
        (lambda s: s.update(fed="[]"), "was trained on other samples than these"),
        (lambda s: s["learner"].popitem(), "does not fit the network: missing"),
        (lambda s: s.update(learner=torch.zeros(3)), "does not fit"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_words(halfway, change, message):
    changed_checkpoint(halfway, change)
    with pytest.raises(CheckpointError, match=message):
        sd.resume(halfway)


def test_weights_that_are_not_finite_are_never_saved(halfway, monkeypatch):
    good = (halfway / "checkpoint.pt").read_bytes()

    def poisoned(session, batches, settings, **rest):
        with torch.no_grad():
            session.learner.network.body.stem[1].running_var[0] = float("inf")
        session.progress.next_epoch()
        rest["save"]()

    monkeypatch.setattr(run_module, "fit", poisoned)
    with pytest.raises(NonFiniteLoss, match=r"1 tensors are not finite after epoch 1: .*running_var.*learning rate"):
        sd.resume(halfway)
    assert (halfway / "checkpoint.pt").read_bytes() == good
    assert not (halfway / "model.safetensors").exists()
