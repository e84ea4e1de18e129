"""`arena-server chat`: a conversation with one model, or one prompt and its answer."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from types import FrameType

from rich.console import Console
from rich.text import Text

from arena_server.clock import SystemClock
from arena_server.console.api import Api, BadAnswer, NoAnswer
from arena_server.console.cards import own_names
from arena_server.console.key import ApiKey
from arena_server.console.outlet import Outlet, Pipe, Terminal
from arena_server.console.question import prompt_of, sampling
from arena_server.console.shape import WrongShape
from arena_server.console.stream import replies
from arena_server.console.talk import Answer, Talk, typed
from arena_server.console.words import clean
from arena_server.errors import ArenaError

PATH = "/v1/chat/completions"
PROMPT, GOES_ON = ">>> ", "... "
HELP = '''\
/model NAME    go on with another model; without a name: list them
/system TEXT   set the system prompt; without a text: remove it
/reset         forget what was said
/exit          leave (so does Ctrl-D, or Ctrl-C twice)
"""            begins and ends a message of several lines
Ctrl-C stops an answer; what has come of it is kept.'''


class WhichModel(ArenaError):
    """No model of that name is served, or none was named and there is not just one."""


def run_chat(
    url: str,
    model: str | None,
    *,
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    prompt: str | None = None,
    key: ApiKey | None = None,
) -> int:
    """Converse in a terminal; with a `prompt`, or one on standard input (`-`, or no terminal), print its answer only.

    `model` None is the only one that is served. Returns 0. Raises ArenaError where the daemon refuses or goes away;
    a conversation goes on, unless that is at its start.
    """
    api, clock = Api(url, key=key), SystemClock()
    console = Console(highlight=False)
    shown = sys.stdout.isatty() and not console.is_dumb_terminal
    outlet: Outlet = Terminal(console, clock) if shown else Pipe()
    converses = prompt is None and shown and sys.stdin.isatty()
    question = None if converses else prompt_of(prompt)
    name = _only_model(api) if model is None else model
    talk = Talk(name, system, sampling(temperature=temperature, max_tokens=max_tokens, seed=seed))
    if question is not None:
        ask(api, talk, question, outlet, Answer())
        return 0
    _check_name(api, name)
    return Conversation(api, talk, outlet, console).run()


def ask(api: Api, talk: Talk, prompt: str, outlet: Outlet, answer: Answer) -> None:
    """Ask, and let out the answer as it comes; `answer` is filled with it. Raises ArenaError if it breaks off."""
    with outlet.answering(talk.model), api.streamed(PATH, talk.body(prompt)) as lines:
        for _, data in replies(lines, outlet.told):
            if data is None:
                answer.ended = True
                continue
            try:
                pieces = answer.take(data)
            except WrongShape as e:
                raise BadAnswer(f"cannot use what {api.url}{PATH} answers: {e}") from e
            for piece in pieces:
                outlet.piece(piece)
    if not answer.ended:
        raise NoAnswer(f"{api.url} hung up before the answer was whole")


def _only_model(api: Api) -> str:
    names = own_names(api.cards())
    if len(names) != 1:
        raise WhichModel(f"which model? -m NAME, one of: {', '.join(map(clean, names)) or 'none is served'}")
    return names[0]


def _check_name(api: Api, name: str) -> None:
    """Raises WhichModel where no model answers to that name."""
    cards = api.cards()
    known = [card.id for card in cards]
    if name not in known:
        near = get_close_matches(name[:80], known, n=1)
        hint = f"; did you mean `{clean(near[0])}`?" if near else ""
        names = ", ".join(map(clean, own_names(cards)))
        raise WhichModel(f"no model is called `{clean(name)}`{hint}\nThere are: {names}")


class Conversation:
    """One in a terminal, from the first prompt to the person's leaving."""

    def __init__(self, api: Api, talk: Talk, outlet: Outlet, console: Console) -> None:
        self._api = api
        self._talk = talk
        self._outlet = outlet
        self._console = console
        self._commands: Mapping[str, Callable[[str], None]] = {
            "/model": self._model,
            "/system": self._system,
            "/reset": self._reset,
            "/help": self._help,
            "/?": self._help,
        }

    def run(self) -> int:
        """Until the person leaves. Returns 0."""
        with _line_editing(), _unwinding():
            self._note(f"{clean(self._talk.model)} at {self._api.url}. /help lists the commands, Ctrl-D leaves.")
            stopped = False  # by a Ctrl-C just now
            while True:
                try:
                    entry = typed(lambda goes_on: input(GOES_ON if goes_on else PROMPT))
                except EOFError:
                    print()
                    return 0
                except KeyboardInterrupt:
                    print()
                    if stopped:
                        return 0
                    stopped = True
                    self._note("Ctrl-C once more, or Ctrl-D, leaves.")
                    continue
                stopped = False
                if entry.command in ("/exit", "/quit", "/bye"):
                    return 0
                self._do(entry.command, entry.text)

    def _do(self, command: str | None, text: str) -> None:
        try:
            if command is None:
                self._turn(text)
            elif command in self._commands:
                self._commands[command](text)
            else:
                self._note(f'{clean(command)} is no command (/help). As a message: """{clean(command)} ..."""')
        except KeyboardInterrupt:
            print()
        except ArenaError as e:
            for line in e.message.splitlines():
                self._note(line, "red")

    def _turn(self, prompt: str) -> None:
        if not prompt.strip():
            return
        answer = Answer()
        try:
            ask(self._api, self._talk, prompt, self._outlet, answer)
        except KeyboardInterrupt:
            self._note("stopped" if answer.text else "stopped; nothing of it is kept")
        else:
            if answer.finish_reason == "length":
                self._note("cut off: it had as many tokens as it may have")
            elif not answer.text:
                self._note("no text came")
        self._talk.said(prompt, answer.text)

    def _model(self, name: str) -> None:
        if not name:
            self._note(", ".join(map(clean, own_names(self._api.cards()))))
            return
        _check_name(self._api, name)
        self._talk.model = name
        self._note(f"goes on with {clean(name)}")

    def _system(self, text: str) -> None:
        self._talk.system = text or None
        self._note("the system prompt is set" if text else "no system prompt")

    def _reset(self, _: str) -> None:
        self._talk.turns.clear()
        self._note("all that was said is forgotten")

    def _help(self, _: str) -> None:
        self._note(HELP)

    def _note(self, text: str, style: str = "dim") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)


@contextlib.contextmanager
def _line_editing() -> Iterator[None]:
    """Lines can be edited and fetched again where Python was built with readline; and none is an error."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - `input` uses it once it is there
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    yield


@contextlib.contextmanager
def _unwinding() -> Iterator[None]:
    """An end from outside unwinds: readline's terminal does not echo, and must be given back as it was."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
