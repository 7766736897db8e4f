"""How a suite becomes tests: its groups are classes inside the class that declares, and each test runs on a loop of its own.

A group is written as plain `async def` tests that name what they want: `journal`, `other`, `store`, or a fixture of pytest.
For every class that makes a suite its own, the groups are made anew inside it as `Test<Group>`, so that a test's id says whose
store failed at what. A test that needs what isn't declared is skipped with that reason, and stands in the table."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import field, fields
from functools import wraps
from typing import Any, ClassVar, TypeVar

import pytest

from ...errors import SettingsError

PROPERTY = "eventspine conformance"  # of a test's report: what the table is made from
NOT_DECLARED = "not declared: "
F = TypeVar("F", bound=Callable[..., Any])


def capability(meaning: str) -> Any:
    """A capability, not declared unless somebody does; `meaning` stands in the table."""
    return field(default=False, metadata={"meaning": meaning})


def meanings(kind: type) -> dict[str, str]:
    return {one.name: one.metadata["meaning"] for one in fields(kind) if "meaning" in one.metadata}


def needs(*capabilities: str) -> Callable[[F], F]:
    """This test is for those that declare all of these."""

    def mark(function: F) -> F:
        function.__dict__["needs"] = capabilities
        return function

    return mark


def lacks(capability: str) -> Callable[[F], F]:
    """This test says how one that doesn't declare it refuses."""

    def mark(function: F) -> F:
        function.__dict__["lacks"] = capability
        return function

    return mark


def tests_of(group: type) -> dict[str, Callable[..., Any]]:
    """In the order in which they are written."""
    return {name: function for name, function in vars(group).items() if name.startswith("test_")}


class Suite:
    """Subclassed by a suite for journals or brokers, which whoever has one subclasses in turn."""

    title: ClassVar[str] = ""
    groups: ClassVar[tuple[type, ...]] = ()
    gives: ClassVar[frozenset[str]] = frozenset()  # what tests may ask for that is no fixture
    limit_s: ClassVar[float] = 100.0  # of one test
    make: Callable[..., Awaitable[Any]]  # of whoever subclasses

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        for group in cls.groups:
            setattr(cls, f"Test{group.__name__}", _collected(cls, group))

    # --- for a suite to say -----------------------------------------------------------------------------------------

    def declared(self) -> Mapping[str, bool]:
        """Capabilities, and whether they are declared."""
        raise NotImplementedError

    def set_up(
        self, asked: frozenset[str], fixtures: Mapping[str, Any]
    ) -> AbstractAsyncContextManager[Mapping[str, Any]]:
        """What a test asked for, of what is given."""
        raise NotImplementedError

    async def made(self, **given: Any) -> Any:
        """What `make` gives."""
        making: Any = self.make(**given)
        if not inspect.isawaitable(making):
            raise SettingsError(
                f"{type(self).__name__}.make is no `async def`: it gave {making!r:.100}, which can't be awaited. Write "
                f"`async def make(self, ...)`, which returns the {self.title}."
            )
        return await making

    def fixtures(self) -> list[str]:
        """Names of pytest fixtures that `make` asks for."""
        make: Any = getattr(self, "make", None)
        if make is None:
            raise SettingsError(
                f"{type(self).__name__} needs `async def make(self, ...)`, which gives the {self.title}."
            )
        return [name for name in inspect.signature(make).parameters if name not in self.gives]


def _collected(suite: type[Suite], group: type) -> type:
    members: dict[str, Any] = {"__doc__": group.__doc__, "__module__": suite.__module__}
    for name, function in tests_of(group).items():
        if not _is_declared(suite, getattr(function, "lacks", "")):
            members[name] = _test(suite, group, function)
        else:
            members[name] = None  # how others refuse is no question here
    return type(f"Test{group.__name__}", (group,), members)


def _is_declared(suite: type[Suite], capability: str) -> bool:
    return getattr(getattr(suite, "capabilities", None), capability, False)


def _test(suite: type[Suite], group: type, function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The same as a plain function, which any runner of pytest can call."""
    parameters = list(inspect.signature(function).parameters.values())
    asked = frozenset(one.name for one in parameters) & suite.gives
    own = [one for one in parameters if one.name not in suite.gives]

    @wraps(function)
    def test(self: Any, request: pytest.FixtureRequest, **given: Any) -> None:
        __tracebackhide__ = True
        one = suite()
        _note(request, suite, group, function, one)
        fixtures = {name: request.getfixturevalue(name) for name in one.fixtures()}

        async def run() -> None:
            __tracebackhide__ = True
            async with asyncio.timeout(suite.limit_s), one.set_up(asked, fixtures) as provided:
                await function(self, **provided, **given)

        asyncio.run(run())

    asks = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__dict__["__signature__"] = inspect.Signature([own[0], asks, *own[1:]])
    return test


def _note(request: pytest.FixtureRequest, suite: type[Suite], group: type, function: Any, one: Suite) -> None:
    """For the table; and skipped, if it isn't for those that declare this."""
    declared = one.declared()
    wanted: tuple[str, ...] = getattr(function, "needs", ())
    noted = {
        "module": suite.__module__,
        "suite": suite.__name__,
        "title": suite.title,
        "group": group.__name__,
        "needs": list(wanted),
        "declared": dict(declared),
    }
    request.node.user_properties.append((PROPERTY, noted))
    if missing := [name for name in wanted if not declared[name]]:
        pytest.skip(NOT_DECLARED + ", ".join(missing))
