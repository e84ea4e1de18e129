"""One engine's page read, several merged, and both formats written: no daemon here."""

from __future__ import annotations

import pytest

from arena_server.metrics.engine_page import NotMetrics, merged, read_page
from arena_server.metrics.exposition import openmetrics_lines, text_lines
from tests.metrics.pages import VLLM_COMPLETION_TOKENS, VLLM_PROMPT_TOKENS, real_page
from tests.metrics.scraped import OPENMETRICS, Scraped, read


def page_of(*pages: tuple[str, str], openmetrics: bool = False) -> Scraped:
    """Name and page of each engine."""
    families = merged([read_page(text.encode(), name) for name, text in pages])
    if openmetrics:
        return read("".join(openmetrics_lines(families)) + "# EOF\n", OPENMETRICS)
    return read("".join(text_lines(families)))


def test_what_vllm_says_comes_through_whole_with_the_configured_name_beside_its_own() -> None:
    theirs = read(real_page("served"))
    ours = page_of(("configured", real_page("served")))
    expected = [
        (s.name, {**s.labels, "model": "configured"}, s.value)
        for f in theirs.families.values()
        for s in f.samples
        if s.name.startswith("vllm:")
    ]
    assert [(s.name, s.labels, s.value) for f in ours.families.values() for s in f.samples] == expected
    assert len(expected) > 300
    kept = {n: (f.type, f.documentation) for n, f in theirs.families.items() if n.startswith("vllm:")}
    assert {n: (f.type, f.documentation) for n, f in ours.families.items()} == kept


def test_nothing_of_the_engines_python_process_and_routes() -> None:
    assert {n.partition(":")[0] for n in page_of(("m", real_page("m"))).families} == {"vllm"}


@pytest.mark.parametrize("openmetrics", [False, True])
def test_two_engines_share_one_family_and_keep_their_samples(openmetrics: bool) -> None:
    both = page_of(("a", real_page("a")), ("org/b", real_page("b")), openmetrics=openmetrics)
    tokens = both.values("vllm:generation_tokens_total", "model")
    assert tokens == {"a": VLLM_COMPLETION_TOKENS, "org/b": VLLM_COMPLETION_TOKENS}
    histogram = both.families["vllm:time_to_first_token_seconds"]
    assert histogram.type == "histogram"
    for model in ("a", "org/b"):
        buckets = [s for s in histogram.samples if s.name.endswith("_bucket") and s.labels["model"] == model]
        assert len(buckets) == 23
        assert buckets[-1].labels["le"] == "+Inf"
        assert both.value("vllm:time_to_first_token_seconds_count", model=model, engine="0", model_name=model[-1]) == 2


def test_openmetrics_has_the_samples_of_the_text_and_its_own_names() -> None:
    text, other = page_of(("m", real_page("m"))), page_of(("m", real_page("m")), openmetrics=True)
    assert other.families["vllm:generation_tokens"].type == "counter"
    assert "vllm:generation_tokens_created" not in other.families, "it is the counter's own sample there"
    assert other.families["vllm:iteration_tokens_total"].type == "histogram"

    def samples(page: Scraped) -> list[tuple[str, str, float]]:
        return sorted((s.name, str(s.labels), s.value) for f in page.families.values() for s in f.samples)

    assert samples(other) == samples(text)


def test_engines_of_different_versions_each_bring_their_families() -> None:
    old = (
        "# HELP vllm:gpu_cache_usage_perc The older name.\n# TYPE vllm:gpu_cache_usage_perc gauge\n"
        'vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n'
        "# HELP vllm:both Said otherwise then.\n# TYPE vllm:both gauge\nvllm:both 1\n"
    )
    new = "# HELP vllm:both As it is said now.\n# TYPE vllm:both gauge\nvllm:both 2\n"
    both = page_of(("new", new), ("old", old))
    assert both.families["vllm:both"].documentation == "As it is said now."
    assert both.values("vllm:both", "model") == {"new": 2, "old": 1}
    assert both.values("vllm:gpu_cache_usage_perc", "model") == {"old": 0.5}


