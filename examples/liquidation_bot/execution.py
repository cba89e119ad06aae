"""From a plan to its execution: the queue, the guard, the executor.

A plan is decided about again before it is handed over, and its journal is on the disk
before the executor is called. The shipped executor only writes plans down: nothing signs
or sends a transaction.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

import attrs
import msgspec

from liquidation_bot.display import short
from liquidation_bot.engine import Engine, Plan, Skip
from liquidation_bot.model import UsageError, shown
from liquidation_bot.record import Entry, Journal, Step, write_atomically

__all__ = [
    "Dispatcher",
    "DryRunExecutor",
    "Executor",
    "ExecutorError",
    "Guard",
    "Hooks",
    "NotSent",
    "load",
    "settle",
]

T = TypeVar("T")

_FIRST_DELAY: Final = 60
_LONGEST_DELAY: Final = 6 * 3600
_LONGEST_TEXT: Final = 300
_BLOCKS: Final = (
    "the executor blocks the event loop, and nothing else runs meanwhile: await what "
    "takes long, such as asyncio.to_thread(...)"
)

Document: TypeAlias = Mapping[str, Any]
Queued: TypeAlias = tuple[Plan, Document]


def in_order(queued: Iterable[Queued]) -> list[Queued]:
    """Return plans in the order of execution: the most profitable first. Pure."""
    return sorted(
        queued, key=lambda it: (-it[0].profit_usd, it[0].made_at, it[0].borrower)
    )


def back_off(first: int, failures: int) -> int:
    """Return the seconds to wait after that many failures in a row. Pure."""
    return min(first << min(failures - 1, 20), max(first, _LONGEST_DELAY))


class ExecutorError(UsageError):
    """Raised when an executor cannot be loaded."""


class NotSent(Exception):
    """Raise it in an executor if nothing was sent, and nothing will be.

    The plan's dollars do not count then. After any other error they do, because the
    transaction may be on its way.
    """


class Executor(Protocol):
    """Something that handles plans.

    It may also have ``async def balance(self, asset: str) -> int``, which returns how
    much of a token the wallet has, in its smallest unit. Plans are sized down to that.
    """

    async def execute(self, plan: Document) -> str:
        """Handle a plan, and return in a few words for the log what was done.

        Raises:
            NotSent: nothing was sent, and nothing will be.
        """
        ...


def load(path: str) -> Executor:
    """Import ``module:name``, call it, and return the executor.

    Raises:
        ExecutorError: it cannot be made, or its methods are not coroutine functions.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ExecutorError(f"executor must be module:name, got {path!r}")
    try:
        executor = getattr(importlib.import_module(module), name)()
    except Exception as error:  # it is the user's code
        problem = f"cannot load the executor {path!r}: {_failure(error)}"
        raise ExecutorError(problem) from error
    for method in ("execute", "balance"):
        found = getattr(executor, method, None)
        is_needed = found is not None or method == "execute"
        if is_needed and not inspect.iscoroutinefunction(found):
            raise ExecutorError(
                f"executor {path!r} must have 'async def {method}', got {found!r}; a "
                "synchronous method would stop the bot while it runs"
            )
    return cast("Executor", executor)


class DryRunExecutor:
    """An executor that writes each plan as a JSON file, or as a line.

    Args:
        directory: of the files ``<id>.json``; created when first needed.
        write: called with the line if ``directory`` is None.
    """

    def __init__(
        self, directory: Path | None, write: Callable[[str], object] | None = None
    ) -> None:
        self._directory = directory
        self._write = write

    async def execute(self, plan: Document) -> str:
        """Write the plan."""
        if self._directory is None:
            if self._write is not None:
                self._write(json.dumps(plan, ensure_ascii=False))
            return "dry run"
        path = self._directory / f"{plan['id']}.json"
        write_atomically(path, json.dumps(plan, ensure_ascii=False, indent=2) + "\n")
        return f"dry run, written to {path}"


