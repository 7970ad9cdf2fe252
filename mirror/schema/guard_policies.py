"""Guard policies: the SQL of a registry's policies on the application's own tables in the target.

The policies are a separate migration. They need the application's tables, which may in turn need
the mirrored tables of the model. The policies' names contain the registry's name, so that a new
version finds and replaces the old ones.
"""

from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.schema.freshness import freshness_checks
from mirror.schema.quoting import literal

_HEADER = """\
-- The guards of {name}: who may do what with tables that are not the mirror's.
--
-- Printed from the declarations; change those, not this file. Every statement can run again. The
-- tables must be there, and the model {name}; no policy changes before all have been looked at.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);"""


def guards_sql(registry: Registry) -> str:
    """Return the SQL that installs a registry's guards in a target that has its model.

    Raises:
        MappingError: a guard cannot work; the message names the table and the remedy.
    """
    mirrored = {(mapping.schema, mapping.table) for mapping in registry}
    relations = [guard.relation for guard in registry.guards]
    for relation in relations:
        if relation in mirrored:
            raise MappingError(
                f"guard of {'.'.join(relation)}: only the mirror writes that table; declare what "
                f"users may read as `readable` in its mapping."
            )
        if relations.count(relation) > 1:
            raise MappingError(
                f"guard of {'.'.join(relation)}: registry {registry.name!r} has another guard of "
                f"this table; combine them into one with several rules."
            )
    blocks = [_HEADER.format(name=registry.name)]
    blocks += [block for guard in registry.guards for block in guard.prepare(registry)]
    policies = [block for guard in registry.guards for block in guard.ddl(registry)]
    blocks += freshness_checks(policies)
    blocks += [
        f"-- Those of an earlier version of these declarations.\n"
        f"select mirror.drop_guards({literal(registry.name)});"
    ]
    blocks += policies
    return "\n\n\n".join(blocks) + "\n"
