"""Whole plans: what fits where, what is warned of, what was measured."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from arena_server.config import Config, load_config
from arena_server.config_model import ModelConfig
from arena_server.devices import DeviceInfo
from arena_server.errors import ConfigError
from arena_server.measurements import Measured, MeasurementStore, installed_vllm_version, measurement_key
from arena_server.plan.card import KNOWN, Card, own_cards, parse_cards
from arena_server.plan.change import changes
from arena_server.plan.errors import UsageError
from arena_server.plan.figures import figures
from arena_server.plan.measured import open_measurements
from arena_server.plan.plan import ModelPlan, Plan, make_plan
from arena_server.plan.report import lines
from arena_server.plan.sight import look_at
from arena_server.plan.warn import Weight, fails, warnings
from tests.plan.folders import model_folder, published, published_folder
from tests.support.fake_probe import FakeProbe

GIB = 1 << 30
NOTHING = MeasurementStore(None)
SLEEP = {"sleep_memory_bytes": 1 << 40}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of all published models, of their headers alone."""
    root = tmp_path_factory.mktemp("models")
    for name in ("llama-3.1-8b", "mistral-7b-v0.3", "qwen2.5-7b", "qwen2.5-7b-awq", "gemma-2-9b", "llama-3.1-70b"):
        published_folder(root / name, name)
    return root


class Planner:
    """Plans for models by their published names."""

    def __init__(self, folders: Path, directory: Path) -> None:
        self._folders = folders
        self.directory = directory

    def config(self, models: dict[str, dict[str, Any]], **pool: Any) -> Config:
        raw = {
            "state_dir": str(self.directory / "state"),
            "pool": {**SLEEP, **pool},
            "models": {name: {"model": str(self._folders / name), **more} for name, more in models.items()},
        }
        file = self.directory / "arena.yaml"
        file.write_text(yaml.safe_dump(raw))
        return load_config(file)

    def plan(self, gpu: str, models: dict[str, dict[str, Any]], **pool: Any) -> Plan:
        return make_plan(self.config(models, **pool), parse_cards(gpu), look_at, NOTHING)


@pytest.fixture
def planner(folders: Path, tmp_path: Path) -> Planner:
    return Planner(folders, tmp_path)


def of(plan: Plan, name: str) -> ModelPlan:
    return next(model for model in plan.models if model.name == name)


def recommended(plan: Plan) -> dict[str, int | None]:
    return {model.name: model.proposal.recommended for model in plan.models if model.proposal}


def said(plan: Plan, weight: Weight, name: str | None) -> str:
    return " | ".join(w.text for w in warnings(plan) if w.weight is weight and w.name == name)


THREE: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {"engine_args": {"max_model_len": 8192}},
    "mistral-7b-v0.3": {"engine_args": {"max_model_len": 8192}},
    "qwen2.5-7b": {"engine_args": {"max_model_len": 8192}},
}


def test_three_models_of_8b_go_together_on_80_gb(planner: Planner) -> None:
    plan = planner.plan("H100", THREE)
    assert not fails(plan)
    assert plan.then.sets == (tuple(THREE),)
    assert plan.then.apart == ()
    assert sum(share or 0 for share in recommended(plan).values()) <= 95
    for model in plan.models:
        fit = figures(model, plan)
        assert fit is not None
        assert fit.requests >= 4
        assert fit.tokens >= 32_768
        assert model.proposal is not None
        assert model.needs is not None
        least = model.proposal.smallest
        assert least is not None
        # The smallest is just enough for a full-length request, and one hundredth less is not.
        total, one = 81559 << 20, model.needs.least_bytes(8192)
        assert total * (least - 1) // 100 < one <= total * least // 100


def test_on_48_gib_any_two_are_awake_and_the_third_sleeps_beside_them(planner: Planner) -> None:
    plan = planner.plan("48GiB", THREE)
    assert len(plan.then.sets) == 3
    assert all(len(chosen) == 2 for chosen in plan.then.sets)
    assert plan.proposed.together == {0: 2}
    assert plan.proposed.sleepers == {0: 1}
    shares = [share or 0 for share in recommended(plan).values()]
    assert sum(sorted(shares)[-2:]) * 48 / 100 + 2 <= 48 * 0.95  # 2 GiB stay of a sleeper until that was measured
    without = planner.plan("48GiB", THREE, sleep_memory_bytes=0)
    assert without.proposed.sleepers == {0: 0}
    assert sum(share or 0 for share in recommended(without).values()) > sum(shares)