@attrs.frozen
class Guard:
    """The conditions under which plans may be executed.

    Attributes:
        cap: dollars with eight decimals that all executed plans together may pay.
        kill_file: while a file of this name exists, nothing is executed.
        within: seconds that a call of the executor may take.
    """

    cap: int
    kill_file: Path
    within: int = 60


@attrs.frozen(kw_only=True)
class Hooks:
    """What a dispatcher uses of the bot.

    ``cool_down`` sets one until a time; ``doubt`` returns why no plan may leave.
    """

    engine: Engine
    document: Callable[[Plan], Document]
    cool_down: Callable[[str, int], Awaitable[None]]
    say: Callable[..., object]  # a note: kind, text and data
    doubt: Callable[[], str]
    now: Callable[[], int]
    sleep: Callable[[float], Awaitable[None]]


class Dispatcher:
    """The way from the bot's plans to the executor, which gets each at most once.

    Without a guard the executor only writes, and is called at once. With one, plans are
    queued, and :meth:`run` hands them over one after another; a plan that is held back
    stays in the queue.

    Args:
        executor: receives the plans.
        journal: keeps every step; by default nothing is kept.
        guard: the conditions of execution; None if the executor only writes.

    Attributes:
        executes: whether there is a guard.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        journal: Journal | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._executor = executor
        self._journal = journal or Journal()
        self._guard = guard
        self.executes = guard is not None
        self._queue: dict[str, Queued] = {}
        self._due: set[str] = set()
        self._holds: dict[str, str] = {}
        self._more, self._idle = asyncio.Event(), asyncio.Event()

    async def offer(self, plan: Plan, document: Document, until: int) -> str:
        """Queue a plan, or write it, and return which in words.

        Args:
            plan: the plan.
            document: the plan as JSON values.
            until: when its borrower may get another plan, in unix seconds.
        """
        new = plan.made_at, document["id"], plan.borrower
        if self._guard is not None:
            self._journal.append(Entry("planned", *new))
            self._queue[plan.borrower] = plan, document
            self.retry(plan.borrower)
            return "queued"
        self._journal.append(Entry("written", *new, until=until))
        try:
            return await self._executor.execute(document)
        except OSError as error:  # a full disk, or nobody reads: no plan would arrive
            raise OSError(f"cannot write plan {document['id']}: {error}") from error
        except Exception as error:  # noqa: BLE001 - the executor is the user's code
            return f"the executor failed with {_failure(error)}"

    def queued(self) -> int:
        """Return how many plans are queued."""
        return len(self._queue)

    def retry(self, *borrowers: str) -> None:
        """Try to hand over plans of these borrowers, or else all of the queue."""
        self._due.update(borrowers or self._queue)
        if self._due:
            self._idle.clear()
            self._more.set()

    async def drained(self) -> None:
        """Wait until every plan was handed over, dropped or held back."""
        await self._idle.wait()

    async def run(self, hooks: Hooks) -> None:
        """Hand over plans until cancelled; a call that has begun may end first."""
        self._report(hooks)
        while True:
            if not self._due:
                self._more.clear()
                self._idle.set()
                await self._more.wait()
            self._say_notice(hooks)
            plan, document = in_order(self._queue[each] for each in self._due)[0]
            self._due.discard(plan.borrower)
            del self._queue[plan.borrower]
            await self._hand_over(plan, document, hooks)

    def _say_notice(self, hooks: Hooks) -> None:
        if notice := self._journal.notice:
            self._journal.notice = ""
            hooks.say("trouble", notice)

    def _report(self, hooks: Hooks) -> None:
        """Say what the last run has left behind; only once, since it is a result."""
        self._say_notice(hooks)
        for entry in list(self._journal.ledger.open.values()):
            hooks.say(
                "trouble",
                f"{short(entry.borrower)} plan {entry.id} was handed over at {entry.at} "
                f"(unix seconds), result unknown: check the chain; {_counts(entry)}",
            )
            self._journal.append(
                Entry("unknown", hooks.now(), entry.id, entry.borrower)
            )

    async def _hand_over(self, planned: Plan, document: Document, hooks: Hooks) -> None:
        """Decide about a plan again, then hand it over, hold it back or drop it."""
        borrower, ledger = planned.borrower, self._journal.ledger
        last = self._holds.pop(borrower, "")
        plan = await self._decide(borrower, hooks)
        # From this decision to the journal nothing is awaited.
        now, until = hooks.now(), ledger.cool_downs.get(borrower, 0)
        if isinstance(plan, str):
            if plan != last:
                hooks.say("execute", f"{short(borrower)} held back: {plan}")
            self._holds[borrower] = plan
            self._queue.setdefault(borrower, (planned, document))
            return
        if isinstance(plan, Plan):
            # Nothing but the time has changed? Then it is the plan that was shown.
            same = hooks.document(
                attrs.evolve(
                    plan, made_at=planned.made_at, valid_until=planned.valid_until
                )
            )
            if same != document or planned.valid_until < now:
                document = hooks.document(plan)
            if until <= now and document["id"] not in ledger.handed:
                await self._send(plan, document, hooks)
                return
            why = f"another plan was handed over, wait {max(until - now, 0)} s"
        else:
            why = f"{plan.reason}: {plan.detail}"
        hooks.say("execute", f"{short(borrower)} dropped: {why}")
        self._journal.append(Entry("dropped", now, document["id"], borrower, text=why))
        await hooks.cool_down(borrower, max(until, now))

    async def _decide(self, borrower: str, hooks: Hooks) -> Plan | Skip | str:
        """Decide again within the cap and the wallet; return why it must wait, or a plan."""
        guard, engine = cast("Guard", self._guard), hooks.engine
        balance = getattr(self._executor, "balance", None)
        wallet: dict[str, int] = {}
        while True:
            decision = engine.again(borrower, hooks.now())
            if isinstance(decision, Skip):
                return decision
            if guard.kill_file.exists():
                return f"the kill file {guard.kill_file} exists"
            if doubt := hooks.doubt():
                return doubt
            left = max(guard.cap - self._journal.ledger.spent, 0)
            most = engine.limits.wallet_cap
            limits = msgspec.structs.replace(
                engine.limits, wallet_cap=left if most is None else min(most, left)
            )
            sized = engine.again(borrower, hooks.now(), limits, wallet)
            if isinstance(sized, Skip):
                return (
                    f"{shown(left, 8, 2)} USD of the cap and the balances {wallet} "
                    f"allow no plan: {sized.reason}, {sized.detail}"
                )
            asset = sized.debt.asset
            if balance is None or asset in wallet:
                return sized
            try:
                wallet[asset] = _amount(await self._bounded(balance(asset), hooks))
            except Exception as error:  # noqa: BLE001 - the executor is the user's code
                return f"cannot read the balance of {asset}: {_failure(error)}"

    async def _send(self, plan: Plan, document: Document, hooks: Hooks) -> None:
        """Hand a plan over; if the bot ends meanwhile, still wait for the result."""
        now = hooks.now()
        begun = Entry(
            "handed over",
            now,
            document["id"],
            plan.borrower,
            until=now + hooks.engine.cool_down,
            usd=plan.most_paid_usd,
        )
        self._journal.append(begun)
        calling = asyncio.create_task(self._call(begun, document, hooks))
        try:
            await asyncio.shield(calling)
        except asyncio.CancelledError:
            hooks.say("execute", f"ending after the result of plan {begun.id}")
            await calling
            raise

    async def _call(self, begun: Entry, document: Document, hooks: Hooks) -> None:
        """Call the executor and write its result down."""
        step: Step = "failed"
        try:
            call = self._executor.execute(document)
            text, step = _words(await self._bounded(call, hooks)), "done"
        except NotSent as error:
            text, step = f"NotSent: {_words(error)}", "not sent"
        except Exception as error:  # noqa: BLE001 - the executor is the user's code
            text = f"{_failure(error)}; {_counts(begun)}"
        now, until = hooks.now(), begun.until
        if step != "done":
            failures = self._journal.ledger.failures.get(begun.borrower, 0) + 1
            first = _FIRST_DELAY if step == "not sent" else hooks.engine.cool_down
            until = now + back_off(first, failures)
            text += f"; no other plan for {until - now} s"
        self._journal.append(
            Entry(step, now, begun.id, begun.borrower, until=until, text=text)
        )
        hooks.say(
            "execute" if step == "done" else "trouble",
            f"{short(begun.borrower)} plan {begun.id} {step}: {text}",
            result=step,
        )
        await hooks.cool_down(begun.borrower, until)

    async def _bounded(self, call: Coroutine[Any, Any, T], hooks: Hooks) -> T:
        """Return the result of a call; after the time limit raise TimeoutError."""
        within, begun = cast("Guard", self._guard).within, hooks.now()
        # A call that blocks the event loop stops everything else, the limit included.
        alarm = threading.Timer(2 * within, print, [_BLOCKS], {"file": sys.stderr})
        alarm.daemon = True
        alarm.start()
        task = asyncio.create_task(_contained(call))
        timer = asyncio.ensure_future(hooks.sleep(within))
        try:
            await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise TimeoutError(f"no result within {within} s; it may come later")
            if (seconds := hooks.now() - begun) > within:
                hooks.say("trouble", f"{_BLOCKS}; it did for up to {seconds} s")
            return task.result()
        finally:
            alarm.cancel()
            task.cancel()
            timer.cancel()


async def _contained(call: Coroutine[Any, Any, T]) -> T:
    """Return the result of a call; no error of it ends the bot."""
    try:
        return await call
    except Exception:
        raise
    except BaseException as error:  # such as sys.exit()
        if isinstance(error, asyncio.CancelledError) and _is_cancelled():
            raise
        raise RuntimeError(f"{type(error).__name__} in the executor") from None


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _counts(entry: Entry) -> str:
    return f"{shown(entry.usd, 8, 2)} USD count as spent (see --settle)"


def settle(journal: Journal, results: Mapping[str, Step], now: int) -> list[str]:
    """Say what became of plans whose result is unknown.

    Args:
        journal: of the bot, which must not run meanwhile.
        results: "sent" or "not sent", by the id of the plan.
        now: unix seconds.

    Returns:
        Lines for people: what is still unknown, and what counts as spent.

    Raises:
        UsageError: the result of a plan is not unknown; then nothing is changed.
    """
    ledger = journal.ledger
    for entry in list(ledger.open.values()):
        journal.append(Entry("unknown", now, entry.id, entry.borrower))
    if strange := results.keys() - ledger.unsettled:
        raise UsageError(
            f"there is no plan with an unknown result of id {', '.join(sorted(strange))}"
        )
    for plan, step in results.items():
        journal.append(Entry(step, now, plan, ledger.unsettled[plan].borrower))
    return [
        *(
            f"{each.id}: {each.borrower}, handed over at {each.at} (unix seconds), "
            f"result unknown, {shown(each.usd, 8, 2)} USD"
            for each in ledger.unsettled.values()
        ),
        f"{len(ledger.unsettled)} unknown; {shown(ledger.spent, 8, 2)} USD are spent",
    ]


def _amount(given: object) -> int:
    """Return what the user's code says is an amount, if it is one."""
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        kind = "a negative int" if type(given) is int else type(given).__name__
        raise ValueError(f"balance must be an int from 0 on, got {kind}")
    return given


def _words(given: object) -> str:
    """Return a text as one bounded line that can be encoded."""
    line = " ".join(str(given).split())[:_LONGEST_TEXT]
    return line.encode("utf-8", "replace").decode()


def _failure(error: Exception) -> str:
    """Return the type of an error, and its place instead of a text with secrets."""
    kind, frames = type(error).__name__, traceback.extract_tb(error.__traceback__)
    if isinstance(error, ImportError) or not frames or frames[-1].filename == __file__:
        return _words(f"{kind}: {error}")  # not the user's text
    return f"{kind} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
