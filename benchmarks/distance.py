"""Distance: measures a worker whose databases are 5 ms away, as in other clouds."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from functools import partial
from urllib.parse import urlsplit

from benchmarks.measuring import Report
from benchmarks.servers import milliseconds, start_servers, timed
from benchmarks.throughput import make_changes
from mappings.trips import registry
from mirror.schema import triggers_sql
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain

# A round trip.
_MILLISECONDS = 5
# One direction; the event loop's clock adds a millisecond.
_SECONDS = _MILLISECONDS / 2000 - 0.001


def main(report: Report, *, quick: bool) -> None:
    """Measure drains of many events, in batches of two sizes, and drains of one event."""
    rounds, events = (1, 1_000) if quick else (3, 20_000)
    with (
        start_servers() as servers,
        _delayed(servers.stack.primary_url) as primary,
        _delayed(servers.stack.supabase_db_url) as target,
    ):
        servers.fill(10_000 if quick else 100_000)
        servers.load()
        with servers.primary.transaction():
            servers.primary.execute(triggers_sql(registry).encode())
        for _ in range(rounds):
            for size in (500, 2000):
                with closing(_drain(primary, target, size)) as drain:
                    # This opens the connections.
                    drain.run()
                    make_changes(servers, events)
                    seconds = timed(lambda d=drain: d.run(seconds=600))  # type: ignore[misc]
                what = f"{_MILLISECONDS} ms away: one worker, batches of {size}"
                report.add(what, "/s", events / seconds)
            with closing(_drain(primary, target, 500)) as drain:
                drain.run()
                drains, round_trips = [], []
                for _ in range(10):
                    make_changes(servers, 1)
                    drains += milliseconds(drain.once, 1)
                    round_trips += milliseconds(partial(drain.queue.beside.execute, "select 1"), 1)
                report.add(f"{_MILLISECONDS} ms away: a drain of one event", "ms", *drains)
                report.add(f"{_MILLISECONDS} ms away: a round trip", "ms", *round_trips)


def _drain(primary: str, target: str, batch_size: int) -> Drain:
    settings = load_settings(
        primary_database_url=primary,
        supabase_db_url=target,
        target="postgres",
        batch_size=batch_size,
    )
    return build_drain(settings, registry)


@contextmanager
def _delayed(url: str) -> Iterator[str]:
    """Yield the URL of a proxy that delays all bytes to and from the server."""
    parts = urlsplit(url)
    ready: Future[tuple[int, Callable[[], object]]] = Future()

    async def serve() -> None:
        ended = asyncio.Event()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            from_server, to_server = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.gather(_forward(reader, to_server), _forward(from_server, writer))

        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ready.set_result((port, partial(loop.call_soon_threadsafe, ended.set)))
        await ended.wait()
        server.close()
        # Both ends have closed their connections; wait until the delayed bytes are sent.
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    port, end = ready.result()
    yield url.replace(f":{parts.port}/", f":{port}/", 1)
    end()
    thread.join()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forward bytes in their order, with a delay."""
    loop = asyncio.get_running_loop()
    while data := await reader.read(1 << 16):
        loop.call_later(_SECONDS, writer.write, data)
    loop.call_later(_SECONDS, writer.close)