def test_on_24_gib_no_battle_is_possible_and_that_is_said(planner: Planner) -> None:
    plan = planner.plan("24GiB", THREE)
    assert not fails(plan)
    assert all(len(chosen) == 1 for chosen in plan.then.sets)
    assert "no two models can be awake together" in said(plan, Weight.COSTS, None)


def test_two_that_do_not_go_together_are_named_in_the_pools_words(planner: Planner) -> None:
    small = {"qwen2.5-7b-awq": THREE["qwen2.5-7b"]}
    plan = planner.plan("32GiB", {**THREE, **small})
    text = said(plan, Weight.COSTS, None)
    assert "mistral-7b-v0.3 and qwen2.5-7b can never be awake together: On device 0: mistral-7b-v0.3" in text
    # The small one goes with each of them, and gets no more than that allows.
    assert [chosen for chosen in plan.then.sets if "qwen2.5-7b-awq" not in chosen] == []
    assert len(plan.then.sets) == 3


def test_a_t4(planner: Planner) -> None:
    plan = planner.plan("T4", {"qwen2.5-7b": {}, "qwen2.5-7b-awq": {"engine_args": {"max_model_len": 8192}}})
    assert fails(plan)
    assert not of(plan, "qwen2.5-7b").works
    assert of(plan, "qwen2.5-7b-awq").works
    text = said(plan, Weight.FAILS, "qwen2.5-7b")
    assert "does not fit on this card" in text
    assert "weights 14.2 GiB" in text
    assert "8.1 GiB in FP8 and 5.2 GiB in 4 bits (AWQ)" in text
    assert "no bfloat16: vLLM runs it in float16 (--dtype half)" in said(plan, Weight.TELLS, "qwen2.5-7b")
    assert said(plan, Weight.TELLS, "qwen2.5-7b-awq") == ""  # float16 already
    assert "no FlashAttention 2" in said(plan, Weight.TELLS, None)
    assert [change.name for change in changes(plan)] == ["qwen2.5-7b-awq"]


def test_bfloat16_that_was_asked_for_is_refused_by_a_t4_and_changed(planner: Planner) -> None:
    plan = planner.plan("T4", {"qwen2.5-7b-awq": {"engine_args": {"dtype": "bfloat16", "max_model_len": 4096}}})
    assert "it needs dtype half" in said(plan, Weight.COSTS, "qwen2.5-7b-awq")
    assert not fails(plan)  # once it is written
    assert ("engine_args", "dtype") in [change.where for change in changes(plan)]
    l4 = planner.plan("L4", {"qwen2.5-7b-awq": {"engine_args": {"dtype": "bfloat16", "max_model_len": 4096}}})
    assert ("engine_args", "dtype") not in [change.where for change in changes(l4)]
    assert "dtype" not in said(l4, Weight.COSTS, "qwen2.5-7b-awq")


def test_gemma_has_no_float16_so_a_t4_takes_twice_the_memory(planner: Planner) -> None:
    t4, l4 = (planner.plan(gpu, {"gemma-2-9b": {}}) for gpu in ("T4", "L4"))
    sizes = [of(plan, "gemma-2-9b").needs for plan in (t4, l4)]
    assert sizes[0] is not None
    assert sizes[1] is not None
    assert sizes[0].weights.bytes == 2 * sizes[1].weights.bytes
    assert "float32" in said(t4, Weight.TELLS, "gemma-2-9b")


@pytest.mark.parametrize(
    ("gpu", "weight", "says"),
    [
        ("T4", Weight.TELLS, "does not compute in FP8"),
        ("V100", Weight.FAILS, "fp8 does not run on compute capability 7.0"),
        ("P40", Weight.FAILS, "vLLM does not run on compute capability 6.1"),
        ("L4", Weight.TELLS, ""),
    ],
)
def test_what_a_card_cannot_compute(gpu: str, weight: Weight, says: str, planner: Planner, tmp_path: Path) -> None:
    plan = planner.plan(gpu, {"qwen2.5-7b": {"engine_args": {"quantization": "fp8", "max_model_len": 2048}}})
    text = said(plan, weight, "qwen2.5-7b")
    assert says in text if says else "FP8" not in text


