"""Each fault, over sockets, between a client and a server that echoes."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from injection.proxy import LOOPBACK, LoopThread, Proxy
from injection.schedule import Entry, Fault

SECONDS = 5.0


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except ConnectionError:
            pass


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server((LOOPBACK, 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with LoopThread() as thread, Proxy(thread, echo) as proxy:
        yield proxy


@contextmanager
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection((LOOPBACK, proxy.port), timeout=SECONDS) as sock:
        yield sock


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def echoed(sock: socket.socket, data: bytes) -> bool:
    sock.sendall(data)
    return receive(sock, len(data)) == data


@contextmanager
def during(proxy: Proxy, fault: Fault, ending="reset") -> Iterator[None]:
    """Let a fault last for the block."""
    entry = Entry(0.0, fault, 1.0, ending)
    proxy.begin(entry)
    yield
    proxy.finish(entry)


def is_silent(sock: socket.socket) -> bool:
    sock.settimeout(0.1)
    try:
        return not sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(SECONDS)


def test_without_a_fault_all_bytes_arrive(proxy):
    data = bytes(range(256)) * 2000
    with client(proxy) as sock:
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        assert receive(sock, len(data)) == data
        sender.join()
    assert proxy.wait_idle(SECONDS)
    assert proxy.effects == {}


def test_a_client_that_half_closes_still_gets_the_answer(proxy):
    with client(proxy) as sock:
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock, 100) == b"last words"


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.RESET, Fault.DOWN])
def test_open_connections_end(proxy, fault):
    with client(proxy) as sock:
        assert echoed(sock, b"before")
        with during(proxy, fault):
            if fault is Fault.RESET:
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
            else:
                assert sock.recv(1) == b""
    with client(proxy) as sock:
        assert echoed(sock, b"after")
    assert proxy.effects == {fault: 1}


def test_half_close_of_either_side(proxy):
    for seed in (0, 1):
        with client(proxy) as sock:
            assert echoed(sock, b"before")
            proxy.begin(Entry(0.0, Fault.HALF_CLOSE, 0.0, seed=seed))
            assert sock.recv(1) == b""
        assert proxy.wait_idle(SECONDS)  # or the next fault meets it, too
    assert proxy.effects == {Fault.HALF_CLOSE: 2}


def test_down_refuses_connections(proxy):
    with (
        during(proxy, Fault.DOWN),
        pytest.raises(ConnectionRefusedError),
        client(proxy),
    ):
        pass
    with client(proxy) as sock:
        assert echoed(sock, b"after")


@pytest.mark.parametrize(
    ("fault", "start"), [(Fault.UNAVAILABLE, b"HTTP/1.1 50"), (Fault.CLOSE_EARLY, b"")]
)
def test_new_connections_are_answered_by_the_proxy(proxy, fault, start):
    with during(proxy, fault), client(proxy) as sock:
        try:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert receive(sock, 10_000).startswith(start)
        except ConnectionError:  # what was sent came too late
            assert fault is Fault.CLOSE_EARLY
    with client(proxy) as sock:
        assert echoed(sock, b"after")
    assert proxy.effects == {fault: 1}


def test_garbage_comes_unasked(proxy):
    with during(proxy, Fault.GARBAGE), client(proxy) as sock:
        assert receive(sock, 10_000)
    assert proxy.effects == {Fault.GARBAGE: 1}


@pytest.mark.parametrize("fault", [Fault.STALL, Fault.SILENCE])
@pytest.mark.parametrize("ending", ["resume", "reset", "never"])
def test_a_silent_connection(proxy, fault, ending):
    with ExitStack() as stack:
        if fault is Fault.STALL:
            sock = stack.enter_context(client(proxy))
            assert echoed(sock, b"before")
        with during(proxy, fault, ending):
            if fault is Fault.SILENCE:
                sock = stack.enter_context(client(proxy))
            sock.sendall(b"held")
            assert is_silent(sock)
        match ending:
            case "resume":
                assert receive(sock, 4) == b"held"
                assert echoed(sock, b"after")
            case "reset":
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
            case "never":
                assert is_silent(sock)
    # The proxy notices that the client has gone, however silent it is itself.
    assert proxy.wait_idle(SECONDS)
    assert proxy.effects == {fault: 1}


@pytest.mark.parametrize("fault", [Fault.SPLIT, Fault.THROTTLE, Fault.DELAY])
def test_slow_bytes_all_arrive(proxy, fault):
    with during(proxy, fault), client(proxy) as sock:
        assert echoed(sock, bytes(range(256)))
    assert proxy.wait_idle(SECONDS)
    assert proxy.effects[fault] >= 1


def test_merged_segments_arrive_together(proxy):
    with during(proxy, Fault.MERGE), client(proxy) as sock:
        for _ in range(5):
            sock.sendall(b"ab")
        assert receive(sock, 10) == b"ab" * 5
    assert proxy.wait_idle(SECONDS)
    assert proxy.effects[Fault.MERGE] >= 1


def test_a_truncated_answer_ends_the_connection(proxy):
    with during(proxy, Fault.TRUNCATE), client(proxy) as sock:
        sock.sendall(b"0123456789")
        data = b""
        with suppress(ConnectionResetError):  # which may overtake the bytes
            data = receive(sock, 10)
        assert data != b"0123456789"
        assert b"0123456789".startswith(data)
    assert proxy.effects == {Fault.TRUNCATE: 1}


def test_what_has_a_string_is_corrupted_once(proxy):
    with client(proxy) as sock:
        assert echoed(sock, b"a marker")
        proxy.spoil("marker")
        assert echoed(sock, b"another")
        assert not proxy.has_spoiled
        sock.sendall(b"the marker, the marker")
        assert receive(sock, 22) == b"the \xff\xff\xff\xff\xff\xff, the marker"
        assert proxy.has_spoiled
        assert echoed(sock, b"the marker")
    assert proxy.effects == {Fault.CORRUPT: 1}


def test_a_schedule_runs_in_order_and_leaves_nothing_behind(proxy):
    with client(proxy) as sock:
        assert echoed(sock, b"before")
        proxy.run(
            [
                Entry(0.0, Fault.DOWN, 0.05),
                Entry(0.02, Fault.DOWN, 0.05),
                Entry(0.03, Fault.SILENCE, 0.02),
            ]
        ).result(SECONDS)
        assert sock.recv(1) == b""
    assert proxy.active == []
    with client(proxy) as sock:
        assert echoed(sock, b"after")


def test_leaving_a_proxy_ends_its_schedule_and_its_connections(echo):
    with LoopThread() as thread:
        with Proxy(thread, echo) as proxy:
            future = proxy.run([Entry(0.0, Fault.STALL, 60.0, "never")])
            sock = socket.create_connection((LOOPBACK, proxy.port), timeout=SECONDS)
            sock.sendall(b"anything")
        with sock, suppress(ConnectionResetError):
            receive(sock, 100)
        assert future.cancelled()
        assert proxy.connections == 0
