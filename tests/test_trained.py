"""A finished network by itself: loading, answering, the hub, and what it takes for what."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.tasks.classification import Confusion
from spikedistill.training.hub import model_card

WORDS = ["--model.width", "2", "--optimizer.epochs", "1", "--data.train_rows", "96", "--data.validation_rows", "0"]
WORDS += ["--data.test_rows", "40", "--optimizer.batch_size", "32", "--precision", "fp32", "--compile", "off"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    sd.train(sd.load_recipe("fashion-small", ["--model.neuron.decay", "0.3", *WORDS]), folder)
    return folder


def test_a_folder_carries_everything_that_using_it_takes(run):
    trained = sd.load(run)
    neuron = next(m.neuron for m in trained.network.modules() if isinstance(m, sd.LIF))
    assert neuron.decay == 0.3
    assert trained.timesteps == 4
    assert trained.config["targets"]["classes"][0] == "T-shirt"
    assert trained.config["input"]["mean"]
    images = torch.randn(3, 1, 28, 28)
    logits = trained(images)
    assert logits.shape == (3, 10)
    assert not logits.requires_grad
    assert torch.equal(logits, trained.network(images, timesteps=4).logits)


def test_a_network_goes_into_a_folder_and_comes_back(run, tmp_path):
    trained, images = sd.load(run), torch.randn(2, 1, 28, 28)
    trained.save_pretrained(tmp_path / "mine")
    assert {file.name for file in (tmp_path / "mine").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "T = 4" in card
    assert 'sd.load("hub:USER/NAME")  # or' in card
    assert "picture.png" in card
    assert torch.equal(sd.Trained.from_pretrained(tmp_path / "mine")(images), trained(images))
    with pytest.raises(sd.SpikedistillError, match="exists already; name another folder"):
        trained.save_pretrained(tmp_path / "mine")


def test_the_card_of_a_network_says_how_that_one_is_used():
    config = {"precision": "fp32", "timesteps": None, "targets": {}}
    events = model_card(config | {"model": {"name": "given"}, "input": {"kind": "events"}}, 3)
    assert 'sd.load("hub:USER/NAME", network=net)' in events
    assert 'trained.answer("recording.bin")' in events
    own = model_card(config | {"model": {"name": "mine:net"}, "input": {"kind": "tensor"}}, 3)
    assert 'sd.load("hub:USER/NAME", trust=True)' in own
    assert 'trained.answer("values.npy")' in own


class Hub:
    """Stands for the hub, up to the network: what is uploaded is there to be fetched."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []

    def create_repo(self, name, private, exist_ok):
        self.asked.append(("create", name, private))

    def upload_folder(self, repo_id, folder_path):
        (self.folder / repo_id).parent.mkdir(parents=True)
        Path(folder_path).rename(self.folder / repo_id)
        return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(self, name, revision, token, allow_patterns):
        self.asked.append(("fetch", name, revision, allow_patterns))
        if not (self.folder / name).is_dir():
            raise OSError("404: Repository Not Found")
        return str(self.folder / name)


def test_a_network_goes_to_the_hub_and_comes_back(run, tmp_path, monkeypatch):
    import huggingface_hub

    hub, trained = Hub(tmp_path), sd.load(run)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    assert trained.push_to_hub("me/net", private=True) == "https://hub/me/net/commit/1"
    images = torch.randn(2, 1, 28, 28)
    for loaded in (sd.load("hub:me/net", revision="v1"), sd.Trained.from_pretrained("me/net")):
        assert torch.equal(loaded(images), trained(images))
    assert hub.asked[:2] == [
        ("create", "me/net", True),
        ("fetch", "me/net", "v1", ["config.json", "model.safetensors"]),
    ]
    with pytest.raises(sd.SpikedistillError, match="the hub does not give 'me/other': 404: Repository Not Found"):
        sd.load("hub:me/other")


def test_a_stranger_on_the_hub_runs_no_code(run, tmp_path, monkeypatch):
    import huggingface_hub

    hub = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    sd.load(run).save_pretrained(tmp_path / "me" / "net")
    config = json.loads((tmp_path / "me" / "net" / "config.json").read_text())
    config["model"] = {"name": "harm:build"}
    (tmp_path / "me" / "net" / "config.json").write_text(json.dumps(config))
    with pytest.raises(sd.SpikedistillError, match="would be imported, and so run"):
        sd.load("hub:me/net")


