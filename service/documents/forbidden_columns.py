"""Check that no forbidden column leaves: neither by its name, nor behind an alias, a view or a subquery."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from service.documents.plans import Plan, hides_expressions, identifiers, outputs, reads_whole_row
from service.errors import ConfigurationError


def is_forbidden(name: str, forbidden: Sequence[str]) -> bool:
    """Whether one of the globs in `forbidden` matches `name`, ignoring case."""
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in forbidden)


def check_names(names: Sequence[str], forbidden: Sequence[str]) -> None:
    """Raise ConfigurationError if a column of the result is called like a forbidden one."""
    for name in names:
        if is_forbidden(name, forbidden):
            raise ConfigurationError(f"column {name} is forbidden (CARRYOUT_FORBIDDEN_COLUMNS)")


def check_origins(plan: Plan, names: Sequence[str], forbidden: Sequence[str]) -> None:
    """Raise ConfigurationError if the result is made of a forbidden column, under any name."""
    for output in outputs(plan, len(names)):
        if reads_whole_row(output):
            raise ConfigurationError("a whole row would export columns that were not chosen; list the columns")
        for name in identifiers(output):
            if is_forbidden(name, forbidden):
                raise ConfigurationError(f"it reads {name}, which is forbidden (CARRYOUT_FORBIDDEN_COLUMNS)")
    if hides_expressions(plan):
        raise ConfigurationError("a plan doesn't show what a list of VALUES holds: use CASE, or SELECTs and UNION ALL")
