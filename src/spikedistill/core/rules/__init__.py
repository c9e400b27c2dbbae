"""What torch functions do to signals: the one place where all rules are joined, the users' before ours.

    shapes    moving, pooling, padding        sums      + − and multiplication by constants
    products  of two signals (attention)      weighted  convolutions and linear layers
    norm      batch normalisation             learned   neurons whose decay or threshold is a parameter
    refused   what cannot be right, with what to do instead
`linear` and `stepwise` (common.py) are the two kinds of rule to register a function of one's own with.
"""

from collections import ChainMap
from collections.abc import Mapping

from spikedistill.core.dual import lif_rule
from spikedistill.core.lif import lif
from spikedistill.core.rules import learned, norm, refused, shapes, sums, weighted
from spikedistill.core.rules.common import linear, stepwise
from spikedistill.core.rules.products import matrix_product, product
from spikedistill.core.rules.weighted import convolution, fully_connected
from spikedistill.core.signal import Rule, TorchFunction
from spikedistill.errors import InvalidArgument

BUILT_IN: Mapping[TorchFunction, Rule] = {
    lif: lif_rule,  # a function of ours: a neuron is looked up as torch's functions are
    **learned.RULES,
    **refused.RULES,
    **shapes.RULES,
    **sums.RULES,
    **weighted.RULES,
    **norm.RULES,
}
_USERS: dict[TorchFunction, Rule] = {}
# A view of both tables, not a merged copy: what a user registers later counts for signals that are there already.
RULES: Mapping[TorchFunction, Rule] = ChainMap(_USERS, dict(BUILT_IN))
"""The rule of each torch function. A user's rule hides ours, whenever it was registered."""


def register_rule(function: TorchFunction, rule: Rule) -> None:
    """Teach signals a torch function, or any function that calls `torch.overrides.handle_torch_function`.

    Args:
        rule: called as rule(function, *args, **kwargs) with signals among the arguments; returns a signal.
            `linear` is for a function that is linear in the signal, `stepwise` for one that acts on every time step
            alone (its gradient is that of the operation on the rate).

    Raises:
        InvalidArgument: the rule is no function.
    """
    if not callable(rule):
        raise InvalidArgument(f"register_rule: the rule is {rule!r}; expected a function")
    _USERS[function] = rule


def forget_rule(function: TorchFunction) -> None:
    """Take back `register_rule`; what the package itself knows of the function counts again."""
    _USERS.pop(function, None)


__all__ = [
    "BUILT_IN",
    "RULES",
    "convolution",
    "forget_rule",
    "fully_connected",
    "linear",
    "matrix_product",
    "product",
    "register_rule",
    "stepwise",
]
