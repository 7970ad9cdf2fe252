"""A second permission model that is hard on the protocol.

A seat counts only while its workspace is not archived, so seats change when another table changes.
Neither the workspace nor the company is a column of the target. A document moves between folders,
and its folder is its parent.
"""

from sqlalchemy import BigInteger, Boolean, Text, column, select, table

from mirror.model.mapping import Column, Mapping, Parent, Reference
from mirror.model.registry import Registry

PRIMARY = """
create table companies (id bigint primary key);
create table workspaces (
  id bigint primary key,
  company_id bigint not null references companies on delete cascade,
  archived boolean not null default false
);
create table seats (
  id bigint primary key,
  workspace_id bigint not null references workspaces on delete cascade,
  person text not null
);
create table folders (id bigint primary key, name text, deleted boolean not null default false);
create table documents (id bigint primary key, folder_id bigint not null, title text);
"""

_workspaces = table(
    "workspaces",
    column("id", BigInteger),
    column("company_id", BigInteger),
    column("archived", Boolean),
)
_seats = table(
    "seats", column("id", BigInteger), column("workspace_id", BigInteger), column("person", Text)
)
_folders = table(
    "folders", column("id", BigInteger), column("name", Text), column("deleted", Boolean)
)
_documents = table(
    "documents", column("id", BigInteger), column("folder_id", BigInteger), column("title", Text)
)

seats = Mapping(
    name="seats",
    table="seats",
    key=("id",),
    columns=(Column("id", "bigint"), Column("person", "text")),
    query=select(_seats.c.id, _seats.c.person, _seats.c.workspace_id, _workspaces.c.company_id)
    .select_from(_seats.join(_workspaces, (_workspaces.c.id == _seats.c.workspace_id)))
    .where(~_workspaces.c.archived),
    references=(
        Reference("workspace_id", "bigint", table="workspaces"),
        Reference("company_id", "bigint", table="companies"),
    ),
)

folders = Mapping(
    name="folders",
    table="folders",
    key=("id",),
    columns=(Column("id", "bigint"), Column("name", "text")),
    query=select(_folders.c.id, _folders.c.name).where(~_folders.c.deleted),
)

documents = Mapping(
    name="documents",
    table="documents",
    key=("id",),
    columns=(Column("id", "bigint"), Column("folder_id", "bigint"), Column("title", "text")),
    query=select(_documents.c.id, _documents.c.folder_id, _documents.c.title),
    parents=(Parent("folders", "folder_id"),),
)

registry = Registry("teams", [seats, folders, documents])
