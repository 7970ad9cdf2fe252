"""Layout: prints Python expressions as the formatter of most projects, ruff or black, leaves them.

An expression stays on one line if it fits. Otherwise each of its parts gets a line of its own, with
a comma after the last one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH = 100
_INDENT = 4


@dataclass(frozen=True)
class Group:
    """Parts between brackets: a call, a tuple, a dict or a set."""

    opening: str
    """The text before the parts: `Column(`, `columns=(`, `{`."""
    parts: Sequence["Part"]
    closing: str = ")"
    apart: bool = False
    """True: each part gets its own line, even if all fit on one."""

    def flat(self) -> str:
        """Return the group on one line."""
        parts = [part if isinstance(part, str) else part.flat() for part in self.parts]
        # A tuple of one needs its comma.
        comma = "," if len(parts) == 1 and self._is_tuple else ""
        return f"{self.opening}{', '.join(parts)}{comma}{self.closing}"

    def lines(self, indent: int, after: int = 0) -> list[str]:
        """Return the group's lines, the first one without its indentation.

        `indent` is that of the line in which the group begins, `after` the number of characters
        that follow it in its last line.
        """
        flat = self.flat()
        if not self.parts or (not self.apart and indent + len(flat) + after <= WIDTH):
            return [flat]
        inner = indent + _INDENT
        lines = [self.opening]
        for part in self.parts:
            first, *others = [part] if isinstance(part, str) else part.lines(inner, after=1)
            lines += [f"{' ' * inner}{first}", *others]
            lines[-1] += ","
        return [*lines, " " * indent + self.closing]

    @property
    def _is_tuple(self) -> bool:
        return self.closing == ")" and self.opening.rpartition("=")[2].strip() == "("


@dataclass(frozen=True)
class Chain:
    """A call, and calls of methods on its result: `select(…).join(…).where(…)`."""

    first: Group
    methods: Sequence[Group] = field(default=())
    """Each opening begins with the dot and the method's name: `.where(`."""

    def flat(self) -> str:
        """Return the chain on one line."""
        return self.first.flat() + "".join(method.flat() for method in self.methods)

    def lines(self, indent: int, after: int = 0) -> list[str]:
        """Return the chain's lines; see `Group.lines`."""
        flat = self.flat()
        if indent + len(flat) + after <= WIDTH:
            return [flat]
        if not self.methods:
            return self.first.lines(indent, after)
        lines = Group(self.first.opening, self.first.parts, apart=True).lines(indent)
        if len(self.methods) == 1:
            first, *others = self.methods[0].lines(indent, after + 1)
            return [*lines[:-1], lines[-1] + first, *others]
        for method in self.methods:
            first, *others = method.lines(indent, after)
            lines += [" " * indent + first, *others]
        return lines


@dataclass(frozen=True)
class Equal:
    """A comparison of two expressions."""

    left: str
    right: str

    def flat(self) -> str:
        """Return the comparison on one line."""
        return f"{self.left} == {self.right}"

    def lines(self, indent: int, after: int = 0) -> list[str]:
        """Return the comparison's lines; see `Group.lines`."""
        if indent + len(self.flat()) + after <= WIDTH:
            return [self.flat()]
        return [self.left, f"{' ' * indent}== {self.right}"]


Part = str | Group | Chain | Equal
"""A part of a Python expression; a text is printed as it is."""


def call(function: str, *parts: Part, apart: bool = False) -> Group:
    """Return a call of a function."""
    return Group(f"{function}(", parts, apart=apart)


def tuple_of(parts: Sequence[Part], name: str = "") -> Group:
    """Return a tuple; with a name, the keyword argument of that name."""
    return Group(f"{name}=(" if name else "(", parts)


def named(name: str, part: Part) -> Part:
    """Return a keyword argument, or at the begin of a line an assignment."""
    if isinstance(part, str):
        return f"{name}={part}"
    if isinstance(part, Chain):
        return Chain(_prefixed(f"{name}=", part.first), part.methods)
    if isinstance(part, Equal):
        return Equal(f"{name}={part.left}", part.right)
    return _prefixed(f"{name}=", part)


def assignment(name: str, part: Group | Chain) -> str:
    """Return the statement that gives a name to a value."""
    prefix = f"{name} = "
    if isinstance(part, Chain):
        part = Chain(_prefixed(prefix, part.first), part.methods)
    else:
        part = _prefixed(prefix, part)
    return "\n".join(part.lines(0))


def quoted(text: str) -> str:
    """Return the literal of a text, in double quotes unless that needs more backslashes."""
    if '"' in text and "'" not in text:
        return repr(text)
    return json.dumps(text, ensure_ascii=False)


def _prefixed(prefix: str, group: Group) -> Group:
    return Group(prefix + group.opening, group.parts, group.closing, group.apart)
