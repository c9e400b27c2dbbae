"""Runs that are started, compared or gone on with once more: what is said of a run is what was done."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from test_compare import write_run
from test_processes import under_torchrun
from tiny_runs import TINY, stopping_after
from torch import nn

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.comparison.records import find_runs
from spikedistill.comparison.rows import rows_of
from spikedistill.core.output import Batch
from spikedistill.errors import CheckpointError, DataError, InvalidArgument
from spikedistill.machine.reading import ReadError, plain_yaml
from spikedistill.training import run as run_module
from spikedistill.training.optimizers import SGD, AdamW, decay_groups, learning_rate
from spikedistill.training.phases import Phase
from spikedistill.training.step import Step

SHORT = [word for word in TINY if "epochs" not in word] + ["--optimizer.epochs=2"]


@pytest.fixture
def whole(finished, tmp_path):
    """A copy of a finished run of three epochs."""
    return shutil.copytree(finished, tmp_path / "whole")


# ---------------------------------------------------------------- going on


def test_a_run_that_goes_on_has_no_result_until_its_end(whole, capsys):
    with stopping_after(1):
        assert main(["train", "--resume", str(whole), "--optimizer.epochs=4"]) == 130
    assert not (whole / "result.json").exists()
    assert main(["compare", str(whole)]) == 1
    assert "holds no finished run" in capsys.readouterr().err
    assert main(["train", "--resume", str(whole)]) == 0
    assert (whole / "result.json").exists()


def test_a_finished_run_keeps_its_result_where_its_evaluation_is_stopped(whole, finished, monkeypatch):
    def stops(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "score", stops)
    assert main(["train", "--resume", str(whole)]) == 130
    assert (whole / "result.json").read_bytes() == (finished / "result.json").read_bytes()


def test_a_run_does_not_go_back(whole):
    before = (whole / "recipe.yaml").read_bytes()
    with pytest.raises(CheckpointError, match="has begun 3 epochs, so optimizer.epochs cannot be 2"):
        sd.resume(whole, ["--optimizer.epochs=2"])
    assert (whole / "recipe.yaml").read_bytes() == before


@pytest.mark.parametrize("name", [".result.json.12", "best/.model.safetensors.12", ".checkpoint.pt.12"])
def test_half_written_files_are_cleared_away(whole, name):
    (whole / name).write_text("half")
    assert main(["train", "--resume", str(whole)]) == 0
    assert not (whole / name).exists()


def test_nothing_of_the_users_is_overwritten_by_a_card(finished, tmp_path):
    (tmp_path / "README.md").write_text("my own notes")
    with pytest.raises(CheckpointError, match=r"README.md exists already"):
        sd.load(finished).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own notes"


# ---------------------------------------------------------------- seeds


def test_seeds_go_on_with_shares_of_epochs_and_with_ranks_of_their_own(tmp_path, capsys):
    words = ["train", *SHORT, "--phases.rate_twin=0.5", "--tensor_train.form=ptt", "--tensor_train.rank=0.5"]
    words += ["--seeds", "0", "--out", str(tmp_path / "a")]
    assert main(words) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "is finished already, and left alone" in capsys.readouterr().err
    assert main([*words, "--phases.rate_twin=0"]) == 1
    assert "other phases.rate_twin" in capsys.readouterr().err
    for checkpoint in (tmp_path / "a-0").glob("checkpoint*"):  # which take most of the place
        checkpoint.unlink()
    assert main([*words, "--phases.rate_twin=0"]) == 1
    assert "other phases.rate_twin" in capsys.readouterr().err


def test_a_run_of_one_seed_is_not_counted_as_another(whole, capsys):
    words = ["train", *TINY, "--out", str(whole), "--seeds", "7"]
    shutil.copytree(whole, whole.with_name("whole-7"))
    assert main(words) == 1
    assert "whole-7 was made by another recipe (other seed)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "5", "--seeds", "0"], "leave one of them out"),
        (["--seeds", "0", "00"], "different whole numbers"),
        (["--seeds", "0", "1", "--out", "."], "has no name"),
        (["--seeds", "0", "1", "--out", ".."], "has no name"),
        (["--seeds", "0", "9223372036854775808"], "seed is 9223372036854775808"),
        (["--seed", "99999999999999999999"], "seed is 99999999999999999999; expected less than"),
        (["--model.import", ":small"], "cannot be imported"),
        (["--device", "meta"], "device 'meta' cannot be used here"),
        (["--optimizer.momentum", "-1"], "optimizer.momentum is -1.0; expected from 0 to below 1"),
        (["--optimizer.nesterov", "true", "--optimizer.momentum", "0"], "momentum is 0; leave it out"),
        (["--optimizer.weight_decay", "-1"], "optimizer.weight_decay is -1.0"),
        (["--optimizer", "adamw", "--optimizer.beta1", "1.5"], "optimizer.beta1 is 1.5"),
        (["--optimizer", "adamw", "--optimizer.eps", "0"], "optimizer.eps is 0.0"),
    ],
)
def test_words_that_cannot_be_meant(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, *words]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("warmup", [0.01, 0.3, 0.5, 1.0, 1.3])
def test_warming_up_ends_at_the_largest_rate(warmup):
    settings = SGD(epochs=10, lr=0.1, warmup_epochs=warmup, schedule_per="step")
    rates = [learning_rate(settings, epoch, step, 5) for epoch in range(10) for step in range(5)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.1)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_a_weight_that_layers_share_is_moved_once():
    body = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    body[1].weight = body[0].weight
    optimizer = SGD(lr=1.0, momentum=0.0, weight_decay=0.0).make(decay_groups(body.modules(), 0.0)[:1])
    before = body[0].weight.detach().clone()
    body[0].weight.grad = torch.ones(2, 2)
    optimizer.step()
    torch.testing.assert_close(body[0].weight.detach(), before - 1)


def test_the_total_is_what_is_reported_whatever_a_part_is_called(tmp_path):
    class Loud(sd.Objective):
        def __call__(self, output, batch):
            loss = output.logits.float().logsumexp(1).mean()
            return sd.Terms(100 * loss, {"loss": loss.detach()})

    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=2), sd.Rate(2), objectives=Loud(), branches=())
    step = Step(learner, learner, torch.optim.SGD(learner.parameters(), 0.0), SGD(), "fp32")
    seen = []
    step(Batch(torch.randn(2, 3, 8, 8), torch.tensor([0, 1])), Phase(sd.Rate(2), True), 0.0, seen.append)
    (part,) = seen[0].parts
    assert next(iter(part.terms)) == "loss"
    assert part.terms["loss"] == pytest.approx(100 * float(part.logits.logsumexp(1).mean()), rel=1e-5)


@pytest.mark.whole
def test_branches_that_no_objective_looks_at_are_no_reason_for_processes_to_wait(finished, tmp_path):
    """They have no gradient, which the processes would wait for."""
    words = [word for word in TINY if not word.startswith(("--data", "--optimizer"))]
    words += ["--objectives.self_distillation=null", "--objectives.noise_smoothed.teacher", str(finished)]
    words += ["--data.train_rows=16", "--data.test_rows=8", "--data.validation_rows=0"]
    words += ["--optimizer.epochs=1", "--optimizer.batch_size=8", "--out", str(tmp_path / "run")]
    done = under_torchrun("-m", "spikedistill", "train", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").is_file()


# ---------------------------------------------------------------- evaluating and comparing


def test_a_run_of_another_device_is_evaluated_here(whole, capsys):
    path = whole / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"device": "cuda:0"}))
    assert main(["evaluate", str(whole)]) == 1
    assert "try --device auto" in capsys.readouterr().err
    assert main(["evaluate", str(whole), "--device", "cpu"]) == 0


@pytest.mark.parametrize("given", [None, "mine"])
def test_a_folder_does_not_say_where_frames_are_written(whole, given, monkeypatch):
    path = whole / "recipe.yaml"
    values = yaml.safe_load(path.read_text())
    values["data"] = {"name": "event-boxes", "root": str(whole / "none"), "scenes": {"cache": str(whole / "STRANGER")}}
    path.write_text(yaml.safe_dump(values))
    asked = []

    def looks(data, train, timesteps):
        asked.append(data.scenes.cache)
        raise DataError("there are no scenes")

    monkeypatch.setattr("spikedistill.data.load_split", looks)
    assert main(["evaluate", str(whole), *([] if given is None else ["--data.scenes.cache", given])]) == 1
    assert asked == [given]


def test_an_objective_without_fields_is_another_one(tmp_path):
    write_run(tmp_path / "a-0", 0.5, 0, objectives={"squared_error": {}})
    write_run(tmp_path / "b-1", 0.9, 1, objectives={"self_distillation": {"temperature": 3.0}})
    write_run(tmp_path / "c-2", 0.7, 2, objectives={"absolute_error": {}})
    write_run(tmp_path / "a-3", 0.6, 3, objectives={"squared_error": {}})
    rows = rows_of(find_runs([tmp_path]))
    assert sorted(tuple(row.scores) for row in rows) == [(0.5, 0.6), (0.7,), (0.9,)]


def test_runs_of_two_scores_are_not_compared(tmp_path):
    write_run(tmp_path / "a-0", 0.5)
    write_run(tmp_path / "b-0", 0.5)
    result = {"test_samples": 100, "test_map": {"4": 0.4}}
    (tmp_path / "b-0" / "result.json").write_text(json.dumps(result))
    with pytest.raises(DataError, match="a test accuracy, and .* a test map; compare runs of one score"):
        rows_of(find_runs([tmp_path]))


def test_a_name_that_stands_twice_in_a_recipe_is_refused():
    with pytest.raises(ReadError, match="optimizer stands there twice"):
        plain_yaml("optimizer: {lr: 1}\nseed: 0\noptimizer: {epochs: 2}\n", "mine.yaml")
    with pytest.raises(ReadError, match="1 stands there twice"):
        plain_yaml("{1: a, 0x1: b}", "mine.yaml")
    assert plain_yaml("a: {lr: 1}\nb: {lr: 2}\n", "mine.yaml") == {"a": {"lr": 1}, "b": {"lr": 2}}
    assert plain_yaml("{1: a, '1': b}", "mine.yaml") == {1: "a", "1": "b"}


def test_optimizers_have_ranges():
    with pytest.raises(InvalidArgument, match="beta2 is 1"):
        AdamW(beta2=1.0)
