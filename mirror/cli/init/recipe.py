"""Recipe: the statements by which a writer in another language records changes of a model."""

from dataclasses import dataclass

from mirror.cli.init.model import Model, mapping_name
from mirror.cli.init.words import snake
from mirror.schema.quoting import literal


@dataclass(frozen=True)
class Recorded:
    """A kind of change, and the INSERT that records it."""

    change: str
    sql: str


def recorded_changes(model: Model) -> list[Recorded]:
    """Return the changes of a model with their INSERTs; `$1`, … are the ids, as texts."""
    found = []
    users, members = model.users, model.members
    if members is not None:
        mapping, change = mapping_name(members.table), f"a row of {members.table.key}"
        if users is not None and users.translated:
            reference = f"own_{snake(members.user.name)}"
            change += f" ($1: its {members.user.name})"
            found.append(Recorded(change, _scope(mapping, reference)))
        else:
            names = [column.name for column in members.key]
            change += f" ({_numbered(names)})"
            found.append(Recorded(change, _key(mapping, len(names))))
    change = f"a row of {model.resource.key} ($1: its {model.resource_id.name})"
    found.append(Recorded(change, _key(mapping_name(model.resource), 1)))
    if users is not None:
        mapping, change = mapping_name(users.table), f"a row of {users.table.key}"
        change += f" ($1: its {users.id.name})"
        if users.translated:
            found.append(Recorded(change, _scope(mapping, f"own_{snake(users.id.name)}")))
            if members is not None:
                reference = f"own_{snake(members.user.name)}"
                also = f"{change}: also the memberships"
                found.append(Recorded(also, _scope(mapping_name(members.table), reference)))
        else:
            found.append(Recorded(change, _key(mapping, 1)))
    return found


def _key(mapping: str, count: int) -> str:
    values = ", ".join(f"${number}::text" for number in range(1, count + 1))
    return (
        "insert into mirror.outbox (lane, mapping, key)\n"
        f"values (0, {literal(mapping)}, array[{values}]);"
    )


def _scope(mapping: str, reference: str) -> str:
    return (
        "insert into mirror.outbox (lane, mapping, reference, key)\n"
        f"values (0, {literal(mapping)}, {literal(reference)}, array[$1::text]);"
    )


def _numbered(names: list[str]) -> str:
    return ", ".join(f"${number}: {name}" for number, name in enumerate(names, start=1))
