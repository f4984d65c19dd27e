"""What this project raises on purpose: errors whose text is the whole answer, printed by commands without traceback.

Each is also what Python calls such an error, for those who catch that.
"""

from __future__ import annotations


class RobustdetError(Exception):
    """Something outside the code is not as it has to be; the message names it and says what was expected."""


class InputError(RobustdetError, ValueError):
    """A file, a record or a value that cannot be taken as it is."""


class KindError(RobustdetError, TypeError):
    """A thing that is of another kind than what is needed there: no attack, no detector."""


class MissingFileError(RobustdetError, FileNotFoundError):
    """A file or folder that has to be there."""


class OccupiedError(RobustdetError, FileExistsError):
    """A folder that holds something else already, which is not overwritten."""


class StorageError(RobustdetError, OSError):
    """A place that cannot be written to, or is full."""


class TransferError(RobustdetError, ConnectionError):
    """A server that cannot be reached, or breaks off."""


class StateError(RobustdetError, RuntimeError):
    """What is asked for cannot be done as things stand: another is at work, a part has failed."""


class NumericalError(RobustdetError, FloatingPointError):
    """A loss, a gradient or a prediction that is not finite."""
