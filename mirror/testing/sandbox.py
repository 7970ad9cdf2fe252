"""Sandbox: a primary and a target of one test, with a drain between them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property

import psycopg
from psycopg import sql
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.orm import Session

from mirror.access.questions import access_questions
from mirror.devstack import PostgresCluster, prepare_database, prepare_services
from mirror.devstack.supabase import OWNER
from mirror.diagnostics.explain import Explanation, explain_resource, question_about
from mirror.errors import MirrorError
from mirror.model.keys import Key
from mirror.model.mapping import Mapping as Declaration
from mirror.model.registry import Registry
from mirror.settings import load_settings
from mirror.sync import orders
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from mirror.testing.acting import Actor, Result, Row, User
from mirror.testing.model import Model, sqlalchemy_url
from mirror.testing.table import AccessTable

_SHOWN = 5
_ROLES = ("anon", "service_role")


class Sandbox:
    """Two databases with a model installed, and a drain that mirrors from one to the other."""

    def __init__(self, registry: Registry, primary_url: str, target_url: str) -> None:
        self.registry = registry
        self.primary_url = primary_url
        self.target_url = target_url
        self._cleanup = ExitStack()

    @cached_property
    def drain(self) -> Drain:
        """A worker's drain, in this process."""
        settings = load_settings(
            primary_database_url=self.primary_url,
            supabase_db_url=self.target_url,
            target="postgres",
        )
        drain = build_drain(settings, self.registry)
        self._cleanup.callback(drain.close)
        return drain

    @cached_property
    def engine(self) -> Engine:
        """The backend's engine, on the primary; it keeps no connections."""
        return create_engine(sqlalchemy_url(self.primary_url), poolclass=NullPool)

    @cached_property
    def primary(self) -> psycopg.Connection[Row]:
        """A connection to the primary, in autocommit mode."""
        return self._connect(self.primary_url)

    @cached_property
    def target(self) -> psycopg.Connection[Row]:
        """A connection to the target, in autocommit mode, as `postgres`, whom no policy binds."""
        return self._connect(self.target_url)

    @cached_property
    def _acting(self) -> psycopg.Connection[Row]:
        return self._connect(self.target_url, autocommit=False)

    def _connect(self, url: str, *, autocommit: bool = True) -> psycopg.Connection[Row]:
        connection = psycopg.connect(url, autocommit=autocommit)
        self._cleanup.callback(connection.close)
        return connection

    def close(self) -> None:
        """Close all connections."""
        self._cleanup.close()

    # Changes

    @contextmanager
    def change(self) -> Iterator[Session]:
        """Yield a session on the primary; at the end, commit its changes and mirror them."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session
        self.mirror()

    def mirror(self) -> None:
        """Mirror all events, and assert that the target then has what the primary wants.

        Raises:
            AssertionError: an event failed, or a change was not recorded.
        """
        __tracebackhide__ = True
        self.drain.run()
        failed = orders.set_apart(self.drain.queue, None)
        if failed:
            raise AssertionError(
                "\n".join(
                    [f"{len(failed)} event(s) cannot be mirrored:"]
                    + [f"  {name}: {error}" for _, name, error in failed[:_SHOWN]]
                )
            )
        differences = [line for mapping in self.registry for line in self._differences(mapping)]
        if differences:
            raise AssertionError(
                "\n".join(
                    ["The target is not what the primary wants, and no event waits:"]
                    + [f"  {line}" for line in differences]
                    + ["Was a change made without a hook, or a row of the target by hand?"]
                )
            )

    def resync(self) -> None:
        """Record all rows as changed and mirror them, for rows that no event announced."""
        orders.resync(self.drain.queue, self.registry, [])
        self.mirror()

    def sign_up(self, *users: User) -> None:
        """Create users in the target's Supabase Auth, to which your own tables may refer."""
        for user in users:
            self.target.execute(
                "insert into auth.users (id) values (%s) on conflict do nothing", [user]
            )

    # Access

    def as_user(
        self,
        user: User,
        *,
        role: str = "authenticated",
        claims: Mapping[str, object] | None = None,
        **values: object,
    ) -> Actor:
        """Return a user whose statements run under row-level security.

        Args:
            user: the id, which is the token's subject; None: the token has none.
            role: `authenticated`, `anon` or `service_role`.
            claims: further claims of the token.
            values: parameters of the user's statements.
        """
        return Actor(
            lambda: self._acting,
            user,
            role=role,
            claims=claims,
            values=values,
            explain=self._explain,
        )

    @property
    def anon(self) -> Actor:
        """A caller who is not signed in."""
        return self.as_user(None, role="anon")

    def check(
        self,
        table: str,
        statements: Mapping[str, str],
        people: Mapping[str, User | Actor],
        **values: object,
    ) -> None:
        """Assert that these people may do exactly what a table says.

        Args:
            table: its columns are people, its rows statements; `AccessTable.parse` describes it.
            statements: by the name that the table uses. Each is tried and rolled back.
            people: the ids by the name that the table uses. `anon` and `service_role` are known.
            values: parameters of the statements, beside `%(me)s`.

        Raises:
            AssertionError: the message shows the expected results and the actual ones.
            KeyError: the table has a name that is unknown.
        """
        __tracebackhide__ = True
        expected = AccessTable.parse(table)
        actors = {name: self._actor(name, people) for name in expected.people}
        results: dict[str, dict[str, Result]] = {
            name: {
                person: actor.result(statements[name], **{**values, **actor.values})
                for person, actor in actors.items()
            }
            for name in expected.words
        }
        difference = expected.difference(results)
        if difference is not None:
            raise AssertionError(f"These people may do something else:\n\n{difference}")

    def explain(self, user: User, noun: str, resource: object) -> Explanation:
        """Explain a user's access to a resource of the kind `noun`, as `mirror explain` does."""
        question = question_about(self.registry, noun)
        return explain_resource(self.drain, question, str(user), str(resource))

    def _actor(self, name: str, people: Mapping[str, User | Actor]) -> Actor:
        if name in _ROLES and name not in people:
            return self.as_user(None, role=name)
        person = people[name]
        return person if isinstance(person, Actor) else self.as_user(person)

    def _explain(self, user: User, values: Mapping[str, object]) -> list[str]:
        """Return the decisive steps of a user's access to the resources among some values."""
        lines = []
        for noun in access_questions(self.registry):
            if user is None or noun not in values:
                continue
            try:
                step = self.explain(user, noun, values[noun]).first
            except MirrorError as error:
                lines.append(f"explain: {error}")
                continue
            says = "nothing stops it" if step is None else f"{step.name}: {step.says}"
            lines.append(f"explain {noun}: {says}")
            lines += [] if step is None or step.remedy is None else [f"  {step.remedy}"]
        return lines

    # Both sides

    def _differences(self, mapping: Declaration) -> list[str]:
        wanted, mirrored = self._wanted(mapping), self._mirrored(mapping)
        lines = []
        for key in sorted({*wanted, *mirrored}):
            ours, theirs = wanted.get(key), mirrored.get(key)
            if ours != theirs:
                says = "differs" if ours and theirs else "is missing" if ours else "is too much"
                lines.append(f"{mapping.name} {','.join(key)} {says}")
        more = [f"and {len(lines) - _SHOWN} more of {mapping.name}"] if lines[_SHOWN:] else []
        return lines[:_SHOWN] + more

    def _wanted(self, mapping: Declaration) -> dict[Key, Sequence[str | None]]:
        """Return the rows of a mapping's query whose parents exist, in texts."""
        rows = self._primary_rows(mapping)
        names = [column.name for column in mapping.columns]
        for parent in mapping.parents:
            known = {key for (key,) in self._wanted(self.registry[parent.mapping])}
            place = names.index(parent.column)
            rows = {k: row for k, row in rows.items() if row[place] is None or row[place] in known}
        return rows

    def _primary_rows(self, mapping: Declaration) -> dict[Key, Sequence[str | None]]:
        with self.drain.source.snapshot() as snapshot:
            rows = snapshot.rows_in_scope(mapping, "*", (), limit=1_000_000)
        return {key: row[: len(mapping.columns)] for key, row in rows.items()}

    def _mirrored(self, mapping: Declaration) -> dict[Key, Sequence[str | None]]:
        """Return the target's rows that have not expired, in texts."""
        names = [column.name for column in mapping.columns]
        query = sql.SQL("select {} from {} as m where {}").format(
            sql.SQL(", ").join(sql.SQL("m.{}::text").format(sql.Identifier(n)) for n in names),
            sql.Identifier(mapping.schema, mapping.table),
            sql.SQL("true")
            if mapping.expires is None
            else sql.SQL("coalesce(m.{} > now(), true)").format(sql.Identifier(mapping.expires)),
        )
        places = [names.index(name) for name in mapping.key]
        return {tuple(row[p] for p in places): row for row in self.target.execute(query).fetchall()}


