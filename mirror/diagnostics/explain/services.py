"""Services: explains why a user may join a channel of Realtime, or use a file in Storage."""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from mirror.access.questions import AccessQuestion, access_questions
from mirror.access.rules import VERBS, Rule
from mirror.access.supabase.folders import Folder, Folders
from mirror.access.supabase.topics import Topic, Topics
from mirror.diagnostics.explain.decision import (
    MIGRATE,
    broken_step,
    deciding_policies,
    policy_lines,
)
from mirror.diagnostics.explain.declared_rules import rules_allow
from mirror.diagnostics.explain.explanation import Explanation, Step, StepStatus
from mirror.diagnostics.explain.freshness import freshness_step, stale_mappings
from mirror.diagnostics.explain.permission import canonical_ids
from mirror.diagnostics.explain.statement import after_resource
from mirror.errors import InvalidKey, UsageError
from mirror.schema.freshness import mappings_read, must_be_fresh
from mirror.sync.drain import Drain
from mirror.sync.targets.asking import Ask, AskHelper, AskResult, AskStatement

_PERMISSIONS: Final = {
    "receive": ("select", "broadcast"),
    "watch": ("select", "presence"),
    "send": ("insert", "broadcast"),
    "appear": ("insert", "presence"),
}
"""The permissions of a Topic: the statement that Realtime tries, and the extension in its row."""
_JOINS: Final = ("receive", "watch")
"""One of these is enough to join a channel."""


class _Try(NamedTuple):
    """A statement that the service tries as the user."""

    name: str
    ask: AskStatement
    rules: tuple[Rule, ...]
    """One of these has to allow it; empty: the registry declares none."""


def explain_channel(
    drain: Drain, topic: str, user: str, *, show_values: bool = False
) -> Explanation:
    """Explain whether a user may join a private channel, and what the user may do there.

    Raises:
        UsageError: the registry declares no channels.
        MirrorError: a side does not answer, or the login may not act as a user.
    """
    guards = [guard for guard in drain.registry.guards if isinstance(guard, Topics)]
    if not guards:
        raise UsageError(f"registry {drain.registry.name!r} declares no Topics, so no channel.")
    prefix, _, resource = topic.partition(":")
    declared = next((one for guard in guards for one in guard.topics if one.prefix == prefix), None)
    tries = []
    for name, (verb, extension) in _PERMISSIONS.items():
        row = {"topic": topic, "extension": extension}
        role = getattr(declared, name, None)
        ask = AskStatement("realtime", "messages", verb, row, attempt=False)
        tries.append(_Try(name, ask, () if role is None else (role,)))
    page = _Page(drain, user, f"May {user} join the channel {topic}?", topic, tries, _JOINS)
    if declared is not None:
        return page.declared(declared, resource, own=False, show_values=show_values)
    if any(topic == f"{guard.personal}:{user}" for guard in guards):
        return page.undeclared("", expected=True)
    known = [f"{one.prefix}:<id>" for guard in guards for one in guard.topics]
    known += [f"{one.personal}:<the user's own id>" for one in guards if one.personal is not None]
    return page.undeclared(f"the declared channels are {', '.join(known)}", expected=False)


def explain_file(
    drain: Drain, bucket: str, path: str, verb: str, user: str, *, show_values: bool = False
) -> Explanation:
    """Explain one statement of a user on a file in Storage, which need not exist.

    Raises:
        UsageError: the registry declares no folders.
        MirrorError: a side does not answer, or the login may not act as a user.
    """
    folders = [
        folder
        for guard in drain.registry.guards
        if isinstance(guard, Folders)
        for folder in guard.folders
    ]
    if not folders:
        raise UsageError(f"registry {drain.registry.name!r} declares no Folders, so no file.")
    row = {"bucket_id": bucket, "name": path}
    ask = AskStatement("storage", "objects", verb, row, attempt=False)
    title = f"May {user} {verb} the file {bucket}/{path}?"
    for folder in folders:
        ids = folder.ids_in(path) if folder.bucket == bucket else None
        if ids is not None:
            resource, owner = ids
            rules = next((a.rules for v, a in folder.verbs.items() if VERBS[v] == verb), ())
            reads = folder.verbs["read"].rules if "read" in folder.verbs else ()
            also = reads if verb in {"update", "delete"} else None
            page = _Page(drain, user, title, path, [_Try(verb, ask, rules)], (verb,), also)
            return page.declared(folder, resource, own=owner == user, show_values=show_values)
    known = ", ".join(f"{one.bucket}/{one.path}/…" for one in folders)
    page = _Page(drain, user, title, path, [_Try(verb, ask, ())], (verb,))
    return page.undeclared(f"the declared folders are {known}", expected=False)


