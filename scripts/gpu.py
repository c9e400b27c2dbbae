"""Everything that wants a GPU, in stages that stand alone, save what they found and go on where they stopped.

    python scripts/gpu.py KEEP DATA [STAGE]... [--minutes 9] [--epochs 300] [--copy FOLDER] [--small]

    KEEP: a folder for what the stages make; it has to be there again for them to go on
    DATA: a folder with CIFAR-100
    STAGE: tests, data, host, bench, cifar100, imagenet (default: all of them, in this order)
    --minutes: after so many, what is running is stopped where it can go on
    --copy: a folder for what is small: numbers and logs, without weights
    --small: every stage in miniature, also on a CPU

A stage that is done is left alone: its numbers are in KEEP/STAGE.json. `cifar100` goes on in its run, `bench` and
`host` with their next part; the others begin anew. The program ends with 1 if a stage failed, and with 75 if one has to
go on in another call.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))  # a bare checkout will do

Found = dict[str, Any]
LEAST = 20.0
"""Seconds under which nothing new is begun."""
PATIENCE = 60.0
"""Seconds for a run to save what it has."""
BEGUN = "call.txt"
"""Says in KEEP of which kind its stages are."""
GOES_ON = 75
"""How the program ends where a stage has to go on in another call (EX_TEMPFAIL)."""


class Unfinished(Exception):
    """Time is up; the stage goes on in the next call."""


class Failed(Exception):
    """A command of a stage failed."""


@dataclasses.dataclass(frozen=True)
class Call:
    """What one call of this program has.

    Attributes:
        keep, data: folders.
        device: "cuda", or "cpu" in miniature.
        until: when it has to stop, by `time.monotonic`.
        whole: seconds of the call.
        epochs: of the long training.
        small: whether everything is in miniature.
    """

    keep: Path
    data: str
    device: str
    until: float
    whole: float
    epochs: int
    small: bool

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    @property
    def environment(self) -> dict[str, str]:
        """Of commands: they find the package of this checkout, and what an earlier call has compiled."""
        paths = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        caches = {f"{name}_CACHE_DIR": str(self.keep / "compiled" / name) for name in ("TORCHINDUCTOR", "TRITON")}
        return {**caches, **os.environ, "PYTHONPATH": paths}

    def run(self, name: str, words: list[str], can_go_on: bool = False) -> None:
        """Run a Python command, with its output in KEEP/NAME.log.

        Args:
            can_go_on: whether it saves what it has when it is asked to stop, and goes on from there.

        Raises:
            Unfinished: there was too little time.
            Failed: it ended with an error.
        """
        if self.left < LEAST:
            raise Unfinished
        log = self.keep / f"{name}.log"
        with log.open("a") as file:
            print("$", *words, file=file, flush=True)
            given = self.left
            # In a group of its own, so that what it has started ends with it, and leaves the GPU to the next.
            where: Found = {"stdout": file, "stderr": file, "cwd": ROOT, "env": self.environment}
            process = subprocess.Popen([sys.executable, *words], start_new_session=True, **where)
            try:
                code = process.wait(given)
            except subprocess.TimeoutExpired:
                _end(process, patience=PATIENCE if can_go_on else 0)
                if not can_go_on and given > 0.8 * self.whole:
                    raise Failed(
                        f"{name} cannot go on from where it stops, and needs more than {given:.0f} s"
                    ) from None
                raise Unfinished from None
            except BaseException:  # Ctrl-C, or SIGTERM: what runs in a group of its own would live on
                _end(process, patience=PATIENCE if can_go_on else 0)
                raise
            finally:
                _end(process, patience=0)
        if code:
            raise Failed(f"{' '.join(words)} ended with {code}; the end of {log}:\n{log.read_text()[-2000:]}")

    def spikedistill(self, name: str, words: list[str], can_go_on: bool = False) -> None:
        self.run(name, ["-m", "spikedistill", *words], can_go_on)


def _end(process: subprocess.Popen, patience: float) -> None:
    """End a process and all that it has started; with patience it may first save what it has."""
    if patience and process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# ---------------------------------------------------------------- the stages


def tests(call: Call) -> Found:
    """The tests that need a GPU: kernels against float64, a step here and on the CPU, graphs, all kinds of data."""
    chosen = ["tests/test_step.py"] if call.small else WITH_A_GPU
    call.run("tests", ["-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", *chosen])
    return {"tests": (call.keep / "tests.log").read_text().strip().splitlines()[-1]}


WITH_A_GPU = [f"tests/test_{name}.py" for name in ("cuda", "kernels", "step", "compiled_step")]
"""Files with such tests; of the others' imports none is needed."""


