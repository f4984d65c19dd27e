"""What an attack sees of its victim, said by a class attribute ``sees``; checks compare attacks by it.

``nothing``: the victim is not asked (noise, transfer); ``values``: its outputs; ``gradients``: white box, the default;
``discriminator``: white box, and it knows that the victim routes its images by a discriminator.
"""

from __future__ import annotations

from typing import Any

SIGHT = ("nothing", "values", "gradients", "discriminator")


def what_it_sees(attack: Any) -> str:
    """One of `SIGHT`; "nothing" for no attack (None). Raises ValueError for any other, naming the attack's class."""
    sees = "nothing" if attack is None else getattr(attack, "sees", "gradients")
    if sees not in SIGHT:
        raise ValueError(f"{type(attack).__name__}.sees is {sees!r}; expected one of {', '.join(SIGHT)}")
    return sees
