from __future__ import annotations

import pytest
from benchmark_data import judge_template

from fastregion.evaluation.benchmarks.base import Benchmark
from fastregion.evaluation.benchmarks.registry import NAMES, find_benchmark
from fastregion.evaluation.benchmarks.wording import Wording


def test_parts_and_placeholders() -> None:
    wording = Wording("[[a]]\nSay {x}, {\n{y}.\n\n[[b]]\nnothing\n", {"a": ("x",), "b": ()})
    assert wording.fill("a", x="{y}", y="z") == "Say {y}, {\nz.\n"  # values are not searched
    assert wording.fill("b") == "nothing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", r"expected a line like \[\[message\]\] first, got 'hello'"),
        ("[[b]]\n{x}", r"expected the parts \[\[a\]\], got \[\[b\]\]"),
        ("", r"got none"),
        ("[[a]]\nx", r"part \[\[a\]\] must have \{x\}"),
        ("[[a]]\n{x}\n[[a]]\n{x}", r"part \[\[a\]\] comes twice"),
    ],
)
def test_bad_templates(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"template: .*{message}"):
        Wording(text, {"a": ("x",)})


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_complete(name: str) -> None:
    benchmark = find_benchmark(name)
    assert issubclass(benchmark, Benchmark)
    assert benchmark.name == name
    assert benchmark.version >= 1
    assert benchmark.summary
    if benchmark.template is not None:
        assert judge_template(benchmark.template)
        assert benchmark.judged
