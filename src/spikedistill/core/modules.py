"""Looking into a network and replacing parts of it: the one way to do each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

Look = Callable[[str, nn.Module, Any], Any]
"""look(name, module, output), called after the module; an output is whatever the module returns. What it gives, if not
None, is handed on in the place of the output."""


@contextlib.contextmanager
def watching(modules: Mapping[str, nn.Module], look: Look) -> Iterator[None]:
    """Call `look(name, module, output)` after every call of the named modules, during the `with` block only.

    A module that is used more than once is looked at each time.
    """

    # A hook does not learn under which name it was registered, so each gets its own function. One that gives None
    # leaves the output as it is.
    def hook_for(name: str) -> Callable[[nn.Module, object, object], Any]:
        def hook(module: nn.Module, _inputs: object, output: object) -> Any:
            return look(name, module, output)

        return hook

    handles = [module.register_forward_hook(hook_for(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        # Also after an error: a hook that stayed would look at every later call, and keep alive what it wrote to.
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode during the `with` block; afterwards every submodule has the mode that it had."""
    # By submodule: users freeze parts of a network (batch norm in evaluation mode), and train() would thaw them.
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():  # some do more than keep it, as layers that merge their weights
            if type(part).train is not nn.Module.train:
                part.train(mode)
        for part, mode in modes.items():
            part.training = mode


def replace_modules(root: nn.Module, choose: Callable[[nn.Module], nn.Module | None]) -> int:
    """Replace submodules in place; `choose` gives the new module, or None to keep the old and look inside it.

    Returns:
        How many were replaced; a module that stands at several places counts at each.
    """
    count = 0
    # named_children gives a module that has two names only once: both places must be replaced
    for name, child in dict(root._modules).items():
        if child is None:
            continue
        new = choose(child)
        if new is None:  # what was replaced is not looked into, or a new module could be replaced again
            count += replace_modules(child, choose)
        else:
            setattr(root, name, new)
            count += 1
    return count
