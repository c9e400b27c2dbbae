"""Inputs that are no pictures: features and sequences, with time and without; what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

import spikedistill as sd
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.batches import generator_for
from spikedistill.training.build import make_network

T, N = 4, 3


def features_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), sd.LIF(), nn.Linear(16, 5)).double()


def sequence_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv1d(2, 8, 3, padding=1), nn.BatchNorm1d(8), sd.LIF()),
        nn.Sequential(nn.Conv1d(8, 12, 3, stride=2, padding=1), nn.BatchNorm1d(12), sd.LIF()),
        nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 5)),
    ).double()


KINDS = {
    "features [N, F]": (features_net, (6,), 1),
    "sequences [N, C, L]": (sequence_net, (2, 10), 2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", [sd.Rate(T), sd.BPTT(T)], ids=["rate", "bptt"])
def test_an_input_at_every_step_is_the_same_as_one_that_does_not_change(kind, rule):
    """Logits and gradients of [N, ...] and of the same input T times, [T, N, ...], in float64."""
    make, shape, dims = KINDS[kind]
    inputs, labels = torch.randn(N, *shape, dtype=torch.float64), torch.tensor([0, 3, 4])
    found = []
    for given in (inputs, inputs.expand(T, *inputs.shape)):
        body = make()
        learner = sd.SelfDistillation(sd.Network(body, sample_dims=dims), rule, branches=())
        output = learner(given)
        assert output.logits.shape == (N, 5)
        learner.loss(output, labels).total.backward()
        found.append((output.logits, [p.grad for p in body.parameters()]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-12)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_that_differ_are_run_one_after_the_other(kind):
    """The spiking network against a loop over time that is written out here."""
    make, shape, dims = KINDS[kind]
    body = make().eval()
    inputs = torch.randn(T, N, *shape, dtype=torch.float64)
    with torch.no_grad():
        found = sd.Network(body, sample_dims=dims)(inputs, timesteps=T).logits
        membranes, total = {}, 0
        for t in range(T):
            x = inputs[t]
            for name, module in body.named_modules():
                if isinstance(module, sd.LIF):
                    v = module.neuron.decay * membranes.get(name, torch.zeros_like(x)) + x
                    spikes = (v >= module.neuron.threshold).double()
                    membranes[name], x = v - module.neuron.threshold * spikes, spikes
                elif not isinstance(module, nn.Sequential):
                    x = module(x)
            total = total + x
    assert torch.allclose(found, total / T, atol=1e-12)


def test_the_first_layer_says_what_a_sample_is_and_a_linear_one_says_nothing():
    assert sd.Network(sequence_net()).sample_dims == 2
    assert sd.create_model("resnet18", 10, width=4).sample_dims == 3
    assert sd.Network(nn.Sequential(nn.Conv3d(1, 2, 3), sd.LIF())).sample_dims == 4
    assert sd.Network(features_net()).sample_dims is None
    assert sd.Network(features_net(), sample_dims=1).sample_dims == 1


def test_features_and_pictures_of_a_linear_network_need_no_word():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), sd.LIF(), nn.Linear(8, 5))
    net = sd.Network(flat)
    assert net(torch.randn(N, 16), timesteps=T).logits.shape == (N, 5)
    assert net(torch.randn(N, 1, 4, 4), timesteps=T).logits.shape == (N, 5)
    assert net(torch.randn(T, N, 1, 4, 4), timesteps=T).logits.shape == (N, 5)


def test_a_doubtful_shape_is_refused_until_somebody_says_what_it_is():
    body, inputs = features_net(), torch.randn(T, N, 6, dtype=torch.float64)
    with pytest.raises(sd.SpikedistillError, match=r"4 time steps of 3 samples, or 4 samples of 3 × 6 numbers"):
        sd.SelfDistillation(body, timesteps=T, branches=())(inputs)
    assert sd.Network(body, sample_dims=1).eval()(inputs, timesteps=T).logits.shape == (N, 5)
    tokens = nn.Sequential(nn.Linear(6, 8), sd.LIF(), nn.Linear(8, 5)).double()
    assert sd.Network(tokens, sample_dims=2)(inputs, timesteps=T).logits.shape == (T, N, 5)


@pytest.mark.parametrize(
    ("net", "shape", "timesteps", "message"),
    [
        (
            sequence_net,
            (N, 2),
            T,
            r"takes samples \[C, L\], as \[N, ...\] or with time as \[T, N, ...\]; given \(3, 2\)",
        ),
        (sequence_net, (T + 1, N, 2, 10), T, "have 5 steps but timesteps=4"),
        (features_net, (6,), T, r"inputs must be \[N, ...\] or \[T, N, ...\]"),
    ],
)
def test_other_shapes_are_refused(net, shape, timesteps, message):
    with pytest.raises(sd.SpikedistillError, match=message):
        sd.Network(net())(torch.randn(*shape, dtype=torch.float64), timesteps=timesteps)


def test_branches_stand_on_sequences_too():
    learner = sd.SelfDistillation(sd.Network(sequence_net(), stages=["0", "1"]), timesteps=T)
    output = learner(torch.randn(N, 2, 10, dtype=torch.float64))
    assert output.branches["0"].shape == (N, 5)
    learner.loss(output, torch.tensor([0, 1, 2])).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.branches.parameters() if p.dim() > 1)


class Tokens(nn.Module):
    """A picture's network whose middle gives tokens [N, L, C]."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(1, 8, 4, 4), nn.BatchNorm2d(8), sd.LIF())
        self.mix = nn.Sequential(nn.Linear(8, 8), sd.LIF())
        self.more = nn.Sequential(nn.Linear(8, 8), sd.LIF())
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.more(self.mix(self.patches(x).flatten(2).transpose(1, 2))).mean(1))


