"""Classes belong to a detector, by name and order: label n means its n-th class, on whatever data."""

from __future__ import annotations

from collections.abc import Sequence

from robustdet.errors import InputError


def require_same_classes(
    theirs: Sequence[str] | None, ours: Sequence[str], whose: str, data: str, remedy: str | None = None
) -> None:
    """Raise InputError with both lists where a detector, ``whose``, has other classes than the data named ``data``.

    The same names in another order are refused as well: nothing here renumbers labels behind a user's back, and the
    message has the override that does, or ``remedy`` where the data know none. No ``theirs`` is a file that does not
    say which classes it knows.
    """
    if theirs is None or list(theirs) == list(ours):
        return
    if set(ours) <= set(theirs):
        ordered = f"'data.source.classes=[{','.join(theirs)}]'"
        way = remedy or f"{ordered} reads these data with the detector's labels"
    else:
        way = f"the detector does not know {', '.join(name for name in ours if name not in theirs)}"
    raise InputError(
        f"{whose} knows the classes {', '.join(theirs)}; the data {data} have {', '.join(ours)}: "
        f"they must be the same, in the same order; {way}"
    )