def test_a_name_with_another_type_keeps_the_first_engines() -> None:
    first = "# TYPE vllm:x counter\nvllm:x 1\n"
    second = '# TYPE vllm:x histogram\nvllm:x_bucket{le="+Inf"} 5\nvllm:x_sum 5\nvllm:x_count 5\nvllm:y 3\n'
    both = page_of(("a", first), ("b", second))
    assert both.text.count("# TYPE vllm:x ") == 1
    assert "vllm:x_bucket" not in both.text
    assert both.values("vllm:y", "model") == {"b": 3}


def test_help_that_comes_twice_and_a_series_that_does_count_once() -> None:
    page = "# HELP vllm:x One.\n# TYPE vllm:x gauge\nvllm:x 1\n# HELP vllm:x Two.\n# TYPE vllm:x counter\nvllm:x 2\n"
    read_again = page_of(("m", page))
    assert read_again.families["vllm:x"].documentation == "One."
    assert read_again.value("vllm:x", model="m") == 1


def test_labels_with_quotes_braces_commas_and_a_model_of_their_own() -> None:
    page = 'vllm:x{a="br{ace}, \\"quoted\\" \\\\",model="theirs",b="x,model=\\"no\\""} 1\nvllm:x{} 2\nvllm:x 2\n'
    found = page_of(('na"me\\', page))
    assert [s.labels for s in found.families["vllm:x"].samples] == [
        {"model": 'na"me\\', "a": 'br{ace}, "quoted" \\', "exported_model": "theirs", "b": 'x,model="no"'},
        {"model": 'na"me\\'},
    ]


def test_timestamps_are_dropped_and_odd_numbers_kept() -> None:
    found = page_of(("m", "vllm:a 1.5e+09 1795287957000\nvllm:b NaN\nvllm:c +Inf\nvllm:d{} -3\n"))
    assert 'vllm:a{model="m"} 1.5e+09\n' in found.text
    assert found.value("vllm:c", model="m") == float("inf")
    assert found.value("vllm:d", model="m") == -3


@pytest.mark.parametrize(
    "page",
    [
        b"<html><body>502 Bad Gateway</body></html>",
        b'{"object": "/metrics"}',
        b"vllm:x 1\nvllm:y{a=} 2\n",
        b'vllm:x{a="never closed} 2\n',
        b"vllm:x one\n",
        b"vllm:x 1_000\n",
        b"# TYPE vllm:x colour\nvllm:x 1\n",
        b'vllm:x{a="\xff"} 1\n',
        b"vllm:x 1\nvllm:generation_tok",
    ],
)
def test_a_page_with_anything_wrong_in_it_is_refused_whole(page: bytes) -> None:
    with pytest.raises(NotMetrics):
        read_page(page, "m")


def test_a_page_without_vllms_metrics_is_empty_and_not_wrong() -> None:
    page = read_page(b'# TYPE python_info gauge\npython_info{version="3"} 1\n', "m")
    assert not page.families
    assert page.sum("vllm:generation_tokens_total") is None


def test_tokens_are_summed_over_an_engines_replicas() -> None:
    page = 'vllm:prompt_tokens_total{engine="0"} 5\nvllm:prompt_tokens_total{engine="1"} 6\n'
    assert read_page(page.encode(), "m").sum("vllm:prompt_tokens_total") == 11
    assert read_page(real_page("m").encode(), "m").sum("vllm:prompt_tokens_total") == VLLM_PROMPT_TOKENS


def test_a_counter_that_lacks_its_ending_is_no_counter_of_openmetrics() -> None:
    found = page_of(("m", "# TYPE vllm:x counter\nvllm:x 1\n# TYPE vllm:y_total counter\nvllm:y_total 2\n"
                          "# TYPE vllm:y gauge\nvllm:y 3\nvllm:z 4\n"), openmetrics=True)  # fmt: skip
    assert found.families["vllm:x"].type == "unknown"
    assert found.families["vllm:y"].type == "gauge"
    assert "# TYPE vllm:z unknown\n" in found.text, "the text format's word for it is another"
    assert found.value("vllm:y_total", model="m") == 2
