"""What vLLM prints of memory while it loads, read: lines as vLLM 0.24 to 0.33, PyTorch and CUDA print them."""

from __future__ import annotations

from functools import reduce

import pytest

from arena_server.engine.base import LoadFacts
from arena_server.engine.facts import GIB, facts_with, tells_of_lack

CORE = "(EngineCore pid=9) INFO 11-21 10:55:19 "
WORKER = "(Worker_TP0 pid=10) INFO 11-21 10:55:19 "


def facts(*lines: str) -> LoadFacts:
    return reduce(facts_with, lines, LoadFacts())


def test_the_cache_is_never_taken_for_larger_than_it_is() -> None:
    found = facts(CORE + "[gpu_worker.py:760] Available KV cache memory: 24.13 GiB").kv_cache_bytes
    assert found == 24.125 * GIB
    smallest_printed_so = 24.1251 * GIB
    assert f"{round(smallest_printed_so / GIB, 2)}" == "24.13"
    assert found < smallest_printed_so


def test_weights_are_never_taken_for_smaller_than_they_are() -> None:
    line = CORE + "[gpu_model_runner.py:5149] Model loading took 14.99 GiB memory and 3.201475 seconds"
    assert facts(line).weights_bytes == int(14.995 * GIB) + 1


@pytest.mark.parametrize(("printed", "half"), [("14.9889", 0.00005), ("15.0", 0.05), ("15", 0.5)])
def test_a_number_is_as_exact_as_it_is_printed(printed: str, half: float) -> None:
    line = f"Model loading took {printed} GiB and 3.2 seconds"
    assert facts(line).weights_bytes == pytest.approx((float(printed) + half) * GIB, abs=2)


def test_of_several_devices_the_least_room_and_the_most_weights_count() -> None:
    told = facts(
        WORKER + "Model loading took 7.52 GiB memory and 3.2 seconds",
        WORKER + "Model loading took 7.49 GiB memory and 3.2 seconds",
        WORKER + "Available KV cache memory: 24.13 GiB",
        WORKER + "Available KV cache memory: 24.25 GiB",
    )
    assert told == LoadFacts(int(24.125 * GIB), int(7.525 * GIB) + 1)


def test_what_the_cpu_chose_for_itself_is_known() -> None:
    line = "[cpu_worker.py:260] Auto set (0.39/9.59) GiB for KV cache on node 0, with 0.48 GiB requested memory"
    assert facts(WORKER + line).kv_cache_bytes == int(0.385 * GIB)


@pytest.mark.parametrize(
    "line",
    [
        "[cpu_worker.py:260] Explicitly set (0.06/9.59) GiB for KV cache on node 0.",
        "Initial free memory 78.5 GiB, reserved 24.13 GiB memory for KV Cache as specified by kv_cache_memory_bytes",
        "Available KV cache memory: -1.2 GiB",
        "Available KV cache memory: 0.0 GiB",
        "[weight_utils.py:1108] Filesystem type for checkpoints: EXT4. Checkpoint size: 0.01 GiB.",
        "Loading weights took 12.04 seconds",
        "",
    ],
)
def test_these_lines_tell_nothing(line: str) -> None:
    assert facts(WORKER + line) == LoadFacts()


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB",
        "torch.cuda.OutOfMemoryError: HIP out of memory.",
        "RuntimeError: CUDA error: out of memory",
        "CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:62",
        "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests.",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "NCCL WARN Cuda failure 2 'out of memory'",
        "ERROR 11-21 10:55:19 Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization",
        "ValueError: Free memory on device cuda:0 (3/79.1 GiB) on startup is less than desired GPU memory utilization",
        "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than the engine's budget after",
        "ValueError: Available memory on node 0 (1.1/9.6 GiB) on startup is less than desired CPU memory utilization",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when",
        "ValueError: To serve at least one request with the model's max seq len (8192), (16.0 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (8.21 GiB).",
        "ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token.",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to",
    ],
)
def test_these_lines_tell_of_too_little_memory(line: str) -> None:
    assert tells_of_lack("(EngineCore pid=9) " + line)


@pytest.mark.parametrize(
    "line",
    [
        "Free memory on device (78.5/79.1 GiB) on startup. Desired GPU memory utilization is (0.9, 71.2 GiB).",
        "If you run out of memory, consider decreasing `max_num_seqs`",
        "If OOM'ed, check the difference of initial free memory between the current run and the previous run",
        "Available KV cache memory: 24.13 GiB",
        "ValueError: User-specified max_model_len (1073741824) is greater than the derived max_model_len",
        "OSError: [Errno 28] No space left on device",
    ],
)
def test_these_lines_tell_of_something_else(line: str) -> None:
    assert not tells_of_lack(line)