def test_one_bad_file_leaves_the_answers_to_the_others(run, tmp_path, capsys):
    Image.new("L", (28, 28), 90).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no picture")
    assert main(["predict", str(run), str(tmp_path / "bad.png"), str(tmp_path / "good.png")]) == 1
    out, err = capsys.readouterr()
    assert "good.png: " in out
    assert "bad.png is not a readable picture" in err


def test_a_folder_that_is_none_is_not_looked_for_elsewhere(tmp_path):
    with pytest.raises(sd.SpikedistillError, match="there is no .*nothing/here"):
        sd.load(tmp_path / "nothing" / "here")


# ---------------------------------------------------------------- what is taken for what


def test_a_run_answers_in_the_precision_in_which_it_was_scored(run):
    trained, images = sd.load(run), torch.randn(3, 1, 28, 28)
    exact = trained(images)
    trained.config["precision"] = "bf16"
    rounded = trained(images)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rounded, trained.network(images, timesteps=4).logits.float())
    seen = []
    trained.network.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    samples = sd.samples_of([(torch.zeros(1, 28, 28), 0)], trained.config["targets"]["classes"])
    trained.config["input"] = samples.description()
    with torch.no_grad():
        trained.network.body.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
        trained.evaluate(samples)
    assert seen
    assert all(seen)


def confusion(answers, labels, classes=3):
    found = Confusion(tuple("abcdefghijklmnopqrstuvwxyz"[:classes]))
    logits = torch.nn.functional.one_hot(torch.tensor(answers), classes).float()
    found.add(logits, torch.tensor(labels))
    return found


def test_counts_by_class_add_up():
    found = confusion([0, 1, 1, 2, 0], [0, 0, 1, 2, 0])
    assert found.counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 1]]
    found.add_state(confusion([2], [1]).state())
    assert found.counts.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    lines = found.lines()
    assert lines[1].split() == ["a", "3", "66.7%", "b", "33.3%"]
    assert lines[3].split() == ["c", "1", "100.0%"]


def test_of_many_classes_the_worst_are_shown():
    answers = [(k + 1) % 26 if k == 20 else k for k in range(26)]
    lines = confusion(answers, list(range(26)), classes=26).lines()
    assert "the 20 worst" in lines[0]
    assert lines[1].split() == ["u", "1", "0.0%", "v", "100.0%"]
    assert len(lines) == 21


def test_of_many_classes_those_without_samples_take_no_place():
    lines = confusion([1, 2], [0, 1], classes=26).lines()
    assert [line.split()[0] for line in lines[1:]] == ["a", "b"]


def test_evaluate_shows_accuracy_by_class_and_draws_it(run, tmp_path, capsys):
    picture = tmp_path / "classes.png"
    assert main(["evaluate", str(run), "--timesteps", "4", "1", "--figure", str(picture)]) == 0
    shown = capsys.readouterr().out
    table = [line for line in shown.splitlines() if line.startswith("  Sneaker")]
    assert len(table) == 1
    assert picture.stat().st_size > 5000
    batch = (torch.randn(5, 1, 28, 28), torch.arange(5))
    found = sd.evaluate(sd.load(run).network, [batch], [4, 1], inspect=lambda: Confusion(tuple("abcdefghij")))
    assert found.inspector.counts.sum() == 5
    assert found.inspector.counts.diag().sum() / 5 == found.score[4]
    assert main(["evaluate", str(run), "--figure", str(tmp_path / "classes.xyz")]) == 1
    assert "--figure takes a .png" in capsys.readouterr().err


class OverTime(torch.nn.Module):
    """Answers class 0 in the first step and class 1 in the later ones: neuron 0 fires once, neuron 1 is slow."""

    def __init__(self):
        super().__init__()
        self.neuron, self.head = sd.LIF(decay=1.0), torch.nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.tensor([[0.6, 0.0], [0.0, 1.0]])

    def forward(self, x):
        return self.head(self.neuron(x))


def test_what_is_taken_for_what_is_that_of_the_largest_number_of_steps():
    frames = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]).unsqueeze(1)  # [T, 1, 2]
    net = sd.Network(OverTime(), sample_dims=1)
    batch = (frames, torch.tensor([1]))
    found = sd.evaluate(net, [batch], [4, 1], inspect=lambda: Confusion(("early", "late")))
    assert found.score == {1: 0.0, 4: 1.0}
    assert found.inspector.counts.tolist() == [[0, 0], [0, 1]]
