"""Random queries and writes on three tables of numbers."""

import random
from typing import Any

from sqlalchemy import (
    BigInteger,
    Text,
    and_,
    case,
    cast,
    column,
    except_,
    exists,
    func,
    or_,
    select,
    table,
    union_all,
)

from mirror.model.mapping import Column, Mapping, Reference

NAMES = ("a", "b", "c")
TABLES = [
    table(name, *(column(c, BigInteger) for c in ("id", "x", "y")), column("code", Text))
    for name in NAMES
]
REFERENCES = tuple(Reference(f"of_{name}", "bigint", table=name) for name in NAMES)


class Queries:
    """Random queries, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = (f"q{number}" for number in range(10**6))

    def chance(self, part: float) -> bool:
        """Return True with this probability."""
        return self.random.random() < part

    def mapping(self, name: str) -> Mapping:
        """Return a mapping; only its query decides its rows."""
        key = ["k", "l"][: self.random.choice([1, 1, 2])]
        labels = [*key, *(reference.name for reference in REFERENCES), "value", "note"]
        query = self.select(labels, 2)
        if self.chance(0.15):
            both = except_ if self.chance(0.3) else union_all
            query = both(query, self.select(labels, 1))
        columns = [Column(label, "bigint") for label in (*key, "value")]
        columns.append(Column("note", "bigint", descriptive=True))
        return Mapping(
            name=name,
            table=name,
            key=tuple(key),
            columns=tuple(columns),
            query=query,
            references=REFERENCES,
        )

    def select(self, labels: list[str], depth: int, outer: list[Any] | None = None) -> Any:
        """Return a SELECT with these labels; in a subquery, `outer` holds the outer columns."""
        first = self.source(depth)
        joined, values = first, self.values(first)
        for _ in range(self.random.choice([0, 1, 1, 2] if outer is None else [0, 0, 1])):
            other = self.source(depth)
            if other is first:
                continue
            own = self.values(other)
            on = self.random.choice(values) == self.random.choice(own)
            values = values + own
            if self.chance(0.2):
                on = and_(on, self.condition(values, 0))
            joined = joined.join(other, on, isouter=self.chance(0.4), full=self.chance(0.03))
        shown = [self.shown(values, label, depth) for label in labels]
        grouped = self.chance(0.15)
        if grouped:
            shown = [*shown[:-2], *(func.max(expression) for expression in shown[-2:])]
        query = select(*(e.label(name) for e, name in zip(shown, labels, strict=True)))
        query = query.select_from(joined)
        for _ in range(self.random.choice([0, 1, 1, 2])):
            query = query.where(self.condition(values, depth))
        if outer is not None and self.chance(0.8):
            query = query.where(self.random.choice(values) == self.random.choice(outer))
        if grouped:
            query = query.group_by(*shown[:-2])
            return query.having(func.count() > 1) if self.chance(0.3) else query
        return query.distinct() if self.chance(0.1) else query

    def source(self, depth: int) -> Any:
        """Return a random FROM element."""
        kind, plain = self.random.random(), self.random.choice(TABLES)
        if kind < 0.5 or not depth:
            return plain
        if kind < 0.75:
            return plain.alias(next(self.names))
        query = self.select(["id", "x", "y"], depth - 1)
        if self.chance(0.2):
            query = union_all(query, self.select(["id", "x", "y"], 0))
        name = next(self.names)
        return query.subquery(name) if kind < 0.9 else query.cte(name)

    def values(self, source: Any) -> list[Any]:
        """Return the columns of a source, all as integers."""
        return [cast(c, BigInteger) if c.key == "code" else c for c in source.c]

    def shown(self, values: list[Any], label: str, depth: int) -> Any:
        """Return a random expression to select: mostly a column, sometimes a computed value."""
        value = values[0] if label == "k" and self.chance(0.6) else self.random.choice(values)
        if self.chance(0.9) or label not in {"value", "note"}:
            return value
        if self.chance(0.5) or not depth:
            return case((value > 1, self.random.choice(values)), else_=func.coalesce(value, 0))
        inner = self.random.choice(TABLES).alias(next(self.names))
        return select(func.max(inner.c.x)).where(inner.c.id == value).scalar_subquery()

    def condition(self, values: list[Any], depth: int) -> Any:
        """Return a random condition."""
        one, other = self.random.choice(values), self.random.choice(values)
        kind = self.random.random()
        if kind < 0.35:
            return one == other
        if kind < 0.5:
            return self.random.choice([one.is_(None), one.is_not(None), one > other, one == 1])
        if kind < 0.6:
            return or_(one == other, self.condition(values, 0))
        if not depth:
            return one.is_not_distinct_from(other)
        inner_query = self.select(["found"], depth - 1, values)
        if kind < 0.8:
            return exists(inner_query) if self.chance(0.6) else ~exists(inner_query)
        return one.in_(inner_query) if self.chance(0.8) else one.not_in(inner_query)

    def write(self) -> str:
        """Return a random statement that changes rows; it may violate the primary key."""
        name, kind = self.random.choice(NAMES), self.random.random()
        code = self.random.choice(["null", "'1'", "'01'", "'2'"])
        if kind < 0.4:
            x, y = self.number(), self.number()
            return f"insert into {name} values ({kind * 10:.0f}, {x}, {y}, {code})"
        where = f"where {self.random.choice(['id', 'x', 'y'])} is not distinct from {self.number()}"
        if kind < 0.6:
            return f"delete from {name} {where}"
        changed = self.random.choice(["x", "y"])
        value = self.random.choice([self.number(), self.number(), "id", "x", "y"])
        if kind < 0.9:
            return f"update {name} set {changed} = {value} {where}"
        if kind < 0.95:
            return f"update {name} set id = 3 - id"
        return f"update {name} set code = {code}"

    def number(self) -> str:
        """Return a random value, mostly one that other rows have."""
        return self.random.choice(["null", "0", "1", "1", "2"])
