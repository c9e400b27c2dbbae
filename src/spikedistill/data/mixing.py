"""Mixing the samples of a batch, and their labels with them: mixup and CutMix as torchvision makes them."""

from __future__ import annotations

import torch

from spikedistill.core.output import Batch
from spikedistill.data.augmentation import MIXES, Augmentation
from spikedistill.errors import InvalidArgument
from spikedistill.tasks.classification import Labels
from spikedistill.tasks.task import Targets


def classes_to_mix(targets: Targets) -> int:
    """The number of classes.

    Raises:
        InvalidArgument: targets that are no class labels; those cannot be blended.
    """
    if not isinstance(targets, Labels):
        raise InvalidArgument(
            f"mixup and cutmix blend class labels; these samples have {type(targets).__name__}. Switch them off: "
            "--data.augmentation.mixup 0 --data.augmentation.cutmix 0"
        )
    return len(targets.names)


def mixed(batch: Batch, augmentation: Augmentation, classes: int, over_time: bool, generator: torch.Generator) -> Batch:
    """A batch in which each sample is mixed with its neighbour; the order of an epoch is random, so any is as good.

    Args:
        batch: its targets are class indices [N].
        over_time: whether inputs are [T, N, ...].

    Returns:
        Inputs of the same shape, and as targets the shares of the classes, float32 [N, classes].

    Raises:
        InvalidArgument: cutmix of samples without rows and columns.
    """
    from torchvision.transforms import v2

    wanted = [name for name in MIXES if getattr(augmentation, name)]
    name = wanted[int(torch.randint(len(wanted), (), generator=generator))]
    samples = batch.inputs.transpose(0, 1) if over_time else batch.inputs  # N in front
    has_area = samples.dim() - over_time == 4
    if name == "cutmix" and not has_area:
        raise InvalidArgument(
            f"cutmix pastes rectangles, and a sample here is {list(samples.shape[1:])}; take mixup, or switch it off: "
            "--data.augmentation.cutmix 0"
        )
    kind = v2.MixUp if name == "mixup" else v2.CutMix
    mix = kind(alpha=getattr(augmentation, name), num_classes=classes)
    # torchvision wants [N, C, H, W]: time goes to the channels, so that all steps of a sample are mixed alike
    images = samples.flatten(1, -3) if has_area else samples.flatten(1)[:, :, None, None]
    seed = int(torch.randint(2**62, (), generator=generator))
    # torchvision draws from torch's own generator, whose state belongs to the network that trains
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        images, targets = mix(images, batch.targets)
    finally:
        torch.default_generator.set_state(before)
    inputs = images.reshape(samples.shape)
    return Batch(inputs.transpose(0, 1).contiguous() if over_time else inputs, targets)
