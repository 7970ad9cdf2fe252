"""The guards of a registry: policies on tables in the target that are not the mirror's.

Printed apart from the model, because they need those tables, which may need the model's. The
policies carry the registry's name, so that what was printed before is found and replaced.
"""

from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.schema.quoting import literal

_HEADER = """\
-- The guards of {name}: who may do what with tables that are not the mirror's.
--
-- Printed from the declarations; change those, not this file. Every statement can run again. The
-- tables must be there, and the model {name}; no policy changes before all have been looked at.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);"""


def guards_sql(registry: Registry) -> str:
    """Return the migration that installs the guards in a target that has the model.

    Raises:
        MappingError: a guard that cannot work; names the table and the remedy.
    """
    mirrored = {(mapping.schema, mapping.table) for mapping in registry}
    relations = [guard.relation for guard in registry.guards]
    for relation in relations:
        if relation in mirrored:
            raise MappingError(
                f"guard of {'.'.join(relation)}: nobody but the mirror writes that table; say what "
                f"may be read as `readable` in its mapping."
            )
        if relations.count(relation) > 1:
            raise MappingError(
                f"guard of {'.'.join(relation)}: registry {registry.name!r} has another one of "
                f"this table; make them one, with several rules."
            )
    blocks = [_HEADER.format(name=registry.name)]
    blocks += [block for guard in registry.guards for block in guard.prepare(registry)]
    blocks += [
        f"-- Those of an earlier version of these declarations.\n"
        f"select mirror.drop_guards({literal(registry.name)});"
    ]
    blocks += [block for guard in registry.guards for block in guard.ddl(registry)]
    return "\n\n\n".join(blocks) + "\n"
