"""Sandbox: a primary and a target of one test, with a drain between them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property

import psycopg
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.orm import Session

from mirror.access.questions import access_questions
from mirror.diagnostics.explain import Explanation, explain_resource, question_about
from mirror.errors import MirrorError
from mirror.model.registry import Registry
from mirror.settings import load_settings
from mirror.sync import orders
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from mirror.testing.acting import Actor, Result, Row, User
from mirror.testing.differences import differing_rows
from mirror.testing.model import sqlalchemy_url
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
        # A test may change tables between two runs of a statement.
        connection = psycopg.connect(url, autocommit=autocommit, prepare_threshold=None)
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
        differences = differing_rows(self.drain, self.target)
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