def test_8b_in_bfloat16_does_not_go_into_30_percent_of_16_gb(planner: Planner) -> None:
    plan = planner.plan("16GiB", {"llama-3.1-8b": {"gpu_memory_utilization": 0.3}})
    assert fails(plan)
    larger = planner.plan("24GiB", {"llama-3.1-8b": {"gpu_memory_utilization": 0.3}})
    assert "0.3 of 24.0 GiB is 7.2 GiB, but its weights alone take 15.0 GiB" in said(
        larger, Weight.COSTS, "llama-3.1-8b"
    )
    tight = planner.plan(
        "24GiB", {"llama-3.1-8b": {"gpu_memory_utilization": 0.7, "engine_args": {"max_model_len": 8192}}}
    )
    assert "with one request of 8,192 tokens it takes 17.7 GiB" in said(tight, Weight.COSTS, "llama-3.1-8b")


def test_a_context_that_nobody_asked_for_is_cut_where_it_does_not_fit(planner: Planner) -> None:
    plan = planner.plan("24GiB", {"llama-3.1-8b": {}})
    assert ("engine_args", "max_model_len") in [change.where for change in changes(plan)]
    fit = figures(of(plan, "llama-3.1-8b"), plan)
    assert fit is not None
    assert fit.length == 16_384
    assert fit.requests >= 2
    assert "131,072 tokens takes 16.0 GiB" in said(plan, Weight.COSTS, "llama-3.1-8b")
    large = planner.plan("80GiB", {"llama-3.1-8b": {}})
    assert ("engine_args", "max_model_len") not in [change.where for change in changes(large)]


def test_it_is_cut_as_well_where_two_could_not_be_awake_for_it(planner: Planner) -> None:
    plan = planner.plan("48GiB", {"llama-3.1-8b": {}, "mistral-7b-v0.3": {}})
    lengths = {change.name: change.value for change in changes(plan) if "max_model_len" in change.where}
    assert lengths == {"llama-3.1-8b": 32_768}
    assert len(plan.then.sets[0]) == 2


def test_a_context_that_was_asked_for_is_cut_only_where_the_model_could_not_load(planner: Planner) -> None:
    asked: dict[str, Any] = {"engine_args": {"max_model_len": 65_536}}
    both = planner.plan("48GiB", {"llama-3.1-8b": asked, "mistral-7b-v0.3": {}})
    assert [change.where for change in changes(both)] == [("gpu_memory_utilization",)] * 2
    alone = planner.plan("24GiB", {"llama-3.1-8b": asked})
    assert ("engine_args", "max_model_len") in [change.where for change in changes(alone)]
    fits_itself = planner.plan("24GiB", {"llama-3.1-8b": {"engine_args": {"max_model_len": "auto"}}})
    assert [change.where for change in changes(fits_itself)] == [("gpu_memory_utilization",)]


def test_a_context_over_the_models_own(planner: Planner) -> None:
    too_long: dict[str, Any] = {"engine_args": {"max_model_len": 40_000}}
    plan = planner.plan("80GiB", {"qwen2.5-7b": too_long})
    assert "40,000 is over the model's own 32,768" in said(plan, Weight.COSTS, "qwen2.5-7b")
    assert {change.where[-1]: change.value for change in changes(plan)}["max_model_len"] == 32_768
    allowed = planner.plan("80GiB", {"qwen2.5-7b": {**too_long, "env": {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}}})
    assert [change.where for change in changes(allowed)] == [("gpu_memory_utilization",)]


def test_max_awake_models_and_pinned_ones_bound_who_is_together(planner: Planner) -> None:
    one = planner.plan("80GiB", THREE, max_awake_models=1)
    assert one.proposed.together == {0: 1}
    assert all(len(chosen) == 1 for chosen in one.then.sets)
    pinned = {**THREE, "qwen2.5-7b": {**THREE["qwen2.5-7b"], "pinned": True}}
    plan = planner.plan("48GiB", pinned)
    assert plan.then.refused == ()
    assert "mistral-7b-v0.3 and llama" not in said(plan, Weight.COSTS, None)
    assert {a for a, _, _ in plan.then.apart} == {"llama-3.1-8b"}  # the two beside the pinned one


def test_a_pinned_model_does_not_part_two_that_fit_beside_it(planner: Planner, tmp_path: Path, folders: Path) -> None:
    args: dict[str, Any] = {"model": str(folders / "qwen2.5-7b"), "engine_args": {"max_model_len": 8192}}
    pinned = {"a": args, "b": args, "p": {**args, "pinned": True}}
    plan = planner.plan("56GiB", pinned)
    assert plan.then.apart == ()
    assert plan.then.sets == (("a", "b", "p"),)
    # And a context that nobody asked for is cut for it, but not where that would not help.
    own = {name: {**more, "engine_args": {}} for name, more in pinned.items()}
    assert planner.plan("56GiB", own).then.apart == ()
    assert {change.where[-1] for change in changes(planner.plan("48GiB", own))} == {"gpu_memory_utilization"}


