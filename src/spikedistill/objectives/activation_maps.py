"""Saliency-scaled activation map distillation (SAMD) of CKDSNN (arXiv 2511.06902; method.md §4.4).

Where a trained network looks, in a map [H, W] for each sample: of the teacher its class activation map, of the spiking
network where it fires. Both are made probabilities over the positions, so that they can be compared though one is made
of activations and the other of spikes.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.core.output import Batch, Output
from spikedistill.errors import InvalidArgument
from spikedistill.objectives.objective import Needs, Terms
from spikedistill.objectives.taught import Taught, check_temperature, divergence
from spikedistill.tasks.classification import class_of


@dataclasses.dataclass(frozen=True)
class ActivationMapDistillation(Taught):
    """weight·τ²·KL(P_teacher ‖ P), P = softmax over the H·W positions of M/τ, the mean over the batch.

    M = T·Σ_c r_c of the network's firing rates r; of the teacher M = Σ_c w_c·f_c of its features f, where w_c is what
    the logit of a class gains from channel c.

    Args:
        temperature: τ.
        stage: whose rates: a submodule of the network, or "last" or "first" of its stages.
        teacher_stage: whose features, of the teacher (null: as `stage`).
        weights: w_c, "classifier": what pooling and a linear layer count the channel, by the gradient (equal to the
            classifier's weights where the head is such); "gradients": their mean over the positions (Grad-CAM), smaller
            by H·W.
        of: the class: the teacher's "top" one, or the "label".
        positive: whether what speaks against the class is left out (ReLU of the map).
        scaling: "softmax", as above; "norm" for the squared distance of maps of norm 1, which is the ablation.
        normalise: whether maps are first brought to 0..1: by "sample", by "batch" as in the published code (of the
            teacher), or "none". Maps as they are differ by tens between positions, and their loss can outweigh all
            others (docs/results.md, section 5).
        alike: whether the network's own map is normalised as the teacher's is, or taken as it is.

    Raises:
        InvalidArgument: no teacher, a temperature not above 0, `alike` without maps that are normalised, a temperature
            without softmax; when it is computed, features without positions.
    """

    temperature: float = 2.0
    stage: str = "last"
    teacher_stage: str | None = None
    weights: Literal["classifier", "gradients"] = "classifier"
    of: Literal["top", "label"] = "top"
    positive: bool = True
    scaling: Literal["softmax", "norm"] = "softmax"
    normalise: Literal["none", "sample", "batch"] = "sample"
    alike: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("temperature", self.temperature)
        if self.normalise == "none" and not self.alike:
            raise InvalidArgument("alike has no effect on maps that are not normalised; leave it out")
        if self.scaling == "norm" and self.temperature != ActivationMapDistillation.temperature:
            raise InvalidArgument("temperature has no effect with the scaling norm; leave it out")

    @property
    def _teacher_stage(self) -> str:
        return self.stage if self.teacher_stage is None else self.teacher_stage

    def needs(self) -> Needs:
        return Needs(
            features=(self.stage,),
            teachers=(self.teacher,),
            teacher_features=(self._teacher_stage,),
            teacher_gradients=True,
        )

    def __call__(self, output: Output, batch: Batch) -> Terms:
        rates = output.features[self.stage]
        _check_positions("network", self.stage, rates)
        map = (output.timesteps or 1) * rates.float().sum(1)
        target = self.teacher_map(batch)
        if target.shape != map.shape:  # a teacher of another resolution
            target = F.adaptive_avg_pool2d(target, (map.shape[1], map.shape[2]))
        target = _normalised(target, self.normalise)
        if self.alike:
            map = _normalised(map, self.normalise, SPIKE)
        target, map = target.flatten(1), map.flatten(1)
        if self.scaling == "softmax":
            tau = self.temperature
            loss = tau**2 * divergence(F.log_softmax(target / tau, dim=1), F.log_softmax(map / tau, dim=1))
        else:
            loss = (F.normalize(map, dim=1) - F.normalize(target, dim=1)).square().sum(1).mean()
        return Terms(self.weight * loss, {"activation_maps": loss.detach()})

    def teacher_map(self, batch: Batch) -> Tensor:
        """M [N, H, W] of the teacher as it is, without gradient."""
        answer = batch.teachers[self.teacher]
        features, logits = answer.features[self._teacher_stage], answer.logits
        _check_positions("teacher", self._teacher_stage, features)
        classes = logits.argmax(1) if self.of == "top" else class_of(batch.targets)
        map = class_activation_map(features, logits, classes, mean=self.weights == "gradients").float()
        return map.relu() if self.positive else map


def class_activation_map(features: Tensor, logits: Tensor, classes: Tensor, mean: bool = False) -> Tensor:
    """Σ_c w_c·f_c [N, H, W]: where features [N, C, H, W] speak for a class of each sample.

    Args:
        logits: [N, classes], computed from the features with gradient.
        classes: [N].
        mean: w_c is the mean of the gradient over the positions, and not its sum.
    """
    with torch.enable_grad():  # also where a validation loss is computed without
        chosen = logits.gather(1, classes.unsqueeze(1)).sum()
    # retained: two objectives may look at one teacher; it goes with the teacher's output
    (gradient,) = torch.autograd.grad(chosen, features, retain_graph=True)
    weights = gradient.mean((2, 3)) if mean else gradient.sum((2, 3))
    return torch.einsum("nc,nchw->nhw", weights, features.detach())


def _check_positions(whose: str, stage: str, features: Tensor) -> None:
    if features.dim() != 4:
        raise InvalidArgument(
            f"the {whose}'s {stage} gives {tuple(features.shape)}; an activation map needs [N, C, H, W]: name another "
            "stage"
        )


SPIKE = 1.0
"""Positions that differ by less than one spike have no map: a network that is silent shall not be blown up."""


def _normalised(map: Tensor, by: str, least: float = 1e-12) -> Tensor:
    """A map [N, H, W] from 0 to 1; where it spans less than `least`, to less than 1."""
    if by == "none":
        return map
    flat = map.flatten(1) if by == "sample" else map.reshape(1, -1)
    low, high = flat.amin(1), flat.amax(1)
    shape = (-1, 1, 1)
    return (map - low.view(shape)) / (high - low).clamp(min=least).view(shape)
