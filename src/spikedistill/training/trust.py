"""What a recipe would import, and whether it may: importing runs code."""

from __future__ import annotations

from spikedistill.errors import InvalidArgument
from spikedistill.training.networks import is_function, is_imported
from spikedistill.training.recipe import Recipe

Trust = bool | str | frozenset[str]
"""Whether "package.module:function" may be imported, which runs its code: any, none, or what is so named."""


def check_trust(name: str, source: str, trust: Trust) -> None:
    """
    Args:
        name: of a model or a teacher.
        source: what names it.

    Raises:
        InvalidArgument: it would be imported, and is not trusted.
    """
    trusted = trust if isinstance(trust, frozenset) else {trust}
    if is_imported(name) and trust is not True and name not in trusted:
        raise InvalidArgument(
            f"{source} builds a network by {name!r}, which would be imported, and so run. If you know that code, say "
            "so: --trust (in Python trust=True)"
        )


def imports_of(recipe: Recipe) -> frozenset[str]:
    """What a recipe imports, as "package.module:function": its model, and teachers of its objectives."""
    teachers = [name for objective in recipe.objectives.values() for name in objective.needs().teachers]
    model = [recipe.model.name] if is_imported(recipe.model.name) else []
    return frozenset([*model, *filter(is_function, teachers)])
