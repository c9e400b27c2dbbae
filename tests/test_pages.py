"""The code of the pages is run from their own text."""

from __future__ import annotations

import re
import shlex
import sys
import types
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import spikedistill as sd
from spikedistill.cli import COMMANDS, main
from spikedistill.training import run as training
from spikedistill.training.recipe_files import load_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
TABLES = (sd.OBJECTIVES, sd.TASKS, sd.LEARNING_RULES, sd.MODELS, sd.DATASETS)


def python_of(page: str) -> str:
    """The Python blocks of a page, one after the other, at the lines where they stand."""
    text, lines = (ROOT / page).read_text(), []
    inside = False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            lines.append("")
        else:
            lines.append(line if inside else "")
    return "\n".join(lines)


@pytest.fixture
def restored():
    """What a page adds to the tables is taken out again."""
    before = [dict(table) for table in TABLES]
    yield
    for table, rows in zip(TABLES, before, strict=True):
        table.clear()
        table.update(rows)


def run_page(page: str) -> dict:
    """Run it as a module of its own, as a reader's file would be."""
    module = types.ModuleType("page")
    sys.modules["page"] = module  # where dataclasses look for their annotations
    exec(compile(python_of(page), str(ROOT / page), "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def test_extending(restored, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_page("docs/extending.md")
    shown = capsys.readouterr().out
    assert "train_within" in shown  # the columns of the page's own task
    answer = sd.Trained.load("runs/brightness").task.answer([0.5], {"unit": "x"})
    assert answer == "0.50, as a x"


def blocks_of(page: str) -> list[tuple[str, str]]:
    """The blocks of a page in their order, each with its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)


@pytest.fixture
def stopped_at_first(monkeypatch):
    """Each training that starts anew is stopped after its second step, as by Ctrl-C; those that go on are not."""
    steps, stopped = Counter(), []

    def on_step(self, progress, count):
        folder = self.watcher.metrics.path.parent.name
        steps[folder] += 1
        if steps[folder] == 2:
            stopped.append(folder)
            raise sd.Interrupted("stopped")

    monkeypatch.setattr(training.Stoppable, "on_step", on_step)
    return stopped


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore")
def test_your_own(tmp_path, monkeypatch, capsys, stopped_at_first):
    """Each network of the page is trained, stopped, resumed, evaluated, predicted and loaded again."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (28, 28), 90).save("picture.png")
    names = types.ModuleType("page").__dict__
    ran = Counter()
    for language, text in blocks_of("docs/your-own.md"):
        if text.startswith("# my_nets.py"):
            with Path("my_nets.py").open("a") as file:
                file.write(text)
        elif language == "python":
            exec("import spikedistill as sd\n" + text, names)
        else:
            for words in (line.split()[1:] for line in text.splitlines()):
                starts = words[0] == "train" and "--resume" not in words
                assert main(words) == (130 if starts else 0), words
                ran[words[0]] += 1
        sys.modules.pop("my_nets", None)
    assert ran == {"train": 4, "evaluate": 2, "predict": 2}
    assert stopped_at_first == ["small", "resnet26d", "waves"]
    assert names["logits"].shape == (2, 10)
    assert names["found"].score[4] > 0.6  # of three frequencies
    assert names["trained"](names["one"]).shape == (1, 3)
    assert "kernels" in str(names["tuning"])
    assert sd.load("runs/resnet26d", trust=True)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    sys.modules.pop("my_nets", None)


TINY = ["--data.train_rows=260", "--data.test_rows=40", "--data.validation_rows=0", "--model.width=2", "--timesteps=2"]
TINY += ["--optimizer.batch_size=64", "--precision=fp32", "--compile=off"]


@pytest.mark.whole
def test_teachers(tmp_path, monkeypatch, capsys):
    """The commands of the page, with little data and small networks."""
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line) for _, text in blocks_of("docs/teachers.md") for line in text.splitlines()]
    for words in (line[1:] for line in lines):
        words = ["20" if word == "1000" else word for word in words]  # samples that are looked at
        epochs = [] if "--optimizer.epochs" in words else ["--optimizer.epochs=1"]
        # the twin has no T, and no branches where the rest has none
        tiny = [word for word in TINY if not ("ann" in words and "timesteps" in word)]
        assert main([*words, *(tiny + epochs if words[0] == "train" else [])]) == 0, words
    assert len(lines) == 12
    assert (tmp_path / "spikes.png").stat().st_size > 5000
    assert "spikes per sample" in capsys.readouterr().out