def test_several_cards(planner: Planner) -> None:
    split: dict[str, Any] = {"engine_args": {"tensor_parallel_size": 4, "max_model_len": 8192}}
    plan = planner.plan("4x48GiB", {"llama-3.1-70b": split, "qwen2.5-7b": THREE["qwen2.5-7b"]})
    big = of(plan, "llama-3.1-70b")
    assert big.homes == (0, 1, 2, 3)
    assert big.works
    assert big.needs is not None
    assert big.needs.weights.bytes == pytest.approx(141_107_412_992 / 4, rel=0.01)
    assert said(plan, Weight.FAILS, None) == ""
    with pytest.raises(ConfigError, match="runs on 4 devices"):
        planner.plan("2x48GiB", {"llama-3.1-70b": split})


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("llama-3.1-8b", 3, "its 32 attention heads cannot be split over tensor_parallel_size 3"),
        ("qwen2.5-7b", 8, "its 28 attention heads cannot be split over tensor_parallel_size 8"),
        ("qwen2.5-7b", 7, "its 4 heads of keys and values cannot be split over tensor_parallel_size 7"),
        ("qwen2.5-7b", 4, ""),
        ("llama-3.1-70b", 16, ""),
    ],
)
def test_heads_that_cannot_be_split(name: str, size: int, says: str, planner: Planner) -> None:
    args = {"tensor_parallel_size": size, "max_model_len": 8192}
    plan = planner.plan(f"{size}xL4", {name: {"engine_args": args}})
    text = said(plan, Weight.FAILS, name)
    assert says in text if says else text == ""
    assert fails(plan) == bool(says)


def test_all_pairs_of_4_bit_models_that_a_t4_allows(planner: Planner, folders: Path) -> None:
    method = published("qwen2.5-7b-awq")["config"]["quantization_config"]
    models: dict[str, dict[str, Any]] = {}
    for name in ("llama-3.1-8b", "mistral-7b-v0.3", "qwen2.5-7b"):
        config = {**published(name)["config"], "torch_dtype": "float16", "quantization_config": method}
        if not (folders / f"4-bit-{name}").exists():
            model_folder(folders / f"4-bit-{name}", config)
        models[f"4-bit-{name}"] = {"engine_args": {"max_model_len": 4096, "max_num_seqs": 32}}
    plan = planner.plan("T4", models)
    assert [model.proposal.smallest for model in plan.models if model.proposal] == [48, 38, 45]
    assert plan.then.apart == ()


def test_host_ram_for_sleepers(planner: Planner) -> None:
    plan = planner.plan("80GiB", THREE, sleep_memory_bytes=10 * GIB)
    assert "needs 29.9 GiB of host RAM to sleep, and sleepers may take 10.0 GiB" in said(plan, Weight.COSTS, None)
    assert "host RAM" not in said(planner.plan("80GiB", THREE), Weight.COSTS, None)
    never = {name: {**more, "sleep_level": 0} for name, more in THREE.items()}
    assert "host RAM" not in said(planner.plan("80GiB", never, sleep_memory_bytes=0), Weight.COSTS, None)


def test_what_is_not_known_is_said_and_left_as_it_is(planner: Planner, folders: Path) -> None:
    strange = folders / "strange"
    if not strange.exists():
        config = {**published("qwen2.5-7b")["config"], "mamba_d_state": 16}
        model_folder(strange, config, [])
    plan = planner.plan("24GiB", {"strange": {"gpu_memory_utilization": 0.5}, "nothing": {}})
    assert "mamba_d_state" in said(plan, Weight.COSTS, "strange")
    assert "left as it is" in said(plan, Weight.COSTS, "strange")
    assert "there is nothing" in said(plan, Weight.FAILS, "nothing")
    assert changes(plan) == []
    assert of(plan, "strange").works
    assert fails(plan)


def test_one_whose_needs_are_not_known_keeps_its_place(planner: Planner, folders: Path) -> None:
    if not (folders / "other").exists():
        model_folder(folders / "other", {**published("qwen2.5-7b")["config"], "mamba_d_state": 16}, [])
    strange: dict[str, Any] = {"other": {"gpu_memory_utilization": 0.4}}
    plan = planner.plan("80GiB", {**strange, "qwen2.5-7b": THREE["qwen2.5-7b"]})
    assert plan.then.sets == (("other", "qwen2.5-7b"),)
    assert recommended(plan) == {"qwen2.5-7b": 55}


