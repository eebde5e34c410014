from __future__ import annotations

from fastregion.evaluation.benchmarks.base import Item
from fastregion.evaluation.benchmarks.decoding import decoding
from fastregion.evaluation.benchmarks.dlc_bench import DlcBench
from fastregion.models.dam.captioner import DamCaptioner
from fastregion.models.gar.captioner import GarCaptioner


def test_the_types_are_those_of_the_captioners() -> None:
    assert decoding(GarCaptioner.model_type) == {"temperature": 0.0, "max_new_tokens": 1024}
    assert decoding(DamCaptioner.model_type) == {
        "temperature": 0.2,
        "top_k": 50,
        "max_new_tokens": 512,
    }
    assert decoding("chat") == {}


def test_a_query_has_the_published_decoding() -> None:
    query = DlcBench().query(Item(id="1"), GarCaptioner.model_type)
    assert query.options["max_new_tokens"] == 1024
