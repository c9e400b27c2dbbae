"""Runs of several processes: they learn what one learns, and evaluate what one evaluates."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

import spikedistill as sd
from spikedistill.data import in_order, load
from spikedistill.report.metrics import read_metrics
from spikedistill.training.recipe_files import load_recipe

WORDS = [
    "--model.width=2",
    "--data.train_rows=300",
    "--data.test_rows=50",
    "--data.validation_rows=44",
    "--optimizer.epochs=1",
    "--timesteps=2",
    "--precision=fp32",  # as the test computes it again
]

WITHOUT_NORM = """
import sys, torch
from torch import nn
import spikedistill as sd
from spikedistill.data import Augmentation, Batches, ImageSet
from spikedistill.machine.processes import Process, process_group
from spikedistill.report.display import Silence
from spikedistill.training.loop import Progress, Session, fit
from spikedistill.training.phases import Phases, PhaseSettings
from spikedistill.training.optimizers import SGD, make_optimizer
from spikedistill.training.pruning import Pruner, Pruning

def learn(process):
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), sd.LIF(threshold=0.3)),
        nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), sd.LIF(threshold=0.3)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).double()
    learner = sd.SelfDistillation(sd.Network(body, ["0", "1"]), timesteps=3)
    for module in learner.branches.modules():  # batch norm apart: it sees only a process's own share
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    images = torch.randint(0, 256, (37, 1, 12, 12), dtype=torch.uint8)
    data = ImageSet(images, sd.Labels(torch.arange(37) % 4, tuple("abcd")), (0.5,), (0.25,))
    settings = SGD(epochs=3, batch_size=10, lr=0.05, clip_norm=1.0)
    wrapped = nn.parallel.DistributedDataParallel
    forward = wrapped(learner, find_unused_parameters=True) if process.count > 1 else learner
    phases = Phases(learner.rule, PhaseSettings(ann=1, branches=False), 3, 0)  # branches have no gradient at first
    made = make_optimizer(learner, settings)
    pruner = Pruner(Pruning(0.5, until=3), 37, seed=0)
    session = Session(learner, phases, lambda x, *how: forward(x.double(), *how), made, Progress(), pruner=pruner)
    batches = Batches(data, 10, Augmentation(crop=1), 0, rank=process.rank, processes=process.count)
    fit(session, batches, settings, precision="fp32", watcher=Silence(), validate=dict, save=lambda: None)
    if process.is_first:
        torch.save({**learner.state_dict(), "losses": pruner.before}, sys.argv[1])

process = Process.find()
with process_group(process, torch.device("cpu")):
    learn(process)
"""


DISAGREE = """
import os, sys
from spikedistill.cli import main
from spikedistill.training import precision, step

rank = int(os.environ["RANK"])
precision.computes_in_bf16 = lambda device: True
precision._timed = lambda step, name, device: 1.0 if (name == "bf16") == (rank == 0) else 2.0
original = step.autocast

def noted(chosen, device):
    open(f"{sys.argv[1]}-{rank}", "w").write(chosen)
    return original(chosen, device)

step.autocast = noted
sys.exit(main(["train", *sys.argv[2:]]))
"""


@pytest.mark.whole
def test_processes_that_measure_otherwise_compute_alike(tmp_path):
    """Each would choose another precision; the first decides."""
    script = tmp_path / "script.py"
    script.write_text(DISAGREE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [word for word in WORDS if "precision" not in word]
    environment = {name: value for name, value in os.environ.items() if name != "SPIKEDISTILL_PRECISION"}
    done = subprocess.run(
        [*torchrun, script, tmp_path / "chosen", *words, "--compile=off", "--out", tmp_path / "run"],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"chosen-{rank}").read_text() for rank in (0, 1)] == ["bf16", "bf16"]


@pytest.mark.whole
def test_two_processes_learn_what_one_learns(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_NORM)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script, tmp_path / "one.pt"], check=True, env=environment)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*torchrun, script, tmp_path / "two.pt"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    torch.testing.assert_close(two.pop("losses"), one.pop("losses"), rtol=1e-5, atol=1e-6)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-10, atol=1e-12, msg=name)


STOPS_ONCE = """
import os, sys, torch
import spikedistill as sd
from spikedistill.cli import main
from spikedistill.training import run

torch.set_num_threads(1)
if "--resume" not in sys.argv:
    steps = []

    def stops(self, progress, count):
        steps.append(progress.step)
        if len(steps) == int(os.environ.get("STOP_AFTER", 2)):
            raise sd.Interrupted("now")

    run.Stoppable.on_step = stops
sys.exit(main(["train", *sys.argv[1:]]))
"""


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
# The last batch of 243 samples is shared as 2 and 1, and each process computes it in as many parts.
SHARED = [*WORDS, "--data.train_rows=287", "--optimizer.batch_size=60", "--optimizer.accumulate=2", "--compile=off"]


def under_torchrun(*command, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([*TORCHRUN, *command], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of two processes, and what it said."""
    folder = tmp_path_factory.mktemp("processes") / "whole"
    done = under_torchrun("-m", "spikedistill", "train", *SHARED, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.whole
def test_an_epoch_that_two_processes_were_stopped_in_is_measured_as_a_whole(whole, tmp_path):
    """Each measures its own share; the checkpoint has what all have measured, and it counts once."""
    script = tmp_path / "script.py"
    script.write_text(STOPS_ONCE)
    stopped = under_torchrun(script, *SHARED, "--out", tmp_path / "stopped")
    assert stopped.returncode != 0
    resumed = under_torchrun(script, "--resume", tmp_path / "stopped")
    assert resumed.returncode == 0, resumed.stderr
    (expected,), (found,) = (read_metrics(folder / "metrics.csv") for folder in (whole[0], tmp_path / "stopped"))
    for name in ("loss", "hard", "soft", "train_accuracy"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9), name


@pytest.mark.whole
def test_two_processes_that_were_stopped_show_the_samples_that_were_left(tmp_path):
    """Each has seen the losses of its own share, and in the next epoch all have to leave out the same samples."""
    words = [*SHARED, "--optimizer.epochs=3", "--pruning.share=0.5", "--pruning.until=3"]
    script = tmp_path / "script.py"
    script.write_text(STOPS_ONCE)
    for name, steps in (("whole", 1000), ("stopped", 6)):  # five steps are the first epoch
        done = under_torchrun(script, *words, "--out", tmp_path / name, STOP_AFTER=str(steps))
        assert (done.returncode == 0) == (name == "whole"), done.stderr
    resumed = under_torchrun(script, "--resume", tmp_path / "stopped")
    assert resumed.returncode == 0, resumed.stderr
    expected, found = (read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "stopped"))
    assert [row["shown"] for row in found] == [row["shown"] for row in expected]
    assert expected[1]["shown"] < 0.95
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-9)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


@pytest.mark.whole
def test_the_command_line_under_torchrun(whole):
    folder, said = whole
    assert (folder / "model.safetensors").is_file()
    assert said.count("test accuracy on 50 samples") == 1
    # the share that each evaluated, added up: the numbers of one process that evaluates everything
    result = json.loads((folder / "result.json").read_text())
    trained, data = sd.Trained.load(folder), load(load_recipe("fashion-small", SHARED).data)
    again = sd.evaluate(trained.network, in_order(data.test, 50), [1, 2])
    assert {str(t): share for t, share in again.score.items()} == result["test_accuracy"]
    assert again.firing_rates == pytest.approx(result["firing_rates"], rel=1e-6)