def test_one_that_cannot_be_seen_keeps_its_place_too(planner: Planner) -> None:
    plan = planner.plan("80GiB", {"gone": {"gpu_memory_utilization": 0.4}, "qwen2.5-7b": THREE["qwen2.5-7b"]})
    assert said(plan, Weight.FAILS, "gone")
    assert plan.then.sets == (("gone", "qwen2.5-7b"),)
    assert recommended(plan) == {"qwen2.5-7b": 55}


def test_cards_of_several_sizes(planner: Planner) -> None:
    cards = [*parse_cards("24GiB"), Card(DeviceInfo(1, "80GiB card", 80 * GIB))]
    models: dict[str, dict[str, Any]] = {
        "llama-3.1-8b": {"devices": [1], "engine_args": {"max_model_len": 131_072}},
        "qwen2.5-7b": {"devices": [0], "engine_args": {"max_model_len": 8192}},
    }
    plan = make_plan(planner.config(models), cards, look_at, NOTHING)
    assert not fails(plan)
    fit = figures(of(plan, "llama-3.1-8b"), plan)
    assert fit is not None
    assert fit.requests > 3  # it is planned for its own card
    assert plan.then.sets == (tuple(models),)


def test_a_configuration_that_the_pool_refuses_is_planned_all_the_same(planner: Planner) -> None:
    plan = planner.plan("80GiB", {"qwen2.5-7b": {"gpu_memory_utilization": 0.99}})
    assert "0.99 is over the device's budget" in said(plan, Weight.COSTS, None)
    assert not fails(plan)
    assert plan.then.refused == ()


def measured(planner: Planner, numbers: Measured, cards: list[Card], path: Path) -> Plan:
    """A plan for Qwen where these numbers are in the file of measurements."""
    config = planner.config({"qwen2.5-7b": {"gpu_memory_utilization": 0.5}})
    devices = [card.device for card in cards]
    store = MeasurementStore.open(path)
    store.put(measurement_key(config.models["qwen2.5-7b"], devices, installed_vllm_version()), "qwen2.5-7b", numbers)
    read, why = open_measurements(path.parent)
    assert why is None
    plan = make_plan(config, cards, look_at, read)
    store.close()
    return plan


def test_what_was_measured_takes_the_place_of_estimates(planner: Planner, tmp_path: Path) -> None:
    cards = parse_cards("80GiB")
    numbers = Measured(weights_bytes=15 * GIB, kv_cache_bytes=23 * GIB, asleep_bytes={0: GIB})
    plan = measured(planner, numbers, cards, tmp_path / "measurements.sqlite")
    needs = of(plan, "qwen2.5-7b").needs
    assert needs is not None
    assert (needs.weights.bytes, needs.weights.measured) == (15 * GIB, True)
    assert (needs.overhead.bytes, needs.overhead.measured) == (2 * GIB, True)  # 40 - 15 - 23
    proposal = of(plan, "qwen2.5-7b").proposal
    assert proposal is not None
    assert proposal.smallest == 24  # 15 + 2 GiB and one request of 32,768 tokens of 56 KiB: 18.75 of 80 GiB
    text = "\n".join(line.plain for line in lines(plan, 100))
    assert "15.0*  " in text
    assert "2.0*  " in text
    assert "* measured on this machine" in text
    other = measured(planner, Measured(), cards, tmp_path / "measurements.sqlite")
    estimate = of(other, "qwen2.5-7b").needs
    assert estimate is not None
    assert not estimate.weights.measured
    assert not estimate.overhead.measured


def test_measurements_are_read_while_a_daemon_writes_and_are_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "measurements.sqlite"
    daemon = MeasurementStore.open(file)
    daemon.put("key", "a", Measured(weights_bytes=1))
    writer = sqlite3.connect(file)
    writer.execute("BEGIN IMMEDIATE")  # it holds the lock
    before = file.read_bytes()
    store, why = open_measurements(tmp_path)
    assert (store.get("key").weights_bytes, why) == (1, None)
    assert file.read_bytes() == before
    writer.rollback()
    writer.close()
    daemon.close()