class Sandboxes:
    """Makes sandboxes on two servers: copies of databases that it sets up once for each model."""

    def __init__(self, primary: PostgresCluster, target: PostgresCluster) -> None:
        self._primary = primary
        self._target = target
        self._templates: dict[int, tuple[Model, str]] = {}
        self._numbers = itertools.count(1)

    @contextmanager
    def open(self, model: Model) -> Iterator[Sandbox]:
        """Yield a sandbox with a model; its databases are dropped at the end."""
        template = self._template(model)
        name = f"sandbox_{next(self._numbers)}"
        self._primary.create_database(name, template=template)
        self._target.create_database(name, template=template, owner=OWNER)
        sandbox = Sandbox(
            model.registry, self._primary.url(name), self._target.url(name, user=OWNER)
        )
        try:
            yield sandbox
        finally:
            sandbox.close()
            self._primary.drop_database(name)
            self._target.drop_database(name)

    def _template(self, model: Model) -> str:
        """Return the name of the two databases in which a model is installed."""
        # The model is kept, so that no other one gets its id.
        if id(model) not in self._templates:
            name = f"template_{model.registry.name}_{len(self._templates)}"
            self._primary.create_database(name)
            self._target.create_database(name)
            prepare_database(self._target, name)
            prepare_services(self._target, name)
            model.install(self._primary.url(name), self._target.url(name, user=OWNER))
            self._templates[id(model)] = model, name
        return self._templates[id(model)][1]