class _Page:
    """The explanation of what a user may do with one channel or file."""

    def __init__(
        self,
        drain: Drain,
        user: str,
        title: str,
        what: str,
        tries: Sequence[_Try],
        enough: Collection[str],
        also: tuple[Rule, ...] | None = None,
    ) -> None:
        """`enough` names the tries of which one has to pass; `also` has rules that each needs."""
        self._drain = drain
        self._user = user
        self._title = title
        self._what = what
        self._tries = tries
        self._enough = enough
        self._also = also

    def undeclared(self, says: str, *, expected: bool) -> Explanation:
        """Return the explanation if no resource decides: a policy of the project may allow it."""
        results = self._drain.target.ask([one.ask for one in self._tries], [(self._user, [])])[0]
        allowed = self._passes(results)
        if allowed == expected or allowed:
            lines = self._lines(results)
            text = f"{self._what}: {'allowed' if allowed else f'no declaration allows it; {says}'}."
            status = StepStatus.YES if allowed else StepStatus.NO
            step = Step("decision", status, text, details=lines)
        else:
            step = self._contradiction(self._tries[0], results[0], expected=expected)
        return Explanation(self._title, None, allowed, (step,))

    def declared(
        self, declared: Topic | Folder, resource: str, *, own: bool, show_values: bool
    ) -> Explanation:
        """Return the explanation if the user's level on a resource decides."""
        registry = self._drain.registry
        question = next(q for q in access_questions(registry).values() if q.via == declared.via)
        spelling = self._misspelt(question, resource)
        if spelling is not None:
            return self.undeclared(spelling, expected=False)
        helpers: list[Ask] = [AskHelper(h.function, h.arguments, h.each) for h in question.helpers]
        asks = [*helpers, *(one.ask for one in self._tries)]
        answers = self._drain.target.ask(asks, [(self._user, [resource])])[0]
        results = answers[len(helpers) :]
        levels = {
            helper.level
            for helper, answer in zip(question.helpers, answers, strict=False)
            if resource in answer.values
        }
        read = mappings_read(registry, " ".join(one.call("") for one in question.helpers))
        needed = must_be_fresh(registry, declared.stale, read)
        steps: list[Step] = []
        stale = False
        if needed:
            trace = self._drain.target.trace(self._user, [])
            stale = bool(stale_mappings(registry, trace, needed))
            denied = not self._passes(results)
            steps += filter(None, [freshness_step(registry, trace, needed, denied=denied)])
        steps.append(self._decision(results, levels, own=own, stale=stale))
        page = Explanation(self._title, None, self._passes(results), tuple(steps))
        return after_resource(
            self._drain, page, question, self._user, resource, show_values=show_values
        )

    def _misspelt(self, question: AccessQuestion, resource: str) -> str | None:
        """Return why an id in a topic or a path is none, for policies compare texts; else None."""
        try:
            _, canonical = canonical_ids(self._drain.registry, question, self._user, resource)
        except InvalidKey:
            return f"{resource!r} is no id of a {question.noun}"
        if canonical != resource:
            return f"policies compare texts, and the database spells this id {canonical}"
        return None

    def _decision(
        self, results: Sequence[AskResult], levels: Collection[str], *, own: bool, stale: bool
    ) -> Step:
        """Return the step that compares the policies with the rules; `stale` rows allow nothing."""
        for one, result in zip(self._tries, results, strict=True):
            expected = rules_allow(one.rules, levels, own=own)
            if self._also is not None and expected:
                expected = rules_allow(self._also, levels, own=own)
            expected = False if stale else expected
            if one.rules or result.passes(one.ask.verb):
                broken = broken_step(_table(one), one.ask.verb, result)
                if broken is not None:
                    return broken
            if expected is not None and result.passes(one.ask.verb) != expected:
                return self._contradiction(one, result, expected=expected)
        allowed = self._passes(results)
        return Step(
            "decision",
            StepStatus.YES if allowed else StepStatus.NO,
            f"{self._what}: {'allowed' if allowed else 'refused'}, as declared.",
            details=self._lines(results),
        )

    def _contradiction(self, one: _Try, result: AskResult, *, expected: bool) -> Step:
        broken = broken_step(_table(one), one.ask.verb, result)
        if broken is not None:
            return broken
        policies, declarations = ("refuse", "allow") if expected else ("allow", "refuse")
        says = (
            f"{self._what}: the policies {policies} {one.name}, the declarations {declarations} it."
        )
        return Step("decision", StepStatus.BROKEN, says, MIGRATE, details=policy_lines(result))

    def _passes(self, results: Sequence[AskResult]) -> bool:
        return any(
            result.passes(one.ask.verb)
            for one, result in zip(self._tries, results, strict=True)
            if one.name in self._enough
        )

    def _lines(self, results: Sequence[AskResult]) -> tuple[str, ...]:
        return tuple(
            f"{one.name}: {'allowed' if result.passes(one.ask.verb) else 'refused'}"
            + (f", by {by}" if (by := deciding_policies(result, one.ask.verb)) else "")
            for one, result in zip(self._tries, results, strict=True)
        )


def _table(one: _Try) -> str:
    return f"{one.ask.schema}.{one.ask.table}"
