"""A permission model of three generations, with text keys and retained rows."""

from sqlalchemy import Boolean, Text, column, select, table

from mirror.model.mapping import Column, Mapping, Parent
from mirror.model.registry import Registry

PRIMARY = """
create table organisations (name text primary key, closed boolean not null default false);
create table projects (name text primary key, organisation text not null, owner text);
create table tasks (name text primary key, project text not null, title text);
"""

_organisations = table("organisations", column("name", Text), column("closed", Boolean))
_projects = table(
    "projects", column("name", Text), column("organisation", Text), column("owner", Text)
)
_tasks = table("tasks", column("name", Text), column("project", Text), column("title", Text))

registry = Registry(
    "chains",
    [
        Mapping(
            name="organisations",
            table="organisations",
            key=("name",),
            columns=(Column("name", "text"),),
            query=select(_organisations.c.name).where(~_organisations.c.closed),
        ),
        Mapping(
            name="projects",
            table="projects",
            key=("name",),
            columns=(
                Column("name", "text"),
                Column("organisation", "text"),
                Column("owner", "text"),
            ),
            query=select(_projects.c.name, _projects.c.organisation, _projects.c.owner),
            parents=(Parent("organisations", "organisation"),),
            on_delete="retain",
        ),
        Mapping(
            name="tasks",
            table="tasks",
            key=("name",),
            columns=(Column("name", "text"), Column("project", "text"), Column("title", "text")),
            query=select(_tasks.c.name, _tasks.c.project, _tasks.c.title),
            parents=(Parent("projects", "project"),),
        ),
    ],
)
