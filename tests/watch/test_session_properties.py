"""The state machine against a hostile world, by a stateful hypothesis test."""

from __future__ import annotations

import json

from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ortege_watch import _json as codec
from ortege_watch.errors import DecodeError, TransportError
from ortege_watch.query.added_keys import AddedKeys
from ortege_watch.watch import frames
from ortege_watch.watch.options import Settings, SharedFailures
from ortege_watch.watch.session import DialectChoice, Session
from ortege_watch.watch.states import (
    AskToken,
    Closed,
    DeadlinePassed,
    Deliver,
    Disconnect,
    Dropped,
    Event,
    Fail,
    Finish,
    Live,
    Open,
    Opened,
    OpenFailed,
    Ping,
    Poll,
    Polled,
    PollFailed,
    Polling,
    Pong,
    Received,
    Send,
    TokenReady,
    Unreadable,
    Waiting,
)

LIMITS = Settings()
QUERIES = {"1": {"measures": ["e.count"]}, "2": {"measures": ["e.sum"]}}
FORM_REFUSED = codec.decode_body(
    b'{"error":"Invalid query format: \\"responseFormat\\" is not allowed"}'
)


def body(version: int) -> codec.Body:
    return codec.decode_body(b'{"results":[{"data":[%d]}]}' % version)


def query_of(message_id: str) -> str:
    """Return the id of a query, which has several message ids one after the other."""
    return str(int(message_id) % 1_000_000)


