"""Coverage: what ORM capture cannot see, as far as the models alone tell."""

import importlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapper
from sqlalchemy.orm import registry as ModelRegistry  # noqa: N812 - a class

from mirror.capture.orm.catalog import may_be_one, name_of, table_name
from mirror.errors import ConfigError
from mirror.model.registry import Registry


def tables_of_models(module_name: str) -> list[Any]:
    """Import a module with SQLAlchemy models; return the tables of these and of their relatives.

    Relatives are the models that share a declarative base, or a registry, with one in the module.

    Raises:
        ConfigError: the module cannot be imported, has no models, or SQLAlchemy refuses them.
    """
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"module {module_name!r} does not import ({type(error).__name__}: {error}); "
            f"--models must name the module of the SQLAlchemy models."
        ) from error
    registries = set(filter(None, map(_registry_of, list(vars(module).values()))))
    try:
        for one in registries:
            one.configure(cascade=True)
        mapped = [table for one in registries for mapper in one.mappers for table in mapper.tables]
    except SQLAlchemyError as error:
        raise ConfigError(
            f"module {module_name!r}: SQLAlchemy refuses the models ({error}); correct them."
        ) from error
    # A model's table may be of another metadata; a table of many-to-many rows has no model.
    tables: list[Any] = [table for one in registries for table in one.metadata.tables.values()]
    tables += [table for table in mapped if table not in tables]
    if not tables:
        raise ConfigError(f"module {module_name!r} holds no SQLAlchemy model; name another one.")
    return tables


def _registry_of(value: object) -> ModelRegistry | None:
    """Return SQLAlchemy's registry of a mapped class or of a declarative base; None: it is none."""
    if not isinstance(value, type):
        return None
    mapper: Any = inspect(value, raiseerr=False)
    found = mapper.registry if isinstance(mapper, Mapper) else getattr(value, "registry", None)
    return found if isinstance(found, ModelRegistry) else None


def unseen(registry: Registry, tables: list[Any]) -> Iterator[str]:
    """Yield a sentence about each table or column that mappings read and no model has.

    ORM capture records no change of it. `tables` are those of the models.
    """
    for source, effects in registry.effects.items():
        models = [table for table in tables if may_be_one(name_of(table), table_name(source))]
        if not models:
            names = ", ".join(sorted({effect.mapping for effect in effects}))
            yield f"no model has table {source}, which is read by {names}"
            continue
        known = {column.name for table in models for column in table.c}
        for mapping in sorted({effect.mapping for effect in effects}):
            needed = {
                name
                for effect in effects
                if effect.mapping == mapping
                for name in (*effect.columns, *(effect.reads or ()))
            }
            for name in sorted(needed - known):
                yield f"the model of table {source} has no column {name}, which {mapping} reads"