def test_branches_on_tokens_are_refused_with_their_shape():
    net = sd.Network(Tokens(), stages=["mix", "more"])
    with pytest.raises(sd.SpikedistillError, match=r"stage mix gives \(1, 64, 8\).*branches=\(\)"):
        sd.SelfDistillation(net, timesteps=T)


# ---------------------------------------------------------------- samples


def tensors(count=20, shape=(2, 10), over_time=False):
    torch.manual_seed(1)
    return sd.TensorSet(torch.randn(count, *shape), sd.Labels(torch.arange(count) % 5, tuple("abcde")), over_time)


def test_a_tensor_set_hands_out_samples_with_time_in_front():
    plain, timed = tensors(), tensors(shape=(T, 2, 10), over_time=True)
    index = torch.tensor([3, 1])
    assert torch.equal(plain.batch(index).inputs, plain.values[index])
    assert torch.equal(timed.batch(index).inputs, timed.values[index].transpose(0, 1))
    assert len(timed.batch(index)) == 2
    assert timed.description() == {"kind": "tensor", "shape": [2, 10], "timesteps": T}


def test_pictures_of_floats_are_changed_as_those_in_memory_are():
    torch.manual_seed(0)
    pixels, labels = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8), sd.Labels(torch.zeros(8).long(), ("a",))
    change, index = Augmentation(crop=2, flip=True, cutout=3), torch.arange(8)
    whole = sd.ImageSet(pixels, labels, (0.0,), (1.0,))  # black is 0 in both
    floats = sd.TensorSet(pixels.float() / 255, labels)
    batches = [s.finish(s.read_changed(index, index, change, generator_for(5))).inputs for s in (whole, floats)]
    assert torch.equal(batches[0], batches[1])


class Pairs(list):
    """A list of (input, label) as a dataset."""


def test_samples_of_any_dataset():
    from PIL import Image

    gray = [(Image.new("L", (4, 6), 10 * k), k % 2) for k in range(5)]
    pictures = sd.samples_of(Pairs(gray), ("even", "odd"))
    assert isinstance(pictures, sd.ImageSet)
    assert pictures.images.shape == (5, 1, 6, 4)
    assert pictures.mean == pytest.approx((20 / 255,))
    assert pictures.targets.batch(torch.arange(5)).tolist() == [0, 1, 0, 1, 0]
    test = sd.samples_of(Pairs([(torch.zeros(3, 4, 4, dtype=torch.uint8), 1)]), ("even", "odd"))
    like = sd.samples_of(Pairs([(torch.zeros(1, 4, 4, dtype=torch.uint8), 1)]), ("even", "odd"), like=pictures)
    assert test.images.shape == (1, 3, 4, 4)
    assert (like.mean, like.std) == (pictures.mean, pictures.std)
    floats = sd.samples_of(Pairs([(np.ones((T, 7), np.float32), 0)] * 3), ("a",), over_time=True)
    assert isinstance(floats, sd.TensorSet)
    assert floats.batch(torch.arange(3)).inputs.shape == (T, 3, 7)


