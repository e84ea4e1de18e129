"""What vLLM prints, read: lines as vLLM 0.32 and the libraries below it print them."""

from __future__ import annotations

import logging

import pytest

from arena_server.engine.base import LoadProgress
from arena_server.engine.progress import failure_reason, log_level, parse_progress, plain

WORKER = "(Worker pid=23160) INFO 11-21 10:55:19 "
TP_WORKER = "(Worker_TP1_EP1 pid=23160) INFO 11-21 10:55:19 "


@pytest.mark.parametrize(
    ("line", "phase", "fraction"),
    [
        ("Loading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?, ?it/s]", "loading weights", 0.0),
        (
            "Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:01<00:04,  1.4s/it]",
            "loading weights",
            0.25,
        ),
        ("Loading safetensors checkpoint shards: 100% Completed | 4/4 [00:05<00:00,  1.3s/it]", "loading weights", 1.0),
        ("Loading pt checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.4s/it]", "loading weights", 0.5),
        ("Loading np_cache checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.4s/it]", "loading weights", 0.5),
        (WORKER + "[cpu_model_runner.py:68] Starting to load model /models/llama...", "loading weights", None),
        (TP_WORKER + "[gpu_model_runner.py:5040] Starting to load model org/llama...", "loading weights", None),
        (WORKER + "[default_loader.py:501] Loading weights took 12.04 seconds", "warming up", None),
        (WORKER + "[model_runner.py:13] Warming up model for the compilation...", "warming up", None),
        (WORKER + "[backends.py:1167] Dynamo bytecode transform time: 4.31 s", "warming up", None),
        (WORKER + "[backends.py:399] Compiling a graph for compile range (1, 8192) takes 9.1 s", "warming up", None),
        (
            "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  39%|███▉      | 20/51 [00:00<00:01, 24.1it/s]",
            "capturing CUDA graphs",
            0.39,
        ),
        ("Capturing CUDA graphs (decode, FULL): 100%|██████████| 35/35 [00:01<00:00]", "capturing CUDA graphs", 1.0),
        ("Capturing CUDA graphs:   0%|          | 0/51 [00:00<?, ?it/s]", "capturing CUDA graphs", 0.0),
        ("Fetching 4 files:  25%|██▌       | 1/4 [00:00<00:02,  1.20it/s]", "downloading", 0.25),
        ("tokenizer.json: 100%|██████████| 9.09M/9.09M [00:00<00:00, 30.1MB/s]", "downloading", 1.0),
        ("model-00001-of-00004.safetensors:   3%|▎   | 157M/4.98G [00:01<00:44, 108MB/s]", "downloading", 0.03),
        ("(…)el-00001-of-00004.safetensors:   3%|▎   | 157M/4.98G [00:01<00:44, 108MB/s]", "downloading", 0.03),
        (
            "(APIServer pid=1) INFO 11-21 10:55:20 [entry.py:140] Starting vLLM server on unix:/run/1/http.sock",
            "starting the server",
            None,
        ),
    ],
)
def test_these_lines_tell_how_far_a_load_is(line: str, phase: str, fraction: float | None) -> None:
    assert parse_progress(line) == LoadProgress(phase, fraction)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "100%",
        "INFO:     Application startup complete.",
        WORKER + "[weight_utils.py:1108] Filesystem type for checkpoints: EXT4. Checkpoint size: 0.01 GiB.",
        WORKER + "[cpu_worker.py:260] Explicitly set (0.06/9.46) GiB for KV cache on node 0.",
        "(APIServer pid=1) INFO 11-21 10:55:17 [model.py:733] Resolved architecture: LlamaForCausalLM",
        "(APIServer pid=1) INFO 11-21 10:55:20 [launcher.py:195] Route: /v1/models, Methods: GET",
    ],
)
def test_these_lines_tell_nothing_of_a_load(line: str) -> None:
    assert parse_progress(line) is None


def test_progress_reads_well() -> None:
    assert str(LoadProgress("loading weights", 0.254)) == "loading weights 25%"
    assert str(LoadProgress("starting")) == "starting"


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (WORKER + "[x.py:1] text", logging.INFO),
        (TP_WORKER + "[x.py:1] text", logging.INFO),
        ("(APIServer pid=1) WARNING 11-21 10:55:17 [cpu.py:224] Triton is not installed.", logging.WARNING),
        ("(EngineCore pid=2) ERROR 11-21 10:55:25 [core.py:1510] EngineCore failed to start.", logging.ERROR),
        ("(EngineCore_DP0 pid=2) ERROR 11-21 10:55:25 [core.py:1510] EngineCore failed.", logging.ERROR),
        ("ERROR 11-21 10:55:25 [core.py:1510] no process is named", logging.ERROR),
        ("DEBUG 11-21 10:55:25 [core.py:1510] detail", logging.DEBUG),
        ("(APIServer pid=1) INFO 11-21 10:55:20 [launcher.py:195] Route: /ping, Methods: GET", logging.DEBUG),
        ("INFO:     Started server process [23224]", logging.INFO),
        ("ERROR is the first word of this one", logging.INFO),
        ("Traceback (most recent call last):", logging.INFO),
        ("", logging.INFO),
    ],
)
def test_a_line_keeps_the_level_it_was_logged_with(line: str, level: int) -> None:
    assert log_level(line) == level


