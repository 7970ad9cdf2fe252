"""The command `mirror serve`, as a process."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import Command
from tests.support.databases import TestDatabase
from tests.support.forking import HOME
from tests.support.serving import words
from tests.support.waiting import until

Serve = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def serve(primary: TestDatabase, target: TestDatabase, tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts the command on a free port."""
    started: list[subprocess.Popen[str]] = []

    def start(
        *arguments: str, command: Sequence[str] = ("serve",), **variables: str
    ) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(HOME), str(tmp_path)]),
            "PYTHONWARNINGS": "error",
            "PRIMARY_DATABASE_URL": primary.url,
            "SUPABASE_DB_URL": target.url,
        }
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "mirror"), *command, "--port", "0", *arguments],
            cwd=HOME,
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def printed(process: subprocess.Popen[str]) -> str:
    """Return the next address that the command prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("open http://127.0.0.1:"), line or process.communicate()[1]
    return line.removeprefix("open ").strip()


def client(address: str) -> httpx.Client:
    """Return a client of the server at an address."""
    return httpx.Client(base_url=httpx.URL(address).join("/"), timeout=30, trust_env=False)


def test_the_link_opens_the_page_once_and_only_by_its_button(serve: Serve) -> None:
    """A preview of the link does not use it up; a wrong token opens nothing."""
    process = serve()
    link = printed(process)
    with client(link) as browser, client(link) as other:
        assert browser.get("/").status_code == 403
        assert "link that mirror serve has printed" in words(browser.get("/").text)
        for _ in range(2):
            assert "Open the page" in other.get(link).text
        token = httpx.URL(link).params["token"]
        assert browser.post("/open", data={"token": "x"}).status_code == 403
        opened = browser.post("/open", data={"token": token})
        assert (opened.status_code, opened.headers["location"]) == (303, "/")
        cookie = opened.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "Now" in words(browser.get("/").text)
        assert other.post("/open", data={"token": token}).status_code == 403
        assert other.get("/").status_code == 403
        second = httpx.URL(printed(process)).params["token"]
        assert other.post("/open", data={"token": second}).status_code == 303
        assert other.get("/waiting").status_code == 200


def test_a_request_that_names_another_host_is_refused(serve: Serve) -> None:
    """A web site whose name leads to this machine reads nothing, not even metrics."""
    with client(printed(serve())) as browser:
        for path in ("/", "/metrics", "/healthz", "/static/page.css"):
            assert browser.get(path, headers={"host": "evil.example"}).status_code == 421
            assert browser.get(path, headers={"host": "127.0.0.1.evil.example"}).status_code == 421
        for host in ("localhost", "127.0.0.1:1", "[::1]:8710"):
            assert browser.get("/healthz", headers={"host": host}).text == "alive"
        assert "mirror_up" in browser.get("/metrics").text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_order(serve: Serve, number: signal.Signals, code: int) -> None:
    """Process managers stop it with SIGTERM."""
    process = serve()
    with client(printed(process)) as browser:
        assert browser.get("/healthz").text == "alive"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (code, False), err


def test_mirror_run_serves_the_page_beside_its_work(
    serve: Serve, mirror: Command, primary: TestDatabase, target: TestDatabase
) -> None:
    """One process mirrors and serves; a signal ends both, and health asks the page itself."""
    process = serve(command=("run", "--serve"))
    address = str(httpx.URL(printed(process)).join("/healthz"))
    with client(address) as browser:
        assert browser.get("/healthz").text == "alive"
        assert 'mirror_up{side="target"} 1.0' in browser.get("/metrics").text
    primary.query("insert into users values (gen_random_uuid(), 'a@example.com', 'a')")
    primary.query("insert into mirror.outbox (mapping, reference, key) values ('users', '*', '{}')")
    until(lambda: target.value("select count(*) from users") == 1)
    assert mirror("health", "--part", "page", "--url", address).code == 0
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (0, False), err
    done = mirror("health", "--part", "page", "--url", address)
    assert (done.code, "does not answer" in done.out) == (1, True), done.text


def test_a_function_of_yours_admits_instead_of_the_link(serve: Serve, tmp_path: Path) -> None:
    """Then no link is printed, and the page may listen on other addresses."""
    (tmp_path / "sign_in.py").write_text(
        "def authorize(request):\n"
        "    return 'view' if request.headers.get('x-user') == 'me' else None\n"
    )
    address = printed(serve("--authorize", "sign_in:authorize"))
    assert "token" not in address
    with client(address) as browser:
        assert browser.get("/").status_code == 403
        assert browser.get("/open").status_code == 404
        assert (
            browser.get("/", headers={"x-user": "me", "host": "mirror.example"}).status_code == 200
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--authorize MODULE:FUNCTION"),  # noqa: S104 - it is refused
        (["--authorize", "no.such:thing"], "cannot import"),
        (["--authorize", "mappings.trips:nothing"], "cannot import"),
        (["--authorize", "mappings.trips"], "cannot import"),
        (["--authorize", "mappings.trips:registry"], "is no function"),
        (["--port", "70000"], "65535"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_the_remedy(
    mirror: Command, arguments: list[str], message: str
) -> None:
    """Nothing is served."""
    done = mirror("serve", "--port", "0", *arguments)
    assert (done.code, done.out, message in done.err) == (2, "", True), done.err


def test_an_address_in_use_is_named(mirror: Command) -> None:
    """With the option that helps."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = mirror("serve", "--port", str(taken.getsockname()[1]))
    assert (done.code, "choose another --port" in done.err) == (2, True), done.err