def test_pillow_pictures_are_read_as_files_are():
    """Of 16 bits to 8, and a palette as the colours that it stands for."""
    from PIL import Image

    deep = Image.fromarray(np.array([[0, 257 * 7], [65535, 257 * 200]], np.uint16))
    assert sd.samples_of([(deep, 0)], ("a",)).images.flatten().tolist() == [0, 7, 255, 200]
    palette = Image.new("RGB", (2, 2), (10, 200, 30)).convert("P")
    assert sd.samples_of([(palette, 0)], ("a",)).images.shape == (1, 3, 2, 2)
    with pytest.raises(sd.SpikedistillError, match="item 0: its pixels are numbers of 32 bits"):
        sd.samples_of([(Image.new("F", (2, 2)), 0)], ("a",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.TensorSet(torch.zeros(2, 3, dtype=torch.uint8), None), "must be a tensor of floats"),
        (lambda: sd.TensorSet(torch.zeros(3), None), "at least one number for each sample"),
        (
            lambda: sd.TensorSet(torch.zeros(2, 3), sd.Labels(torch.zeros(3).long(), ("a",))),
            "2 samples, but targets of 3",
        ),
        (
            lambda: sd.TensorSet(torch.tensor([[0.0], [float("nan")]]), sd.Labels(torch.zeros(2).long(), ("a",))),
            r"1 samples are not finite .*: \[1\]",
        ),
        (lambda: sd.samples_of(Pairs(), ("a",)), "the dataset is empty"),
        (lambda: sd.samples_of(Pairs([torch.zeros(3)]), ("a",)), r"item 0 is a Tensor; expected a pair"),
        (lambda: sd.samples_of(Pairs([(torch.zeros(3).long(), 0)]), ("a",)), "expected uint8 pictures, or floats"),
        (
            lambda: sd.samples_of(Pairs([(torch.zeros(3), 0), (torch.zeros(4), 0)]), ("a",)),
            r"item 1 is .* \[4\], item 0",
        ),
        (lambda: sd.samples_of(Pairs([(torch.zeros(3), 2)]), ("a",)), "item 0 has label 2, but there are 1 classes"),
        (
            lambda: sd.samples_of(Pairs([(torch.zeros(8, 8, 3, dtype=torch.uint8), 0)]), ("a",)),
            r"uint8 \[8, 8, 3\]; expected a picture \[C, H, W\]",
        ),
    ],
)
def test_bad_samples_are_refused(make, message):
    with pytest.raises(sd.SpikedistillError, match=message):
        make()


def test_random_changes_of_pictures_are_refused_for_other_samples():
    index = torch.arange(4)
    with pytest.raises(sd.SpikedistillError, match="augmentation.crop has no effect on samples that are no pictures"):
        tensors().read_changed(index, index, Augmentation(), generator_for(0))


WORDS = ["--optimizer.epochs", "2", "--optimizer.batch_size", "8", "--data.augmentation.crop", "0"]
WORDS += ["--data.augmentation.flip", "false"]


@pytest.mark.parametrize("over_time", [False, True])
def test_the_trainer_takes_sequences_and_predicts_from_numbers(tmp_path, over_time, capsys):
    shape = (T, 2, 10) if over_time else (2, 10)
    data, test = tensors(24, shape, over_time), tensors(10, shape, over_time)
    net = sd.Network(sequence_net().float(), stages=["0", "1"])
    recipe = sd.load_recipe("fashion-small", [*WORDS, "--optimizer.accumulate", "2"])
    found = sd.train(recipe, tmp_path / "run", network=net, data=sd.Splits(data, None, test))
    assert found.samples == 10
    again = sequence_net().float()
    trained = sd.Trained.load(tmp_path / "run", network=again)
    shared = {p.data_ptr() for p in again.parameters()} & {p.data_ptr() for p in trained.network.parameters()}
    assert not shared  # nor would two runs share them
    np.save(tmp_path / "one.npy", test.values[0].numpy())
    with torch.no_grad():
        expected = trained.network(test.batch(torch.tensor([0])).inputs, timesteps=T).logits
        assert torch.equal(trained.network(trained.prepared(tmp_path / "one.npy"), timesteps=T).logits, expected)
    assert "%" in trained.answer(tmp_path / "one.npy")
    np.save(tmp_path / "short.npy", np.zeros(3))
    with pytest.raises(sd.SpikedistillError, match=r"holds \[3\]; the network was trained on"):
        trained.prepared(tmp_path / "short.npy")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(sd.SpikedistillError, match="is not a readable .npy file"):
        trained.prepared(tmp_path / "objects.npy")


def test_the_trainer_tells_a_linear_network_what_a_sample_is_and_refuses_another(tmp_path):
    timed = tensors(16, (T, 6), over_time=True)
    splits = sd.Splits(timed, None, timed)
    recipe = sd.load_recipe("fashion-small", [*WORDS, "--branches.enabled", "false"])
    sd.train(recipe, tmp_path / "run", network=features_net().float(), data=splits)
    with pytest.raises(sd.SpikedistillError, match="takes samples of 2 dimensions, the data have 1"):
        sd.train(recipe, tmp_path / "other", network=sequence_net().float(), data=splits)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["vgg11", "speednet"])
def test_pictures_that_a_network_halves_to_nothing_are_refused_by_their_size(name):
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), sd.Labels(torch.arange(4), tuple("abcd"))
    samples = sd.ImageSet(images, labels, (0.0,) * 3, (1.0,) * 3)
    recipe = sd.load_recipe("cifar10-foundation", ["--model", name])
    with pytest.raises(ValueError, match=r"cannot take a sample of shape \(3, 8, 8\)"):
        make_network(recipe, samples)
