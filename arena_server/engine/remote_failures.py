"""What it means, for people and for the relay, that a remote server gave no answer, or none that can be passed on."""

from __future__ import annotations

import email.utils
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp

from arena_server.engine.client import EngineLost, EngineUnreachable
from arena_server.engine.failures import error_in
from arena_server.engine.remote_text import one_line
from arena_server.errors import ModelUnavailable

# "Busy", for now: worth another try, and no word of the model's.
BUSY = frozenset({429, 502, 503, 504})
# What is asked of this daemon, and not of its client: its key, or a proxy's password.
KEY_REFUSED = frozenset({401, 407})

FIRST_PAUSE_S = 0.25
# A server that wants to be left alone for longer is not waited for: the client, or a `fallback`, knows better.
LONGEST_PAUSE_S = 10.0
_SECONDS = re.compile("[0-9]{1,9}")


class RemoteRefuses(ModelUnavailable):
    """A remote server does not take the request, for reasons of its own; `status` is what the client sees."""

    def __init__(
        self, message: str, status: int = 503, servers_own: object = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status
        self._servers_own = servers_own

    def body(self) -> dict[str, object]:
        """The server's `error` object as it came, if it is one."""
        return super().body() if self._servers_own is None else {"error": self._servers_own}


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer: what the relay is told, and whether the same may be asked again."""

    error: EngineUnreachable | EngineLost
    again: bool


def failure_of(error: Exception, origin: str, connect_timeout_s: float, timeout_s: float) -> Failure:
    """What came of asking the server at `origin`; `error` is aiohttp's or the system's."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            why = _certificate(error.certificate_error)
            return Failure(EngineUnreachable(f"the TLS certificate of {origin} is not accepted: {why}"), again=False)
        case aiohttp.ClientSSLError():
            return Failure(EngineUnreachable(f"no TLS connection to {origin}: {_words(error.os_error)}"), again=False)
        case aiohttp.ClientConnectorDNSError():
            what = f"{origin} cannot be reached: there is no host of that name (DNS: {_words(error.os_error)})"
            return Failure(EngineUnreachable(what), again=True)
        case aiohttp.ClientProxyConnectionError():
            return Failure(
                EngineUnreachable(f"the proxy for {origin} cannot be reached: {_words(error.os_error)}"), again=True
            )
        case aiohttp.ClientHttpProxyError():
            what = f"the proxy for {origin} refuses the connection: status {error.status}"
            return Failure(EngineUnreachable(what), again=False)
        case aiohttp.ClientConnectorError():
            return Failure(EngineUnreachable(f"{origin} cannot be reached: {_words(error.os_error)}"), again=True)
        case aiohttp.ConnectionTimeoutError():
            what = f"{origin} cannot be reached: no connection after {connect_timeout_s:g} s (connect_timeout_s)"
            return Failure(EngineUnreachable(what), again=True)
        case TimeoutError():
            return Failure(EngineLost(f"{origin} said nothing for {timeout_s:g} s (timeout_s)"), again=False)
        case aiohttp.ClientConnectionError() | OSError():
            # Nothing of an answer has come: one that is still idle is closed by many servers after some seconds.
            return Failure(EngineLost(f"{origin} closed the connection without an answer"), again=True)
    return Failure(EngineLost(f"{origin} sent no proper HTTP: {_first_line(error)}"), again=False)


def lost_within(error: Exception, origin: str, timeout_s: float) -> EngineLost:
    """The server's answer broke off."""
    if isinstance(error, TimeoutError):
        return EngineLost(f"{origin} said nothing more for {timeout_s:g} s (timeout_s)")
    return EngineLost(f"{origin} ended its answer before it was whole")


def pause_s(tries: int, retry_after: str | None, now: datetime | None = None) -> float | None:
    """Seconds until the next try, after `tries` of them; None if the server wants to be left alone for too long.

    `retry_after` is its header, in seconds or a date (RFC 9110, 10.2.3).
    """
    asked_s = retry_after_s(retry_after, now)
    if asked_s is None:
        return min(FIRST_PAUSE_S * 2.0 ** (tries - 1), LONGEST_PAUSE_S)
    return asked_s if asked_s <= LONGEST_PAUSE_S else None


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Retry-After in seconds; None if it is not there, or cannot be read."""
    if header is None:
        return None
    if _SECONDS.fullmatch(header):
        return float(header)
    try:
        then = email.utils.parsedate_to_datetime(header)
    except (ValueError, OverflowError, LookupError, TypeError):  # a year of 20 digits, say
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - (now or datetime.now(UTC))).total_seconds())


def busy(model: str, status: int, body: bytes, retry_after: str | None) -> RemoteRefuses:
    """The server of `model` does not answer for now, in its own words if it has any."""
    message = f"The server that runs the model `{model}` answers with status {status}."
    return RemoteRefuses(message, status, error_in(body), retry_after_s(retry_after))


def key_refused(model: str, status: int) -> RemoteRefuses:
    """The server of `model` does not let this daemon in. Its own words stay here: they may quote the key."""
    return RemoteRefuses(f"The server that runs the model `{model}` does not let this server in (status {status}).")


def redirected(model: str, status: int) -> RemoteRefuses:
    """The server of `model` sends us elsewhere. (To follow would show the key to whomever it names.)"""
    return RemoteRefuses(f"The server that runs the model `{model}` is elsewhere (status {status}).")


def no_status(model: str, status: int) -> RemoteRefuses:
    """The server of `model` answers with a number that is no status of an answer (RFC 9110, 15)."""
    return RemoteRefuses(f"The server that runs the model `{model}` answers with status {status}, which is none.")


def _certificate(error: Exception) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else _first_line(error)


def _words(error: OSError) -> str:
    """The system's own words, without the address, which is named already."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS failed").replace("_", " ").lower()
    return _first_line(error.strerror or error)


def _first_line(error: object) -> str:
    return one_line((str(error).splitlines() or [""])[0]) or type(error).__name__