def data(call: Call) -> Found:
    """Images a second from the memory of the device, with all of the paper's augmentation."""
    call.spikedistill("data", ["bench", "data", "cifar100-resnet18", "--device", call.device])
    lines = [line for line in (call.keep / "data.log").read_text().splitlines() if "samples/s" in line]
    return {line.split("  ")[1].strip(): line.split("samples/s")[0].split()[-1] for line in lines}


def host(call: Call) -> Found:
    """A step so small that nearly all of it is the host's work."""
    names = ["ann", "rate", "self-distillation"]
    sizes = ["--width", "16", "--batch", "2", "--size", "8", "--classes", "10", "--timesteps", "4"]
    sizes += ["--repeats", "3" if call.small else "50", "--subjects"]
    found = _bench(call, "host", [*sizes, *names])
    # each in a call of its own: compiling takes minutes
    for how in ("graph", "compiled") if call.device == "cuda" else ():
        found |= _bench(call, f"host-{how}", [*sizes, *(f"{name}-{how}" for name in names)])
    return found


def bench(call: Call) -> Found:
    """Steps of ResNet-18 beside SpikingJelly and snnTorch, at several T; each T is kept when it is done."""
    from spikedistill.bench.subjects import SUBJECTS

    sizes, groups = ["--batch", "128", "--width", "64", "--repeats", "20"], BENCHED
    if call.small:
        sizes, groups = ["--batch", "2", "--width", "2", "--size", "16", "--repeats", "1"], {"": ("ann", "rate")}
    missing = [name for names in groups.values() for name in names if not SUBJECTS[name].is_installed()]
    found: Found = {"not installed": missing} if missing else {}
    for timesteps in (2, 4) if call.small else (4, 2, 6, 8):
        for kind, names in groups.items():
            names = [name for name in names if name not in missing]
            words = ["--timesteps", str(timesteps), *sizes, "--subjects", *names]
            rows = _bench(call, f"bench-T{timesteps}{kind}", words) if names else {}
            # the subject that both have is measured in both
            found |= {f"{row}{kind}": numbers for row, numbers in rows.items()}
    return found


BENCHED = {
    "": ("self-distillation", "self-distillation-graph", "rate", "rate-graph", "bptt", "spikingjelly-best", "snntorch"),
    "-compiled": ("self-distillation-compiled", "rate", "spikingjelly-compiled"),
}
"""Subjects by the end of their folder's name. What is compiled as a whole takes minutes, and is measured apart, beside
one of the others."""


def _bench(call: Call, name: str, words: list[str]) -> Found:
    folder = call.keep / name
    if not (folder / "bench.png").exists():  # written last
        shutil.rmtree(folder, ignore_errors=True)
        call.spikedistill(name, ["bench", "--device", call.device, *words, "--out", str(folder)])
    rows = json.loads((folder / "bench.json").read_text())["rows"]
    shown = ("seconds", "fastest", "slowest", "images_per_second", "peak_bytes", "precision", "failure")
    return {f"{row['subject']}, T = {row['timesteps']}": {key: row[key] for key in shown if key in row} for row in rows}


def cifar100(call: Call) -> Found:
    """The paper's run on CIFAR-100, as graphs and in bf16; T = 4 first."""
    from spikedistill.training.checkpoints import has_begun

    found = {}
    for timesteps in (2,) if call.small else (4, 6):
        folder = call.keep / f"cifar100-T{timesteps}"
        words = ["cifar100-resnet18", "--data.root", call.data, "--optimizer.epochs", str(call.epochs)]
        words += ["--timesteps", str(timesteps), "--precision", "bf16"]
        if call.device == "cuda":
            words += ["--graphs", "true"]
        if call.small:
            words = ["fashion-small", "--model.width", "2", "--optimizer.epochs", "2"]
            words += ["--timesteps", "2", "--device", "cpu"]
        if not (folder / "result.json").exists():
            again = ["--resume", str(folder)] if has_begun(folder) else None
            words = again or [*words, "--out", str(folder)]
            call.spikedistill("cifar100", ["train", *words], can_go_on=True)
        result = json.loads((folder / "result.json").read_text())
        found[f"T = {timesteps}"] = result["test_accuracy"] | {"seconds": _seconds(folder)}
    return found


