"""What is removed while the records of servers still refer to it.

Such a row stays under a name that nobody can ask for, so that history reads well and the name is
free again. The mark '~' is in no name that a request may carry.
"""

from uuid import UUID

from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute

from innkeeper.domain.naming import short

_MARK = "~"
_LONGEST_NAME = 54  # leaves room for the mark and eight digits in the shortest column


def archived(name: str, identifier: UUID) -> str:
    """Return the name under which a removed thing is kept."""
    return f"{name[:_LONGEST_NAME]}{_MARK}{short(identifier)}"


def is_current(name: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """Return the condition that a row was not removed."""
    condition: ColumnElement[bool] = ~name.contains(_MARK)
    return condition
