"""`pytest --quick`: the tests that start no process and no server but the one PostgreSQL, and aren't marked `slow`.

Computed from each test's own code and that of its fixtures, so that a list need not be maintained. A plugin of pytest,
registered by conftest.py.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

# A test that reaches one of these names, through any calls, starts a process or needs servers.
STARTERS = frozenset({"ChildProcess", "Popen", "check_output", "create_subprocess_exec", "open_stack"})
SUBPROCESS_RUN = ("subprocess", "run")
PERMITTED_FIXTURES = frozenset({"postgres"})
OURS = ("tests.", "devstack.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        kept: list[pytest.Item] = []
        others: list[pytest.Item] = []
        for item in items:
            (kept if is_quick(item) else others).append(item)
        config.hook.pytest_deselected(items=others)
        items[:] = kept


def is_quick(item: pytest.Item) -> bool:
    return not item.get_closest_marker("slow") and not any(map(starts_process, _functions(item)))


def _functions(item: pytest.Item) -> Iterator[Callable[..., Any]]:
    """The test and its fixtures."""
    assert isinstance(item, pytest.Function)
    yield _plain(item.function)
    for name, definitions in item._fixtureinfo.name2fixturedefs.items():
        if name not in PERMITTED_FIXTURES:
            yield from (_plain(definition.func) for definition in definitions)


@functools.cache
def starts_process(function: Callable[..., Any]) -> bool:
    seen: set[int] = set()
    waiting: list[Any] = [function]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, type):
            waiting += [_plain(member) for member in vars(current).values() if callable(member)]
        elif isinstance(current, FunctionType):
            names = _names(current.__code__)
            if names & STARTERS or names.issuperset(SUBPROCESS_RUN):
                return True
            waiting += [_plain(used) for used in _used(names, current.__globals__) if _is_ours(used)]
    return False


def _used(names: set[str], known: dict[str, Any]) -> list[Any]:
    """The values of the names, also as attributes of the modules among them."""
    found = [known[name] for name in names if name in known]
    modules = [value for value in found if isinstance(value, ModuleType) and value.__name__.startswith(OURS)]
    return found + [getattr(module, name) for module in modules for name in names if hasattr(module, name)]


def _plain(function: Any) -> Callable[..., Any]:
    """Without decorators and without the instance."""
    plain: Callable[..., Any] = inspect.unwrap(getattr(function, "__func__", function))
    return plain


def _names(code: CodeType) -> set[str]:
    """All names that a function and the functions within it use."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _is_ours(value: object) -> bool:
    if isinstance(value, ModuleType):
        return False
    module = getattr(value, "__module__", None) or ""
    return isinstance(module, str) and module.startswith(OURS) and callable(value)
