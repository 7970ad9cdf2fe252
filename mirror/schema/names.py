"""Names: returns the SQL names of a mapping's tables and functions in the target."""

from mirror.model.mapping import Mapping
from mirror.schema.quoting import identifier


def table_name(mapping: Mapping) -> str:
    """Return the name of the mirrored table."""
    return identifier(mapping.schema, mapping.table)


def ledger_name(mapping: Mapping) -> str:
    """Return the name of the ledger."""
    return identifier("mirror", f"ledger_{mapping.name}")


def function_name(purpose: str, mapping: Mapping) -> str:
    """Return the name of one of the mapping's functions; `purpose` is its prefix, as in `apply`."""
    return identifier("mirror", f"{purpose}_{mapping.name}")


def ledger_column(mapping: Mapping, reference: str) -> str:
    """Return the name, not quoted, of the ledger's column that holds a reference's value.

    It is the reference's own name if that is a column of the key, else `ref_<name>`.
    """
    return reference if reference in mapping.key else f"ref_{reference}"


def visible_references(mapping: Mapping) -> dict[str, str]:
    """Return the references that are also columns of the mirrored table, outside of the key.

    The result maps the ledger's column to the table's column; neither is quoted.
    """
    columns = {column.name for column in mapping.data_columns}
    return {f"ref_{ref.name}": ref.name for ref in mapping.all_references if ref.name in columns}
