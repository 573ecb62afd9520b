"""Traffic management: who may come in, and how much of what.

Nothing here reads a clock: the time is passed in, in seconds of any clock that never goes back.
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
    """The rules do not let a user in; `reason` is one of `REASONS`."""

    def __init__(self, reason: str) -> None:
        check_choice("reason", reason, REASONS)
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of a host.

    Attributes:
        users: who may come in; None: everyone with a certificate of the authority.
        most_users: with a VM at a time.
        most_runs: of one user at a time.
        most_tasks: of one run.
        most_message_bytes: of one message.
        messages_per_s: of one user; who sends more waits.
        bytes_per_s: of one user; who sends more waits.
        burst_s: seconds' worth of either that may come at once.
        task_s: most seconds of one task; a longer one ends its VM.
        run_s: most seconds of one run; a longer one is ended.
        idle_s: seconds after which a VM without a run is stopped.
        memory_bytes, processes, cpus: of a VM, as `Quota` has them.

    Raises:
        InputError: a value out of range.
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
        """The rules of a file: a JSON object with some of the attributes; the others have their defaults.

        Raises:
            InputError: a file that cannot be read, an attribute that no rules have, or a value out of range.
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
    """How much one user sends: two token buckets, of messages and of bytes.

    In any time t, at most rate * t and the burst pass. What is larger than the burst passes when its bucket is full,
    and what comes behind it waits until it is paid for.

    Args:
        rules: rates and burst.
    """

    def __init__(self, rules: Rules) -> None:
        self._rates = (float(rules.messages_per_s), float(rules.bytes_per_s))
        self._burst_s = float(rules.burst_s)
        self._owed_s = (0.0, 0.0)  # of each bucket: seconds from `_since` until it is full
        self._since = -math.inf

    def wait_s(self, messages: int, size: int, now: float) -> float:
        """Seconds to wait until this may pass; 0: it passes now, and is counted.

        Who asks again after that time passes, if nobody else has passed meanwhile.

        Args:
            messages: how many come together.
            size: their bytes.
            now: the time; one before the last that passed counts as that.

        Raises:
            InputError: a negative number, or a time that is not finite.
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
        return wait + 4 * math.ulp(abs(now) + wait + max(self._owed_s) + self._burst_s)  # what rounding may take away

    def charge(self, messages: int, size: int, now: float) -> None:
        """Counts what has come already, however much it is: what comes next waits for it.

        Args:
            messages: how many came together.
            size: their bytes.
            now: the time, as `wait_s` takes it.
        """
        left, cost = self._left(now), self._cost(messages, size)
        self._owed_s, self._since = (left[0] + cost[0], left[1] + cost[1]), max(self._since, now)

    def is_at_rest(self, now: float) -> bool:
        """Whether both buckets are full, as those of a new meter are."""
        return not any(self._left(now))

    def _left(self, now: float) -> tuple[float, float]:
        """Seconds until each bucket is full."""
        elapsed = max(0.0, now - self._since)
        return max(0.0, self._owed_s[0] - elapsed), max(0.0, self._owed_s[1] - elapsed)

    def _cost(self, messages: int, size: int) -> tuple[float, float]:
        """Seconds in which each bucket gains what this takes."""
        return messages / self._rates[0], size / self._rates[1]


class Meters:
    """A meter for each user. One that is at rest may be forgotten: a new one is like it.

    Args:
        rules: of each meter.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._meters: dict[str, Meter] = {}

    def of(self, user: str, now: float) -> Meter:
        """The meter of a user, to be used at this time: it may be forgotten later.

        Args:
            user: whose it is.
            now: the time.
        """
        meter = self._meters.get(user)
        if meter is None:
            if len(self._meters) >= self._rules.most_users:
                self._meters = {name: one for name, one in self._meters.items() if not one.is_at_rest(now)}
            meter = self._meters[user] = Meter(self._rules)
        return meter


class Admission:
    """Who is in. It remembers nobody who was refused.

    A user is in while a run of theirs goes on, and for `Rules.idle_s` after the last one where their VM is kept.

    Attributes:
        refused: how often, by reason.

    Args:
        rules: who may come in, and how many.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known = None if rules.users is None else frozenset(rules.users)
        self._runs: dict[str, int] = {}
        self._idle: dict[str, float] = {}  # when their last run ended, the first first
        self.refused: Counter[str] = Counter()

    @property
    def users(self) -> int:
        """How many are in, as far as it was known when one last entered or left."""
        return len(self._runs) + len(self._idle)

    def runs(self, user: str) -> int:
        """How many runs of a user go on."""
        return self._runs.get(user, 0)

    def check_known(self, user: str) -> None:
        """Lets a user pass whom the rules name.

        Raises:
            RefusedError: they name others; this is counted.
        """
        if self._known is not None and user not in self._known:
            self.refuse("unknown user")

    def enter(self, user: str, now: float = -math.inf) -> None:
        """Lets a user begin a run.

        Args:
            user: who it is.
            now: the time, by which VMs that were kept have ended.

        Raises:
            RefusedError: the rules do not allow it; this is counted.
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
            user: who it is.
            now: the time, where the user's VM is kept for `Rules.idle_s`; None: it is not, or the user has none.

        Raises:
            InputError: a user who has no run.
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
        """Refuses a user for a reason that the caller found.

        Raises:
            RefusedError: always; this is counted.
        """
        check_choice("reason", reason, REASONS)
        self.refused[reason] += 1
        raise RefusedError(reason)  # under no name: that would make a cycle with its traceback, which lives on
