"""How much each key and each address may ask. Decisions alone; time comes from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from types import TracebackType
from typing import Self

from cachetools import LRUCache

from arena_server.access.account import Account, ratelimit_headers
from arena_server.access.refusals import Headers, OverLimit
from arena_server.caller import Caller
from arena_server.clock import Clock
from arena_server.config_access import AccessConfig, LimitsConfig

# Addresses that are remembered while nothing of theirs runs; anybody can come from any number of them (IPv6).
MOST_ADDRESSES = 10_000


class Limits:
    """Lets requests in, as far as limits go. For the event loop's thread.

    A request needs something left of each allowance. What it takes in tokens is known only as it is answered, so an
    allowance may be overdrawn, and is paid back before the next is let in.
    """

    def __init__(self, access: AccessConfig, clock: Clock, wall: Callable[[], datetime]) -> None:
        """`wall` is the time of day in UTC: by it days change."""
        self._access = access
        self._clock = clock
        self._wall = wall
        self._keys: dict[str, Account] = {}
        # Of addresses: those that ask now, which are no more than there are connections, and the last of the others.
        self._present: dict[str, Account] = {}
        self._past: LRUCache[str, Account] = LRUCache(MOST_ADDRESSES)
        self._unlimited = Ticket([], clock, lambda: None)

    def configure(self, access: AccessConfig) -> None:
        """Other limits from now on. What was asked so far still counts."""
        self._access = access

    def restore(self, day: date, tokens_by_key: Mapping[str, int]) -> None:
        """What keys, by their ids, took on that day before the daemon started. Addresses begin anew."""
        for key, tokens in tokens_by_key.items():
            self._of_key(key).spend(tokens, self._clock.now(), day)

    def enter(self, caller: Caller, key_limits: LimitsConfig | None = None) -> Ticket:
        """Let a request in, until its ticket is handed back. `key_limits` are the key's own, None: those of all keys.

        Raises OverLimit or OverQuota; then nothing was taken.
        """
        if caller.key is not None:
            self._of_key(caller.key).limits = key_limits or self._access.key_limits
        accounts = self._accounts(caller)
        if not accounts:
            return self._unlimited
        now, wall = self._clock.now(), self._wall()
        try:
            for account in accounts:
                account.check(now, wall)
        except OverLimit as e:
            e.left = ratelimit_headers(accounts, now)
            raise
        for account in accounts:
            account.begin(now)
        if self._limits_addresses:
            self._present[caller.address] = accounts[-1]
        return Ticket(accounts, self._clock, lambda: self._left(caller.address))

    def take(self, caller: Caller, tokens: int) -> None:
        """So many tokens more were asked, or answered, for this caller."""
        now, day = self._clock.now(), self._wall().date()
        accounts = self._accounts(caller)
        for account in accounts:
            account.spend(tokens, now, day)
        if self._limits_addresses and caller.address not in self._present:
            self._past[caller.address] = accounts[-1]

    @property
    def _limits_addresses(self) -> bool:
        return self._access.address_limits.some

    def _accounts(self, caller: Caller) -> list[Account]:
        """The key's, and last the address's, as far as there are limits for them."""
        accounts = [] if caller.key is None else [self._of_key(caller.key)]
        if self._limits_addresses:
            found = self._present.get(caller.address) or self._past.get(caller.address)
            account = found or Account("this address")
            account.limits = self._access.address_limits
            accounts.append(account)
        return accounts

    def _of_key(self, key: str) -> Account:
        account = self._keys.get(key)
        if account is None:
            account = self._keys[key] = Account("this API key")
        return account

    def _left(self, address: str) -> None:
        account = self._present.get(address)
        if account is not None and not account.running:
            self._past[address] = self._present.pop(address)


class Ticket:
    """A request that was let in; to be handed back, by the end of `with`, when nothing of it runs any more."""

    def __init__(self, accounts: Sequence[Account], clock: Clock, left: Callable[[], None]) -> None:
        self._accounts = accounts
        self._clock = clock
        self._left = left
        self.limited = any(account.limits.some for account in accounts)

    def __enter__(self) -> Self:
        """See the class."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give its place to another."""
        for account in self._accounts:
            account.running -= 1
        self._left()

    def headers(self) -> Headers:
        """How much is left now, for the answer."""
        return ratelimit_headers(self._accounts, self._clock.now())
