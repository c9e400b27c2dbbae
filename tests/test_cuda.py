"""What needs a GPU: training there is training here, with every kind of data. And the program for a lent one."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_device import KINDS

import spikedistill as sd
from spikedistill.core.kernels import EAGER, compiled
from spikedistill.data import Augmentation, Batches, ImageSet
from spikedistill.training.optimizers import SGD, make_optimizer
from spikedistill.training.phases import Phase
from spikedistill.training.step import Step

ROOT = Path(__file__).parent.parent
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
RULES = [sd.Rate(3), sd.BPTT(3), sd.ANN()]


def trained(learner, samples, augmentation, steps=5):
    """Losses and weights after some steps in float64, on the device of the learner."""
    device = next(learner.parameters()).device
    # made here for both: in float32 a GPU divides by 255 another way, and the last bit grows
    batches = Batches(samples, 3, augmentation, 0)
    step = Step(learner, learner, make_optimizer(learner, SGD(momentum=0.5)), SGD(), "fp32")
    losses, made = [], [batch for epoch in range(3) for batch in batches.epoch(epoch)]
    for batch in made[:steps]:
        batch = sd.Batch(batch.inputs.double().to(device), batch.targets.to(device))
        step(batch, Phase(learner.rule), 0.05, lambda taken: losses.append(taken.parts[0].terms["loss"].item()))
    return losses, {name: tensor.cpu() for name, tensor in learner.state_dict().items()}


@pytest.mark.cuda
@needs_gpu
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_training_on_a_gpu_is_training_on_the_cpu(kind, rule, fused, tmp_path):
    samples, augmentation = kind(tmp_path)
    channels = samples.description()["shape"][0]
    torch.manual_seed(0)
    network = sd.create_model("resnet18", 3, in_channels=channels, width=4)
    here = sd.SelfDistillation(network, rule).double()
    there = copy.deepcopy(here).cuda()
    there.kernels = compiled() if fused else EAGER
    (losses, weights), (found, moved) = trained(here, samples, augmentation), trained(there, samples, augmentation)
    assert found == pytest.approx(losses, rel=1e-6)
    for name, tensor in weights.items():
        torch.testing.assert_close(moved[name], tensor, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.cuda
@needs_gpu
def test_pictures_are_changed_on_a_gpu_as_on_the_cpu():
    """All of the paper's augmentation; a rotation may round a pixel's place to its neighbour."""
    labels = sd.Labels(torch.arange(256) % 3, ("a", "b", "c"))
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (256, 3, 32, 32), np.uint8))
    samples = ImageSet(images, labels, (0.5,) * 3, (0.25,) * 3)
    augmentation = Augmentation(autoaugment=True, cutout=16)
    found = [
        torch.cat([batch.inputs.cpu() for batch in Batches(samples.to(device), 64, augmentation, 0).epoch(0)])
        for device in (torch.device("cpu"), torch.device("cuda"))
    ]
    same = (found[0] - found[1]).abs().amax(1) < 1e-4
    assert same.float().mean() > 0.995


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_learn_what_one_learns(tmp_path):
    words = ["train", "fashion-small", "--optimizer.epochs", "1", "--precision", "fp32", "--compile", "off"]
    one = [sys.executable, "-m", "spikedistill", *words, "--device", "cuda:0", "--out", tmp_path / "one"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    two = [*torchrun, "-m", "spikedistill", *words, "--out", tmp_path / "two"]
    for command in (one, two):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    losses = [(tmp_path / name / "metrics.csv").read_text().split()[1].split(",")[2] for name in ("one", "two")]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=0.02)  # batch norm sees half a batch


# ---------------------------------------------------------------- scripts/gpu.py


@pytest.fixture
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "scripts/gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu"] = module  # its dataclass looks for it there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu"]


SLOW = """
import pathlib, signal, sys, time
file = pathlib.Path(sys.argv[1])
begun = file.exists()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
file.write_text("begun")
time.sleep(0 if begun else 60)
"""


def test_a_stage_goes_on_where_it_stopped_and_is_done_once(gpu, tmp_path, monkeypatch, capsys):
    (tmp_path / "stage.py").write_text(SLOW)

    def slow(call):
        call.run("slow", [str(tmp_path / "stage.py"), str(tmp_path / "begun")], can_go_on=True)
        return {"answer": 1}

    def broken(call):
        call.run("broken", ["-c", "raise SystemExit('out of order')"])

    def odd(call):
        return {}["a column that is not there"]

    monkeypatch.setattr(gpu, "STAGES", {"odd": odd, "slow": slow, "broken": broken})
    monkeypatch.setattr(gpu, "LEAST", 0.1)
    words = [str(tmp_path / "keep"), "nowhere", "--small", "--copy", str(tmp_path / "copy")]
    assert gpu.main([*words, "slow", "--minutes", "0.05"]) == gpu.GOES_ON
    assert "slow: goes on" in capsys.readouterr().out
    assert gpu.main(words) == 1
    said = capsys.readouterr().out
    assert "odd: failed" in said
    assert "slow: done" in said
    assert "broken: failed" in said
    assert "out of order" in said
    assert json.loads((tmp_path / "copy/gpu.json").read_text())["slow"]["found"] == {"answer": 1}
    (tmp_path / "begun").unlink()
    assert gpu.main([*words, "slow"]) == 0  # what is done is not done again
    assert not (tmp_path / "begun").exists()
    with pytest.raises(SystemExit):  # a miniature is not the long run
        gpu.main([*words, "slow", "--epochs", "3"])
    assert "holds stages of another call" in capsys.readouterr().err


CHILD = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""


@pytest.mark.parametrize("can_go_on", [False, True])
def test_what_does_not_stop_is_ended_with_all_that_it_has_started(gpu, tmp_path, monkeypatch, can_go_on, capsys):
    (tmp_path / "child.py").write_text(CHILD)

    def stubborn(call):
        call.run("stubborn", [str(tmp_path / "child.py"), str(tmp_path / "pid")], can_go_on=can_go_on)

    monkeypatch.setattr(gpu, "STAGES", {"stubborn": stubborn})
    monkeypatch.setattr(gpu, "LEAST", 0.1)
    monkeypatch.setattr(gpu, "PATIENCE", 0.2)
    start = time.monotonic()
    code = gpu.main([str(tmp_path / "keep"), "nowhere", "--small", "--minutes", "0.03"])
    assert time.monotonic() - start < 10
    assert code == (gpu.GOES_ON if can_go_on else 1)
    assert can_go_on or "needs more than" in capsys.readouterr().out
    assert ends(int((tmp_path / "pid").read_text()))


def ends(pid):
    """Whether a process is gone in a moment, as a killed one is."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if "(zombie)" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import gpu
gpu.STAGES = {"stage": lambda call: call.run("stage", sys.argv[2:4])}
gpu.main([sys.argv[4], "nowhere", "--small"])
"""


def test_a_program_that_is_ended_takes_its_stage_along(gpu, tmp_path):
    (tmp_path / "stage.py").write_text(CHILD)
    words = [str(ROOT / "scripts"), str(tmp_path / "stage.py"), str(tmp_path / "pid"), str(tmp_path / "keep")]
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    program.terminate()
    assert program.wait(20) == 128 + 15
    assert ends(int((tmp_path / "pid").read_text()))


def test_it_says_what_it_cannot_do(gpu, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words, message in ((["tests"], "there is no GPU here"), (["test", "--small"], "there is no stage test")):
        with pytest.raises(SystemExit):
            gpu.main([str(tmp_path), "nowhere", *words])
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_every_stage_runs_in_miniature(tmp_path):
    words = [sys.executable, "scripts/gpu.py", tmp_path / "keep", "nowhere", "--small"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in ("tests", "data", "host", "bench", "cifar100", "imagenet"):
        assert f"{stage}: done" in done.stdout
        assert json.loads((tmp_path / "keep" / f"{stage}.json").read_text())["found"]
