"""How far the attachments of a document are, and which could not be included."""

from collections import Counter
from typing import NamedTuple

from service.backends.attachments import Fault


class FaultKind(NamedTuple):
    """Why files of a section's store are missing; `cause` is for operators."""

    section: str
    store: str
    fault: Fault
    cause: str


class FileCounts:
    """Grow while the document is made. `bytes_total` is None for a document without attachments, and of those that
    could be looked at.
    """

    def __init__(self) -> None:
        self.included = 0
        self.bytes_done = 0
        self.bytes_total: int | None = None
        self.faults: Counter[FaultKind] = Counter()

    @property
    def missing(self) -> int:
        return self.faults.total()
