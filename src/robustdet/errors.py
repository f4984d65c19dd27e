"""What this project raises on purpose: errors whose text is the whole answer, printed by commands without traceback."""

from __future__ import annotations


class RobustdetError(Exception):
    """Something outside the code is not as it has to be; the message names it and says what was expected."""


class InputError(RobustdetError, ValueError):
    """A file, a record or a value that cannot be taken as it is."""


class MissingFileError(RobustdetError, FileNotFoundError):
    """A file or folder that has to be there."""


class NumericalError(RobustdetError, FloatingPointError):
    """A loss, a gradient or a prediction that is not finite."""