def test_reading_measurements_leaves_no_files_that_could_shut_a_daemon_out(tmp_path: Path) -> None:
    daemon = MeasurementStore.open(tmp_path / "measurements.sqlite")
    daemon.put("key", "a", Measured(weights_bytes=1))
    daemon.close()
    files = sorted(tmp_path.iterdir())
    store, why = open_measurements(tmp_path)
    assert (store.get("key").weights_bytes, why) == (1, None)
    assert sorted(tmp_path.iterdir()) == files


def test_no_measurements_and_broken_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, why = open_measurements(tmp_path)
    assert (store.get("key"), why) == (Measured(), None)
    assert not (tmp_path / "measurements.sqlite").exists()
    (tmp_path / "measurements.sqlite").write_bytes(b"no database" * 100)
    store, why = open_measurements(tmp_path)
    assert store.get("key") == Measured()
    assert why is not None
    assert str(tmp_path) in why
    assert (tmp_path / "measurements.sqlite").read_bytes() == b"no database" * 100  # a daemon sets it aside, not we
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("text", "total", "capability", "count"),
    [
        ("16GiB", 16 * GIB, None, 1),
        ("80", 80 * GIB, None, 1),
        ("24gb", 24 * 10**9, None, 1),
        ("15360MiB", 15 * GIB, None, 1),
        ("22.5 GiB", int(22.5 * GIB), None, 1),
        ("T4", 15 * GIB, (7, 5), 1),
        ("Tesla T4", 15 * GIB, (7, 5), 1),
        ("NVIDIA A10G", 23028 << 20, (8, 6), 1),
        ("2xL4", 2 * 0 + (23034 << 20), (8, 9), 2),
        ("4 x a100-80gb", 81920 << 20, (8, 0), 4),
        ("rtx4090", 24564 << 20, (8, 9), 1),
        # As nvidia-smi has them.
        ("NVIDIA A100-SXM4-40GB", 40960 << 20, (8, 0), 1),
        ("2xNVIDIA A100-SXM4-80GB", 81920 << 20, (8, 0), 2),
        ("NVIDIA A100 80GB PCIe", 81920 << 20, (8, 0), 1),
        ("NVIDIA A100-PCIE-40GB", 40960 << 20, (8, 0), 1),
        ("NVIDIA H100 80GB HBM3", 81559 << 20, (9, 0), 1),
        ("NVIDIA H100 NVL", 95830 << 20, (9, 0), 1),
        ("NVIDIA GH200 480GB", 97871 << 20, (9, 0), 1),  # the rest is the host's
        ("Tesla V100-SXM2-16GB", 16384 << 20, (7, 0), 1),
        ("Tesla V100-PCIE-32GB", 32768 << 20, (7, 0), 1),
        ("Tesla P100-PCIE-16GB", 16384 << 20, (6, 0), 1),
        ("NVIDIA L40S", 46068 << 20, (8, 9), 1),
        ("NVIDIA GeForce RTX 3090", 24576 << 20, (8, 6), 1),
        ("Quadro RTX 6000", 24576 << 20, (7, 5), 1),
        ("NVIDIA RTX 6000 Ada Generation", 49140 << 20, (8, 9), 1),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887 << 20, (12, 0), 1),
    ],
)
def test_cards(text: str, total: int, capability: tuple[int, int] | None, count: int) -> None:
    cards = parse_cards(text)
    assert [card.device.index for card in cards] == list(range(count))
    assert {(card.device.total_bytes, card.capability) for card in cards} == {(total, capability)}


# Less memory than the card of that name, or none there is.
OTHERS = ("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA V100-SXM2-24GB", "NVIDIA")


@pytest.mark.parametrize(
    "text", ["", "x", "0xT4", "100xT4", "-16GiB", "16 GiBB", "0.5GiB", "T5", "GiB", "1e9", *OTHERS]
)
def test_cards_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--gpu"):
        parse_cards(text)


def test_every_known_card_can_be_named() -> None:
    for name, (mib, capability) in KNOWN.items():
        assert [(c.device.total_bytes, c.capability) for c in parse_cards(name)] == [(mib << 20, capability)]


def test_without_a_gpu_it_says_what_to_give() -> None:
    with pytest.raises(UsageError, match="--gpu 80GiB or --gpu L4"):
        own_cards(FakeProbe(gpu=False))


def test_a_model_config_is_all_that_looking_needs(folders: Path) -> None:
    sight = look_at("q", ModelConfig(model=str(folders / "qwen2.5-7b")))
    assert sight.place == "local"
