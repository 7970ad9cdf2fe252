"""The faults of a run, drawn from its seed."""

import time
from collections import Counter
from contextlib import AbstractContextManager
from random import Random

from tests.chaos.servers import Servers
from tests.chaos.worker import STEPS
from tests.support.http_proxy import (
    Action,
    Answer,
    Exchange,
    answering,
    cut_in_the_body,
    sending,
    truncated,
)
from tests.support.tcp_proxy import TcpProxy


def _instead(answer: Answer) -> Action:
    """Return an action that does the call and sends another answer."""

    def action(exchange: Exchange) -> None:
        exchange.forward()
        exchange.send(answer)

    return action


_ODD: list[Action] = [
    truncated,
    cut_in_the_body,
    _instead(Answer(body=b"null")),
    _instead(Answer(body=b"[]")),
    _instead(Answer(body=b"{}")),
    _instead(Answer(body=b"7")),
    _instead(Answer(body=b'{"horizon": null, "mappings": {}}')),
    _instead(Answer(body=b"\xff", headers={"Content-Encoding": "gzip"})),
    answering(200, b'"\xff"'),
    answering(200, b"<html>", kind="text/html"),
    answering(200, b""),
    answering(503, Retry_After="86400"),
    answering(503, Retry_After="\xb2"),
    sending(b"HTTP/1.1 204 No Content\r\n\r\n"),
    sending(b"hello\r\n\r\n"),
]
"""Answers of a gateway, for calls that have taken effect and for others that have not."""


class Faults:
    """Breaks workers, servers and links, one after the other."""

    def __init__(self, servers: Servers, random: Random) -> None:
        self.servers = servers
        self.random = random
        self.made: Counter[str] = Counter()
        self._ordered: str | None = None
        """The step at which a worker is to die."""
        self._kinds = {
            "death ordered": self._order_death,
            "worker killed": lambda: self.servers.kill_worker(self.random),
            "redis crashed": lambda: self._outage(self.servers.no_redis()),
            "redis paused": self._pause_redis,
            "target crashed": lambda: self._outage(self.servers.no_target()),
            "primary crashed": lambda: self._outage(self.servers.no_primary()),
            "connections cut": lambda: self._link().cut(),
            "link stalled": self._stall,
        }
        self._weights = [8, 1, 1, 1, 1, 1, 3, 2]
        if servers.gateway is not None:
            self._kinds["odd answers"] = self._answer_oddly
            self._weights.append(6)

    def run(self, seconds: float) -> None:
        """Make faults with random pauses, for so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            # The longest pauses let workers catch up, so that revocations are acknowledged.
            time.sleep(min(left, self.random.choice([0.1, 0.5, 3.0])))
            (kind,) = self.random.choices(list(self._kinds), self._weights)
            self._kinds[kind]()
            self.made[kind] += 1
            self.made["worker ended"] += self.servers.replace_ended_workers()
        self._count_death()
        self.servers.heal()

    def _order_death(self) -> None:
        self._count_death()
        self._ordered = self.random.choice(STEPS)
        self.servers.step.write_text(self._ordered)

    def _count_death(self) -> None:
        """Count the last order, if a worker has carried it out."""
        if self._ordered and not self.servers.step.exists():
            self.made[f"death at {self._ordered}"] += 1
        self._ordered = None

    def _outage(self, outage: AbstractContextManager[None]) -> None:
        with outage:
            time.sleep(self.random.uniform(0.1, 1.5))

    def _pause_redis(self) -> None:
        self.servers.stack.redis.pause()
        time.sleep(self.random.uniform(0.1, 2.0))
        self.servers.stack.redis.resume()

    def _link(self) -> TcpProxy:
        return self.servers.links[self.random.choice(sorted(self.servers.links))]

    def _answer_oddly(self) -> None:
        """Let the gateway damage the next answers; some calls take effect before."""
        if (gateway := self.servers.gateway) is not None:
            gateway.script.extend(self.random.choices(_ODD, k=self.random.randint(1, 8)))

    def _stall(self) -> None:
        link = self._link()
        link.stall()
        # Longer than a statement may take, now and then.
        time.sleep(self.random.choice([0.2, 1.0, 4.0]))
        link.resume()
