"""Traffic management: admission of users and rate limits.

This module reads no clock. Callers pass the time, in seconds of any monotonic clock.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import NoReturn, Self

from mrlato_jax.edge.certificates import check_user
from mrlato_jax.edge.sandbox import Quota
from mrlato_jax.errors import InputError, check_choice, check_number, shorten
from mrlato_jax.files import parse_json, read_regular

REASONS = ("unknown user", "revoked", "too many users", "too many runs")
MOST_FILE_BYTES = 2**24
MOST_NAMES = 100_000


class RefusedError(Exception):
    """The rules refuse a user; `reason` is one of `REASONS`."""

    def __init__(self, reason: str) -> None:
        check_choice("reason", reason, REASONS)
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of a host.

    Attributes:
        users: names of the admitted users; None admits everyone with a certificate of the authority.
        most_users: limit of users with a VM at a time.
        most_runs: limit of one user's runs at a time.
        most_tasks: limit of tasks in one run.
        most_message_bytes: size limit of one message.
        messages_per_s: limit of one user's messages per second; beyond it, messages wait.
        bytes_per_s: limit of one user's bytes per second; beyond it, messages wait.
        burst_s: size of a burst, in seconds of either rate.
        task_s: time limit of one task, seconds; a longer task ends its VM.
        run_s: time limit of one run, seconds; a longer run is ended.
        idle_s: seconds after which a VM without a run is stopped.
        memory_bytes, processes, cpus: limits of a VM, as in `Quota`.

    Raises:
        InputError: a value is out of range.
    """

    users: tuple[str, ...] | None = None
    most_users: int = 64
    most_runs: int = 4
    most_tasks: int = 10_000
    most_message_bytes: int = 2**26
    messages_per_s: float = 5000.0
    bytes_per_s: float = 1e9
    burst_s: float = 1.0
    task_s: float = 60.0
    run_s: float = 3600.0
    idle_s: float = 600.0
    memory_bytes: int = Quota.memory_bytes
    processes: int = Quota.processes
    cpus: float = Quota.cpus

    def __post_init__(self) -> None:
        if self.users is not None:
            if not isinstance(self.users, (list, tuple)):
                raise InputError(f"Rules.users is {shorten(self.users)}; accepted: a list of names, or null")
            if len(self.users) > MOST_NAMES:
                raise InputError(f"Rules.users has {len(self.users)} names; accepted: at most {MOST_NAMES}")
            for user in self.users:
                check_user("name in Rules.users", user)
            object.__setattr__(self, "users", tuple(self.users))
        for name, most in (("most_users", 10**5), ("most_runs", 10**4), ("most_tasks", 10**9)):
            check_number(f"Rules.{name}", getattr(self, name), low=1, high=most, integer=True)
        check_number("Rules.most_message_bytes", self.most_message_bytes, low=1024, high=2**31 - 1, integer=True)
        check_number("Rules.messages_per_s", self.messages_per_s, low=1e-3, high=1e9)
        check_number("Rules.bytes_per_s", self.bytes_per_s, low=1.0, high=1e15)
        for name in ("burst_s", "task_s", "run_s", "idle_s"):
            check_number(f"Rules.{name}", getattr(self, name), low=0.0, high=1e6, open_low=True)
        Quota(self.memory_bytes, self.processes, self.cpus)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads rules from a file: a JSON object with some of the attributes. Missing ones take their defaults.

        Raises:
            InputError: the file cannot be read, an attribute is unknown, or a value is out of range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        accepted = f"a JSON object with some of {', '.join(names)}"
        try:
            data = read_regular(path, MOST_FILE_BYTES, accepted)
        except FileNotFoundError:
            raise InputError(f"{path} is missing; accepted: {accepted}") from None
        given = parse_json(data, str(path), accepted)
        if unknown := [name for name in given if name not in names]:
            raise InputError(f"{path} has {shorten(', '.join(unknown), 200)}; accepted: {', '.join(names)}")
        try:
            return cls(**given)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