def test_colours_and_trailing_blanks_are_no_part_of_a_line() -> None:
    assert plain("\x1b[0;36m(Worker pid=1)\x1b[0;0m INFO 11-21 10:55:19 [x.py:1] text \t") == (
        "(Worker pid=1) INFO 11-21 10:55:19 [x.py:1] text"
    )


USAGE = """
usage: vllm serve [-h] [--headless] [--api-server-count API_SERVER_COUNT]
                  [model_tag]
vllm serve: error: argument --dtype: invalid choice: 'float99' (choose from 'auto', 'bfloat16', 'half')
"""

WRAPPED = """
Found ulimit of 20000 and failed to automatically increase with error current limit exceeds maximum limit. \
This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n
(Worker pid=3) ERROR 11-21 10:55:25 [multiproc_executor.py:953] WorkerProc failed to start.
(Worker pid=3) ERROR 11-21 10:55:25 [multiproc_executor.py:953] Traceback (most recent call last):
(Worker pid=3) ERROR 11-21 10:55:25 [multiproc_executor.py:953]   File "/v/executor.py", line 920, in worker_main
(Worker pid=3) ERROR 11-21 10:55:25 [multiproc_executor.py:953]     raise ValueError(f"Load format `{x}` is not ...")
(Worker pid=3) ERROR 11-21 10:55:25 [multiproc_executor.py:953] ValueError: Load format `bnb` is not supported
(EngineCore pid=2) ERROR 11-21 10:55:25 [core.py:1510] EngineCore failed to start.
(EngineCore pid=2) ERROR 11-21 10:55:25 [core.py:1510]     raise e from None
(EngineCore pid=2) ERROR 11-21 10:55:25 [core.py:1510] Exception: WorkerProc initialization failed due to an \
exception in a background process. See stack trace for root cause.
Traceback (most recent call last):
  File "/v/engine/utils.py", line 1431, in wait_for_engine_startup
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
"""

OUT_OF_MEMORY = """
(EngineCore_DP0 pid=2) ERROR 11-21 10:55:25 [core.py:1510] EngineCore failed to start.
(EngineCore_DP0 pid=2) ERROR 11-21 10:55:25 [core.py:1510] torch.OutOfMemoryError: CUDA out of memory. Tried to \
allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.2 GiB is free.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""

LITTLE_MEMORY = """
(EngineCore pid=2) ERROR 11-21 10:55:25 [core.py:1510] ValueError: Free memory on device cuda:0 (1.2/79.11 GiB) on \
startup is less than desired GPU memory utilization (0.9, 71.2 GiB).
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""

VALIDATION = """
Traceback (most recent call last):
    s.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), self_instance=s)
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (999999999) is greater than the derived max_model_len (2048).
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""

FIELD_VALIDATION = """
pydantic_core._pydantic_core.ValidationError: 2 validation errors for SchedulerConfig
max_num_batched_tokens
  Input should be greater than or equal to 1 [type=greater_than_equal, input_value=0, input_type=int]
    For further information visit https://errors.pydantic.dev/2.14/v/greater_than_equal
max_num_seqs
  Input should be greater than or equal to 1 [type=greater_than_equal, input_value=0, input_type=int]
"""

NO_REPOSITORY = """
huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: Root=1-6)
OSError: org/nothing is not a local folder and is not a valid model identifier listed on the hub
"""

ECHO_ALONE = """
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (USAGE, "argument --dtype: invalid choice: 'float99' (choose from 'auto', 'bfloat16', 'half')"),
        (WRAPPED, "ValueError: Load format `bnb` is not supported"),
        (
            OUT_OF_MEMORY,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
            "79.11 GiB of which 1.2 GiB is free.",
        ),
        (
            LITTLE_MEMORY,
            "ValueError: Free memory on device cuda:0 (1.2/79.11 GiB) on startup is less than desired GPU memory "
            "utilization (0.9, 71.2 GiB).",
        ),
        (
            VALIDATION,
            "Value error, User-specified max_model_len (999999999) is greater than the derived max_model_len (2048).",
        ),
        (NO_REPOSITORY, "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: Root=1-6)"),
        (ECHO_ALONE, ECHO_ALONE.strip()),
        (ECHO_ALONE + WRAPPED, "ValueError: Load format `bnb` is not supported"),
        ("INFO:     Application startup complete.\nkilled", None),
        ("", None),
    ],
)
def test_the_reason_of_a_failure_is_the_first_exception_that_is_no_echo(log: str, reason: str | None) -> None:
    assert failure_reason(log.splitlines()) == reason


def test_the_reason_of_a_refused_field_names_the_field_and_what_is_wrong_with_it() -> None:
    reason = failure_reason(FIELD_VALIDATION.splitlines())
    assert reason is not None
    assert "max_num_batched_tokens" in reason
    assert "Input should be greater than or equal to 1" in reason
    assert "\n" not in reason