def rows_of(page: str) -> list[list[str]]:
    """The rows of the tables of a page with four columns, without heads and rules."""
    lines = (ROOT / page).read_text().splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("| ") and not line.startswith("| there")]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", rows_of("docs/coming-from.md"), ids=lambda row: row[0].strip("`"))
def test_coming_from(row):
    """What the page says to type here works, or says what it says."""
    import timm

    trained = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    trained(torch.rand(2, 3, 8, 8))
    net = sd.create_model("resnet18", num_classes=10, width=2)
    names = {"sd": sd, "torch": torch, "nn": nn, "timm": timm, "net": net, "trained_ann": trained, "model": trained}
    names |= {"learner": sd.SelfDistillation(net, timesteps=4), "images": torch.rand(2, 3, 8, 8)}
    names |= {"frames": torch.rand(4, 2, 3, 8, 8), "labels": torch.tensor([1, 2])}
    _, _, here, gives = row
    if gives.startswith("error: "):
        with pytest.raises(sd.SpikedistillError, match=re.escape(gives.removeprefix("error: "))):
            eval(here.strip("`"), names)
        return
    found = eval(here.strip("`"), names)
    if here.endswith("timesteps=4).logits`"):
        assert found.shape == (2, 10)


def test_coming_from_has_twenty_lines_and_says_what_the_spikes_are():
    assert len(rows_of("docs/coming-from.md")) >= 20
    net, images = sd.create_model("resnet18", num_classes=10, width=2).eval(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(net(images, timesteps=4).logits, net(images, timesteps=4).logits)
    with pytest.raises(sd.SpikedistillError, match="say how many time steps"):
        net(images)
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    currents = 1.5 * torch.rand(4, 5)
    for reset, options in (("hard", {}), ("soft", {"v_reset": None})):
        theirs = neuron.LIFNode(tau=2.0, decay_input=False, step_mode="m", **options)(currents.expand(4, 4, 5))
        ours = sd.LIF(neuron=sd.Neuron.from_tau(2.0, reset=reset))(sd.BPTT(4).encode(currents))
        assert torch.equal(theirs, ours.values.view(4, 4, 5))


@pytest.mark.filterwarnings("ignore")
def test_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run_page("README.md")
    assert names["output"].logits.shape == (8, 10)
    assert set(names["accuracy"]) == {1, 2, 4}
    assert names["found"].samples == 8
    assert Path("runs/mine/model.safetensors").is_file()


def test_the_recipe_in_readme_is_one():
    text = (ROOT / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    recipe = parse_recipe(text, [], "README.md")
    assert (recipe.rule, recipe.model.options["width"]) == (sd.Rate(4), 32)


def test_the_commands_are_all_in_readme():
    text = (ROOT / "README.md").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("spikedistill ")]
    assert {words[1] for words in lines} == set(COMMANDS)


def trainings() -> list[str]:
    """Every command of the pages that trains by a recipe of ours, once."""
    found = []
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text().replace("\\\n", " ")
        lines = re.findall(r"^ *(?:[A-Z_]+=\w+ )*spikedistill (train.*)", text, re.M)
        found += [*lines, *re.findall(r"`spikedistill (train[^`]*)`", text)]
    recipes = [re.sub(r"--out \S+|--seeds( \d+)+|#.*", "", line) for line in found if "my_" not in line]
    return sorted({line.replace("--seed S", "--seed 0").rstrip() for line in recipes if "--resume" not in line})


def test_the_trainings_of_the_pages_have_recipes():
    """Known recipes and fields, and settings that the data know."""
    for line in trainings():
        words = shlex.split(line)[1:] or ["fashion-small"]
        assert load_recipe(words[0], words[1:]), line
    assert len(trainings()) > 50


def test_a_page_that_does_not_work_fails(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nassert False, 'here'\n```\n")
    monkeypatch.setattr("test_pages.ROOT", tmp_path)
    with pytest.raises(AssertionError, match="here"):
        run_page("page.md")


def test_links_between_pages_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())]
    local = [(page, link) for page, link in links if "://" not in link]
    assert len(local) > 5
    assert [link for page, link in local if not (page.parent / link).exists()] == []