class Meter:
    """The rate limiter of one user: two token buckets, for messages and for bytes.

    During any time t, at most rate * t plus the burst pass. A message larger than the burst passes when its bucket is
    full; the next message waits until the bucket has gained the excess.

    Args:
        rules: the rates and the burst.
    """

    def __init__(self, rules: Rules) -> None:
        self._rates = (float(rules.messages_per_s), float(rules.bytes_per_s))
        self._burst_s = float(rules.burst_s)
        self._owed_s = (0.0, 0.0)  # seconds from `_since` until each bucket is full
        self._since = -math.inf

    def wait_s(self, messages: int, size: int, now: float) -> float:
        """Returns the seconds to wait before these messages may pass; with 0 they pass now and are counted.

        A call after that wait returns 0 if nothing else has passed in the meantime.

        Args:
            messages: number of messages.
            size: their bytes.
            now: the time. A time before the last pass counts as the time of that pass.

        Raises:
            InputError: a number is negative, or the time is not finite.
        """
        if not (messages >= 0 and size >= 0 and math.isfinite(now)):
            raise InputError(
                f"messages, size and now are {messages!r}, {size!r} and {now!r}; accepted: "
                "numbers of at least 0, and a finite time"
            )
        left, cost = self._left(now), self._cost(messages, size)
        wait = max(left[0] - max(0.0, self._burst_s - cost[0]), left[1] - max(0.0, self._burst_s - cost[1]))
        if wait <= 0:
            self.charge(messages, size, now)
            return 0.0
        wait += max(0.0, self._since - now)
        return wait + 4 * math.ulp(abs(now) + wait + max(self._owed_s) + self._burst_s)  # margin for rounding

    def charge(self, messages: int, size: int, now: float) -> None:
        """Counts messages that have already arrived, without a limit; later messages wait for them.

        Args:
            messages: number of messages.
            size: their bytes.
            now: the time, as in `wait_s`.
        """
        left, cost = self._left(now), self._cost(messages, size)
        self._owed_s, self._since = (left[0] + cost[0], left[1] + cost[1]), max(self._since, now)

    def is_at_rest(self, now: float) -> bool:
        """Returns whether both buckets are full, as in a new meter."""
        return not any(self._left(now))

    def _left(self, now: float) -> tuple[float, float]:
        """Returns the seconds until each bucket is full."""
        elapsed = max(0.0, now - self._since)
        return max(0.0, self._owed_s[0] - elapsed), max(0.0, self._owed_s[1] - elapsed)

    def _cost(self, messages: int, size: int) -> tuple[float, float]:
        """Returns the seconds in which each bucket gains the cost of these messages."""
        return messages / self._rates[0], size / self._rates[1]


class Meters:
    """A meter for each user. A meter at rest may be dropped, since a new meter is equal to it.

    Args:
        rules: the rules of each meter.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._meters: dict[str, Meter] = {}

    def of(self, user: str, now: float) -> Meter:
        """Returns the meter of a user, for use at this time only; it may be dropped later.

        Args:
            user: name of the user.
            now: the time.
        """
        meter = self._meters.get(user)
        if meter is None:
            if len(self._meters) >= self._rules.most_users:
                self._meters = {name: one for name, one in self._meters.items() if not one.is_at_rest(now)}
            meter = self._meters[user] = Meter(self._rules)
        return meter


class Admission:
    """The admitted users. Refused users leave no state.

    A user is admitted during a run, and if the VM is kept, for `Rules.idle_s` after the last run.

    Attributes:
        refused: number of refusals by reason.

    Args:
        rules: admitted users and their limits.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known = None if rules.users is None else frozenset(rules.users)
        self._runs: dict[str, int] = {}
        self._idle: dict[str, float] = {}  # end of their last run, in ascending order
        self.refused: Counter[str] = Counter()

    @property
    def users(self) -> int:
        """Number of admitted users, as of the last call of `enter` or `leave`."""
        return len(self._runs) + len(self._idle)

    def runs(self, user: str) -> int:
        """Returns the number of a user's current runs."""
        return self._runs.get(user, 0)

    def check_known(self, user: str) -> None:
        """Checks that the rules allow a user.

        Raises:
            RefusedError: the rules do not name the user; the refusal is counted.
        """
        if self._known is not None and user not in self._known:
            self.refuse("unknown user")

    def enter(self, user: str, now: float = -math.inf) -> None:
        """Admits a user for a run.

        Args:
            user: name of the user.
            now: the time, which decides which kept VMs have ended.

        Raises:
            RefusedError: the rules do not allow the run; the refusal is counted.
        """
        self.check_known(user)
        while self._idle and now - self._idle[first := next(iter(self._idle))] >= self._rules.idle_s:
            del self._idle[first]
        runs = self.runs(user)
        if runs >= self._rules.most_runs:
            self.refuse("too many runs")
        if not runs and user not in self._idle and self.users >= self._rules.most_users:
            self.refuse("too many users")
        self._idle.pop(user, None)
        self._runs[user] = runs + 1

    def leave(self, user: str, now: float | None = None) -> None:
        """Ends a run of a user.

        Args:
            user: name of the user.
            now: the time, if the user's VM is kept for `Rules.idle_s`; None if there is no VM to keep.

        Raises:
            InputError: the user has no run.
        """
        runs = self.runs(user)
        if not runs:
            raise InputError(f"user is {shorten(user)}, who has no run; accepted: one who entered")
        if runs > 1:
            self._runs[user] = runs - 1
            return
        del self._runs[user]
        if now is not None:
            self._idle[user] = now

    def refuse(self, reason: str) -> NoReturn:
        """Refuses a user for the caller's reason.

        Raises:
            RefusedError: always; the refusal is counted.
        """
        check_choice("reason", reason, REASONS)
        self.refused[reason] += 1
        raise RefusedError(reason)  # not bound to a name, which would make a reference cycle with the traceback