class World(RuleBasedStateMachine):
    """A provider, a network and a Cube server that do whatever they like.

    The server sends each version of a result once: it remembers what it has sent to a
    query of a socket, until that query is unsubscribed.
    """

    @initialize(draw=st.floats(0, 1, exclude_max=True), calm=st.booleans())
    def begin(self, draw: float, calm: bool) -> None:
        self.now = 0.0
        self.session = Session(
            QUERIES,
            server="cube.example",
            choice=DialectChoice("cube", may_switch=False),
            settings=LIMITS,
            added_keys=AddedKeys(),
            failures=SharedFailures(LIMITS.reconnect),
            jitter=lambda: draw,
            new_id=lambda: "id",
            advice=lambda: "",
            now=self.now,
        )
        self.tokens = 0
        self.asked = False
        self.socket: str | None = None  # None, "opening", "open"
        self.sent: list[dict] = []
        self.unanswered: list[dict] = []
        self.rows = dict.fromkeys(QUERIES, 0)  # the version of each result
        self.told: dict[str, int | None] = {}  # which one was sent on this socket
        self.shown: dict[str, int] = {}  # which one was delivered
        self.unread: set[str] = set()
        self.refusing = False
        self.handshakes = 0
        self.shook_at: float | None = None
        self.subscribed_at: float | None = None
        self.pinged = False
        self.polls: set[str] = set()
        self.failures = 0
        self.closed = False
        self.calm = calm  # nothing costs the socket
        if calm:
            self.be_kind()

    # -------------------------------------------------------------- the shell

    def tell(self, event: Event) -> None:
        before = self.session.state
        for effect in self.session.handle(event, self.now):
            self.execute(effect)
        state = self.session.state
        if isinstance(state, Waiting) and not isinstance(before, Waiting):
            self.check_delay(state)
            self.shook_at = None
        self.closed = self.closed or isinstance(state, Closed)

    def execute(self, effect: object) -> None:
        assert not self.closed, "nothing is done after the end"
        match effect:
            case Send(text=text):
                assert self.socket == "open", "a frame for a dead socket"
                self.record(json.loads(text))
            case Ping():
                assert self.socket == "open", "a ping for a dead socket"
                self.pinged = True
            case Open():
                assert self.socket is None, "two sockets at once"
                self.socket = "opening"
            case Disconnect():
                self.hang_up()
            case AskToken():
                self.asked = True  # the shell gives up an earlier question
            case Poll(message_id=key):
                assert key not in self.polls, "a query is asked twice at once"
                self.polls.add(key)
            case Deliver(message_id=key, part=part):
                [self.shown[key]] = json.loads(bytes(part.data))
            case Finish():
                pass
            case Fail(final=final):
                assert not final, "no query is refused for good here"
            case _:
                raise AssertionError(effect)

    def record(self, frame: dict) -> None:
        if "authorization" in frame:
            assert self.sent.count(frame) == 0, "authorised twice with one token"
        else:
            assert self.handshakes, "a query before the handshake"
            if "unsubscribe" in frame:
                old = frame["unsubscribe"]
                given_up = self.refusing or old not in self.latest().values()
                assert given_up or old in self.unread, "nothing to ask for again"
            else:
                assert frame["method"] == "subscribe"
                self.subscribed_at = self.now
            self.unanswered.append(frame)
        if not self.sent:
            assert "authorization" in frame, "authorisation comes first"
        self.sent.append(frame)

    def hang_up(self) -> None:
        self.socket = None
        self.sent = []
        self.unanswered = []
        self.told = {}
        self.unread = set()
        self.handshakes = 0
        self.pinged = False

    def check_delay(self, state: Waiting) -> None:
        held = self.shook_at is not None and self.now - self.shook_at >= 10
        self.failures = 0 if held else self.failures
        whole = min(60.0, 2.0**self.failures)
        delay = state.until - self.now
        # delay == until - now carries the rounding of one float subtraction
        assert whole / 2 - 1e-6 <= delay <= whole + 1e-6
        self.failures += 1

    # -------------------------------------------------------------- the world

    @rule(seconds=st.floats(0, 90))
    def time_passes(self, seconds: float) -> None:
        self.move_clock(seconds / 20 if self.calm else seconds)

    def move_clock(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            deadline = self.session.state.until
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.tell(DeadlinePassed())
        self.now = end

    @precondition(lambda self: self.asked)
    @rule(expires=st.none() | st.floats(1, 500))
    def the_provider_answers(self, expires: float | None) -> None:
        self.asked = False
        self.tokens += 1
        at = None if expires is None else self.now + expires
        self.tell(TokenReady(f"token-{self.tokens}", at))

    @precondition(lambda self: self.socket == "opening")
    @rule()
    def the_socket_opens(self) -> None:
        self.socket = "open"
        self.tell(Opened())

    @precondition(lambda self: self.socket == "opening")
    @rule(status=st.sampled_from([None, 401, 403, 500, 503]))
    def the_socket_does_not_open(self, status: int | None) -> None:
        self.hang_up()
        self.tell(OpenFailed(TransportError("x"), status))

    @precondition(lambda self: self.socket == "open" and self.sent)
    @rule()
    def the_server_shakes_hands(self) -> None:
        self.handshakes += 1
        if self.shook_at is None:
            self.shook_at = self.now
        self.tell(Received(frames.Handshake()))

    @precondition(lambda self: self.handshakes and not self.calm)
    @rule(
        frame=st.sampled_from(
            [
                frames.Processed("1"),
                frames.Answer("7", body(0), 200),
                frames.FrameError(500, "oh"),
            ]
        )
    )
    def the_server_speaks(self, frame: frames.Frame) -> None:
        self.tell(Received(frame))

    @rule(key=st.sampled_from(sorted(QUERIES)))
    def rows_change(self, key: str) -> None:
        self.rows[key] += 1

    @precondition(lambda self: self.socket == "open" and self.unanswered)
    @rule(readable=st.booleans())
    def the_server_reads_a_frame(self, readable: bool) -> None:
        frame = self.unanswered.pop(0)
        if "unsubscribe" in frame:
            self.told.pop(frame["unsubscribe"], None)
        else:
            self.told.setdefault(frame["messageId"], None)
            self.refresh(frame["messageId"], readable)

    @precondition(lambda self: self.socket == "open" and self.told)
    @rule(readable=st.booleans())
    def the_server_ticks(self, readable: bool) -> None:
        for key in list(self.told):
            if self.socket == "open":
                self.refresh(key, readable)

    def refresh(self, key: str, readable: bool) -> None:
        """Send a result, if it is not the one that was sent last."""
        version = self.rows[query_of(key)]
        if self.told[key] != version:
            self.told[key] = version
            if readable:
                self.unread.discard(key)
                self.tell(Received(frames.Answer(key, body(version), 200)))
            else:
                self.unread.add(key)
                self.tell(Unreadable(DecodeError("x"), key))
        self.tell(Received(frames.Processed(key)))

    @precondition(lambda self: self.socket == "open" and self.asks_for_a_form())
    @rule(key=st.sampled_from(sorted(QUERIES)))
    def the_server_does_not_know_the_form(self, key: str) -> None:
        message_id = self.latest()[key]
        if message_id in self.told:
            self.told[message_id] = None
        self.refusing = True
        self.tell(Received(frames.Answer(message_id, FORM_REFUSED, 400)))
        self.refusing = False
        assert not self.asks_for_a_form()

    def asks_for_a_form(self) -> bool:
        latest = {
            query_of(f["messageId"]): f["params"]["query"]
            for f in self.sent[1:]
            if "method" in f
        }
        return any("responseFormat" in query for query in latest.values())

    def latest(self) -> dict[str, str]:
        """Return the message id with which each query was sent last."""
        ids = [f["messageId"] for f in self.sent if "method" in f]
        return {query_of(message_id): message_id for message_id in ids}

    @precondition(lambda self: self.socket == "open" and not self.calm)
    @rule()
    def the_server_speaks_in_tongues(self) -> None:
        self.tell(Unreadable(DecodeError("x")))

    @precondition(lambda self: self.socket == "open" and not self.calm)
    @rule()
    def the_connection_is_lost(self) -> None:
        self.hang_up()
        self.tell(Dropped(1006, TransportError("x")))

    @precondition(lambda self: self.pinged)
    @rule()
    def the_server_answers_a_ping(self) -> None:
        self.pinged = False
        self.tell(Pong())

    @precondition(lambda self: self.polls)
    @rule(well=st.booleans())
    def rest_answers(self, well: bool) -> None:
        key = self.polls.pop()
        error = TransportError("x")
        part = body(self.rows[key]).parts[0]
        self.tell(Polled(key, part) if well else PollFailed(key, error))

    # -------------------------------------------------------------- what holds

    @invariant()
    def something_is_due(self) -> None:
        """Never a hang: unless all is over, there is always a next deadline."""
        if hasattr(self, "session") and not self.closed:
            assert self.session.state.until is not None

    @invariant()
    def a_live_query_was_sent_within_the_last_minute(self) -> None:
        if hasattr(self, "session") and isinstance(self.session.state, Live):
            assert self.subscribed_at is not None
            assert self.now - self.subscribed_at <= 60

    def teardown(self) -> None:
        """Progress: once the world is kind, every query is live and shows its result."""
        if hasattr(self, "session"):
            self.be_kind()

    def be_kind(self) -> None:
        for _ in range(40):
            if self.closed or isinstance(self.session.state, Polling):
                return
            if self.asked:
                self.the_provider_answers(None)
            elif self.socket == "opening":
                self.the_socket_opens()
            elif self.socket == "open" and not self.handshakes:
                self.the_server_shakes_hands()
            elif self.unanswered and self.handshakes:
                self.the_server_reads_a_frame(True)
            elif isinstance(self.session.state, Live) and self.shown == self.rows:
                assert self.latest().keys() == QUERIES.keys()
                return
            else:
                deadline = self.session.state.until
                assert deadline is not None
                self.move_clock(max(0.0, deadline - self.now) + 1e-6)
                if self.told:
                    self.the_server_ticks(True)
        raise AssertionError(f"no progress: {self.session.state}")


World.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestWorld = World.TestCase