def imagenet(call: Call) -> Found:
    """Steps of PreAct-ResNet-34 on JPEG files as large as those of ImageNet, and what reading them costs."""
    folder, run = call.keep / "jpegs", call.keep / "imagenet"
    shutil.rmtree(run, ignore_errors=True)
    count, side = (16, 64) if call.small else (4096, 400)
    _make_jpegs(folder, count, side)
    words = ["train", "imagenet-preact34", "--data.name", "picture-folder", "--optimizer.epochs", "2"]
    words += ["--data.root", str(folder), "--device", call.device]
    if call.device == "cuda":
        words += ["--optimizer.batch_size", "256", "--data.workers", "16", "--precision", "bf16"]
    if call.small:
        words += ["--optimizer.batch_size", "8", "--data.size", "32", "--data.workers", "0"]
        words += ["--model.width", "2", "--timesteps", "2"]
    call.spikedistill("imagenet", [*words, "--out", str(run)])
    with (run / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]  # the first epoch also compiles
    return {"images/s": count / float(last["seconds"]), "images": count}


def _make_jpegs(folder: Path, count: int, side: int) -> None:
    """Smooth random pictures, which take as many bytes as photographs, in two classes; once."""
    from PIL import Image

    if (folder / "val").exists():
        return
    for part, number in (("train", count), ("val", 4)):
        for k in range(number):
            path = folder / part / str(k % 2) / f"{k}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = torch.randint(0, 256, (side // 4, side // 3, 3), dtype=torch.uint8).numpy()
            Image.fromarray(coarse).resize((side * 4 // 3, side)).save(path, quality=85)


def _seconds(folder: Path) -> float:
    """Of training."""
    with (folder / "metrics.csv").open() as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


STAGES: dict[str, Callable[[Call], Found]] = {
    each.__name__: each for each in (tests, data, host, bench, cifar100, imagenet)
}


# ---------------------------------------------------------------- the program


def run_stage(name: str, call: Call) -> str:
    """What came of it: "done", "goes on", or "failed"."""
    file = call.keep / f"{name}.json"
    if file.exists():
        return "done"
    try:
        found = STAGES[name](call)
    except Unfinished:
        return "goes on"
    except Failed as error:
        print(error, flush=True)
        return "failed"
    except Exception:  # of whatever kind: the other stages want their turn
        print(traceback.format_exc(), flush=True)
        return "failed"
    machine = torch.cuda.get_device_name() if call.device == "cuda" else "cpu"
    file.write_text(json.dumps({"machine": machine, "torch": torch.__version__, "found": found}, indent=2))
    print(name, json.dumps(found, indent=2), flush=True)
    return "done"


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keep", type=Path)
    parser.add_argument("data")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--copy", type=Path, default=None)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_intermixed_args(words)
    unknown = sorted(set(given.stages) - set(STAGES))
    if unknown:
        parser.error(f"there is no stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    if not (torch.cuda.is_available() or given.small):
        parser.error("there is no GPU here; --small runs every stage in miniature")
    device = "cuda" if torch.cuda.is_available() and not given.small else "cpu"
    given.keep = given.keep.resolve()  # commands run elsewhere
    given.keep.mkdir(parents=True, exist_ok=True)
    # What is done in miniature, or with other epochs, must not be taken for the whole.
    kind, begun = {"device": device, "small": given.small, "epochs": given.epochs}, given.keep / BEGUN
    if begun.is_file() and json.loads(begun.read_text()) != kind:
        parser.error(f"{given.keep} holds stages of another call ({begun.read_text()}); name another folder")
    begun.write_text(json.dumps(kind))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    whole = 60 * given.minutes
    until = time.monotonic() + whole
    place = str(Path(given.data).resolve()) if Path(given.data).exists() else given.data  # or "hub:NAME"
    call = Call(given.keep, place, device, until, whole, given.epochs, given.small)
    ended = {}
    for name in given.stages or STAGES:
        ended[name] = run_stage(name, call)
        print(f"{name}: {ended[name]}, {call.left:.0f} s left", flush=True)
    if given.copy is not None:
        given.copy.mkdir(parents=True, exist_ok=True)
        summary = {path.stem: json.loads(path.read_text()) for path in sorted(given.keep.glob("*.json"))}
        (given.copy / "gpu.json").write_text(json.dumps(summary, indent=2))
        logs = "".join(f"==== {log.name}\n{log.read_text()[-50_000:]}\n" for log in sorted(given.keep.glob("*.log")))
        (given.copy / "gpu.log").write_text(logs)
    return 1 if "failed" in ended.values() else GOES_ON if "goes on" in ended.values() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
