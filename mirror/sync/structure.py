"""Structure: notices changes of the primary's tables that change rows without an event.

`ALTER TABLE … TYPE … USING`, a column that is dropped and added again, a partition that is attached
or detached, a view, a generated column or a function that is defined anew, an enum's value that is
renamed: all of them can change what a mapping's query yields, and no hook or trigger runs. So when
all rows of a mapping are compared or recorded as changed, the structure of what it reads is noted
in `mirror.structures`, as of a moment before that. Later it is compared with the catalog.
"""

import json
from collections.abc import Collection, Iterator
from collections.abc import Mapping as MappingABC
from hashlib import sha256
from typing import Any

from sqlalchemy.sql import visitors
from sqlalchemy.sql.functions import FunctionElement

from mirror.capture.statements import statement
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.changes import ROWS
from mirror.schema.quoting import identifier
from mirror.sync.connections import Database

Structure = MappingABC[str, MappingABC[str, Any]]
"""By object: its facts, as the statement `read_structures` returns them."""


def read_structures(
    database: Database, registry: Registry, names: Collection[str] = ()
) -> dict[str, Structure]:
    """Return the present structure of what mappings read, by mapping; of all if `names` is empty.

    Raises:
        MirrorError: the primary does not answer.
    """
    chosen = [mapping for mapping in registry if not names or mapping.name in names]
    parameters = {
        "sources": json.dumps([source for one in chosen for source in _sources(registry, one)]),
        "functions": json.dumps(
            [
                {"mapping": mapping.name, "name": element.name}
                for mapping in chosen
                for element in visitors.iterate(mapping.query)
                if isinstance(element, FunctionElement)
            ]
        ),
    }
    found: dict[str, Structure] = dict(database.execute(statement("read_structures"), parameters))
    return {
        mapping.name: {
            **found.get(mapping.name, {}),
            "declaration": {"name": "its declaration", "is": _declared(mapping)},
        }
        for mapping in chosen
    }


def _declared(mapping: Mapping) -> str:
    """Return a hash of the parts of a declaration on which the mapping's rows depend."""
    parts = {part: mapping.declaration().get(part) for part in ROWS}
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _sources(registry: Registry, mapping: Mapping) -> Iterator[dict[str, object]]:
    """Yield each table that a mapping reads, with its columns; None: all columns count."""
    for table, effects in registry.effects.items():
        reads = [effect.reads for effect in effects if effect.mapping == mapping.name]
        if reads:
            known = [each for each in reads if each is not None]
            columns = sorted({column for each in known for column in each})
            name = identifier(*table.split(".", 1))
            every = len(known) < len(reads)
            yield {"mapping": mapping.name, "source": name, "columns": None if every else columns}


def note_structures(database: Database, structures: MappingABC[str, Structure]) -> None:
    """Note structures as those from which all rows of their mappings are read.

    Raises:
        MirrorError: the primary does not answer, or lacks the migration `0010_structures`.
    """
    for mapping, structure in structures.items():
        database.execute(statement("note_structure"), [mapping, json.dumps(structure)])


def find_changed_structures(database: Database, registry: Registry) -> dict[str, list[str]]:
    """Return, by mapping, phrases about what has changed since its structure was noted.

    A mapping whose structure was never noted is left out, and so is one without a change.

    Raises:
        MirrorError: the primary does not answer, or lacks the migration `0010_structures`.
    """
    noted: dict[str, Structure] = dict(database.execute(statement("read_noted_structures")))
    present = read_structures(database, registry)
    found = {
        name: list(dict.fromkeys(_changes(noted[name], present.get(name, {}))))
        for name in (mapping.name for mapping in registry)
        if name in noted
    }
    return {name: changes for name, changes in found.items() if changes}


def _changes(before: Structure, now: Structure) -> Iterator[str]:
    for key, facts in before.items():
        if key in now:
            yield from _changed_facts(facts, now[key])
        else:
            yield f"{facts['name']} is gone or detached"
    for key, facts in now.items():
        # An object that is named comes with another declaration.
        if key not in before and key.isdigit() and not facts["new"]:
            yield f"{facts['name']} is attached"


def _changed_facts(before: MappingABC[str, Any], now: MappingABC[str, Any]) -> Iterator[str]:
    name = now["name"]
    if before.get("is") != now.get("is"):
        yield f"{name} is defined anew"
        return
    moved = before.get("file") != now.get("file")
    columns = now.get("columns", {})
    for column, (shape, altered) in before.get("columns", {}).items():
        if column not in columns:
            yield f"column {column} of {name} is gone"
        elif columns[column][0] != shape:
            yield f"column {column} of {name} is defined anew"
        elif moved and columns[column][1] != altered:
            yield f"column {column} of {name} is rewritten"
    # Where all columns count, the query or view reads those that it was made for.
    for column in [] if now.get("all", True) else columns.keys() - before["columns"].keys():
        yield f"column {column} of {name} is added"
    labels = now.get("labels", {})
    if any(labels.get(oid) != label for oid, label in before.get("labels", {}).items()):
        yield f"a value of {name} has another name"
