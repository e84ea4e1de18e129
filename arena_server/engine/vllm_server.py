"""The body of an engine process: vLLM's own OpenAI server. The only module that imports vLLM.

The zygote calls `import_vllm` once and `serve` in each forked child; `python -m` on this module does both
in a fresh process, where forking is not possible. vLLM moved the three names used here between
0.24 and 0.33, so the new place is tried first, then the old.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from arena_server.engine import preloaded
from arena_server.engine.parent_death import descendants_die_with_parent, die_with_parent

LOGGING_FILE = "VLLM_LOGGING_CONFIG_PATH"


@dataclass(frozen=True, slots=True)
class VllmServer:
    """vLLM's server as a pair of functions: command line in, server out."""

    version: str
    parse: Callable[[Sequence[str]], Any]
    run: Callable[[Any], None]


def _first(name: str, *modules: str) -> Any:
    for module in modules[:-1]:
        with contextlib.suppress(ImportError):
            return getattr(importlib.import_module(module), name)
    return getattr(importlib.import_module(modules[-1]), name)


def import_vllm() -> VllmServer:
    """Import vLLM's server. Raises ImportError (or what a broken installation raises)."""
    import uvloop

    old = "vllm.entrypoints.openai"
    new = "vllm.entrypoints.launchers"
    parser_class = _first("FlexibleArgumentParser", "vllm.utils.argparse_utils", "vllm.utils")
    make_arg_parser = _first("make_arg_parser", f"{new}.cli_args", f"{old}.cli_args")
    validate = _first("validate_parsed_serve_args", f"{new}.cli_args", f"{old}.cli_args")
    run_server = _first("run_server", f"{new}.api_server.entry", f"{old}.api_server")
    _keep_fork_for_children()
    _inspect_models_here()

    def parse(argv: Sequence[str]) -> Any:
        args = make_arg_parser(parser_class(prog="vllm serve")).parse_args(list(argv))
        validate(args)
        return args

    import vllm

    return VllmServer(vllm.__version__, parse, lambda args: uvloop.run(run_server(args)))


def _keep_fork_for_children() -> None:
    """Let EngineCore and workers be forked rather than spawned, as long as nothing forbids it.

    On CPU, vLLM sets VLLM_WORKER_MULTIPROC_METHOD=spawn while it makes its configuration, and each start would
    pay all imports again. vLLM still switches to spawn by itself when CUDA is initialised.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs

    create = AsyncEngineArgs.create_engine_config

    def create_and_keep_fork(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = create(self, *args, **kwargs)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        return config

    AsyncEngineArgs.create_engine_config = create_and_keep_fork


def _inspect_models_here() -> None:
    """Let vLLM look at a model's class in this process, not in a new one that imports everything again.

    vLLM does it elsewhere lest the import initialise CUDA; `cuda_touched` is asserted before the first fork, and
    importing its models calls no CUDA function. Saves about 10 s at the first load of an architecture. A
    version without these (private) names goes on as it was.
    """
    from vllm.model_executor.models import registry

    lazy = getattr(registry, "_LazyRegisteredModel", None)
    info = getattr(registry, "_ModelInfo", None)
    if lazy is not None and info is not None and hasattr(info, "from_model_cls"):
        from_model_cls = info.from_model_cls
        lazy.inspect_model_cls = lambda self: from_model_cls(self.load_model_cls())


def preload(server: VllmServer) -> None:
    """Do what every engine would do first: import the rest, and fill vLLM's caches of its own command line.

    It saves time, and nothing depends on it: what fails here in some version of vLLM, however, is left to the engines.
    """
    from vllm.platforms import current_platform

    for module in (*preloaded.EVERYWHERE, *(preloaded.ON_CPU if runs_on_cpu() else preloaded.ON_GPU)):
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    with contextlib.suppress(Exception, SystemExit):  # what is wrong with a command line, its engine will say
        server.parse(["--model=none"])
    if runs_on_cpu():
        with contextlib.suppress(Exception):
            _replace_kernels_once(type(current_platform))
    with contextlib.suppress(Exception):
        _configure_logging_once()


def runs_on_cpu() -> bool:
    """Whether vLLM's engines compute on the CPU here."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _replace_kernels_once(platform: Any) -> None:
    """Put the CPU's stand-ins for Triton's kernels in place now, and not in each worker.

    vLLM goes through every name of every loaded module for them: a third of a second, and each page that it
    looks at is one no longer shared. Modules that are imported later find the stand-ins. A version without this
    (public) name goes on as it was.
    """
    if hasattr(platform, "register_triton_kernel_overrides"):
        platform.register_triton_kernel_overrides()
        platform.register_triton_kernel_overrides = classmethod(lambda cls: None)


def _configure_logging_once() -> None:
    """Set up vLLM's logging as each engine process would (0.32 and later; earlier ones did so when imported).

    Setting it up costs each of an engine's three processes a tenth of a second, with a thousand loggers.
    A file that configures logging is left to them: it may name files of its own.
    """
    if os.environ.get(LOGGING_FILE):
        return
    from vllm.config.logging import LoggingConfig
    from vllm.logger import configure_logging

    configure_logging(LoggingConfig())


def keep_logging(argv: Sequence[str], *, on_cpu: bool) -> None:
    """In a forked engine: let vLLM leave its logging as the zygote has set it up from the same environment.

    A command line or a file that has a say in it is left its say. Only on the CPU, where the engine's own processes are
    forked, too: one that vLLM spawns (it has reasons to on a GPU, and for `numa-bind`) would say nothing at all.
    """
    own = ("--log", "--config", "--numa-bind")
    has_own = os.environ.get(LOGGING_FILE) or any(arg.startswith(own) for arg in argv)
    if logging.getLogger("vllm").handlers and on_cpu and not has_own:
        os.environ["VLLM_CONFIGURE_LOGGING"] = "0"


def show_title(title: str) -> None:
    """Let `ps` and `nvidia-smi` show what this process is, as vLLM does for its own (if it brought setproctitle)."""
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle

        setproctitle(title)


def cuda_touched() -> bool:
    """Whether this process has a CUDA context, after which a forked child cannot use the GPU."""
    import torch

    return bool(torch.cuda.is_initialized())


def serve(server: VllmServer, argv: Sequence[str]) -> NoReturn:
    """Serve one model until told to stop; `argv` is what would follow `vllm serve`. Ends the process."""
    # vLLM reads sys.argv in places (--numa-bind); it must see the engine's own command line.
    sys.argv = ["vllm serve", *argv]
    status = 1
    try:
        server.run(server.parse(argv))
        status = 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 1
    except KeyboardInterrupt:
        status = 128 + signal.SIGTERM
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: exit handlers inherited from the zygote must not run twice.
        os._exit(status)


def main(argv: Sequence[str]) -> NoReturn:
    """Entry of the plain subprocess: `python -m arena_server.engine.vllm_server PARENT_PID VLLM_ARGUMENT...`."""
    die_with_parent(int(argv[0]))
    descendants_die_with_parent()
    serve(import_vllm(), argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
