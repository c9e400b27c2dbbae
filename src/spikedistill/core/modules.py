"""Looking into a network and replacing parts of it: the one way to do each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn


@contextlib.contextmanager
def watching(modules: Mapping[str, nn.Module], look: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """Call `look(name, module, output)` after every call of the named modules, during the `with` block only.

    A module that is used more than once is looked at each time. What is returned is not changed.
    """

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            look(name, module, output)

        return hook

    handles = [module.register_forward_hook(hook_for(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode during the `with` block; afterwards every submodule has the mode that it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def replace_modules(root: nn.Module, choose: Callable[[nn.Module], nn.Module | None]) -> int:
    """Replace submodules in place; `choose` gives the new module, or None to keep the old and look inside it.

    Returns:
        How many were replaced; a module that stands at several places counts at each.
    """
    count = 0
    for name, child in root.named_children():
        new = choose(child)
        if new is None:
            count += replace_modules(child, choose)
        else:
            setattr(root, name, new)
            count += 1
    return count
