"""Recipes: the packaged ones, keys given anew, and what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import toy_recipe

from fastregion.training.recipe import PACKAGED, Lora, Recipe, parse_overrides, read_recipe
from fastregion.training.settings import from_mapping, to_mapping, with_overrides


def test_there_is_a_recipe_for_every_system() -> None:
    assert PACKAGED == ("dam", "gar", "mini", "pix2cap", "ureca_stage1", "ureca_stage2")


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_are_read_and_go_through_json(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.system == name.partition("_")[0]
    assert from_mapping(Recipe, json.loads(json.dumps(to_mapping(recipe)))) == recipe


def test_packaged_numbers_are_the_papers() -> None:
    """The papers' tables, and what a batch is in all."""
    gar, dam, pix2cap = (read_recipe(name) for name in ("gar", "dam", "pix2cap"))
    stages = [read_recipe(f"ureca_stage{k}") for k in (1, 2)]
    assert [r.optimizer.learning_rate for r in (gar, dam, *stages, pix2cap)] == [
        1e-5, 1e-4, 2e-4, 4e-5, 1e-4,
    ]  # fmt: skip
    assert [r.optimizer.weight_decay for r in (gar, dam, *stages, pix2cap)] == [
        0.0, 0.0, 0.01, 0.01, 0.05,
    ]  # fmt: skip
    assert [r.clip for r in (gar, *stages, pix2cap)] == [1.0, 1.0, 1.0, 5.0]
    assert [r.epochs for r in (gar, dam, *stages, pix2cap)] == [1, 1, 2, 2, 25]
    assert [r.schedule.warmup_ratio for r in (gar, dam, *stages)] == [0.03] * 4
    published = [(gar, 32, 64), (dam, 8, 2048), *((r, 4, 16) for r in stages), (pix2cap, 8, 32)]
    for recipe, gpus, batch in published:
        assert recipe.batch_size is not None
        assert recipe.batch_size * recipe.accumulation * gpus == batch
    assert pix2cap.schedule.milestones == (0.88889, 0.96296)
    assert pix2cap.precision == "fp16"
    assert stages[1].lora is not None
    assert stages[1].lora.alpha == 2 * stages[1].lora.rank


def test_keys_given_anew(tmp_path: Path) -> None:
    recipe = read_recipe(
        "gar",
        parse_overrides(
            ["steps=7", "batch_tokens=4096", "optimizer.betas=[0.9, 0.95]", "lora.rank=8",
             "data.0.format=jsonl", "data.0.path=a.jsonl", "data.1.format=jsonl",
             "data.1.path=b.jsonl", "data.1.repeat=2", "schedule.warmup_steps=3", "clip=null"]
        ),
    )  # fmt: skip
    assert (recipe.steps, recipe.epochs) == (7, None)
    assert (recipe.batch_tokens, recipe.batch_size) == (4096, None)
    assert recipe.optimizer.betas == (0.9, 0.95)
    assert recipe.optimizer.learning_rate == 1e-5
    assert recipe.lora == Lora(rank=8)
    assert [(source.path, source.repeat) for source in recipe.data] == [
        ("a.jsonl", 1.0),
        ("b.jsonl", 2.0),
    ]
    assert (recipe.schedule.warmup_steps, recipe.schedule.warmup_ratio) == (3, 0.0)
    assert recipe.clip is None


def test_files_are_recipes_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(to_mapping(toy_recipe(steps=3))))
    assert read_recipe(file) == toy_recipe(steps=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"system": "clip"}, "system: expected one of gar, dam, ureca, pix2cap, mini, got 'clip'"),
        ({"steps": None}, "epochs, steps, minutes: give exactly one of them, got none"),
        ({"minutes": 3}, "epochs, steps, minutes: give exactly one of them, got steps and minutes"),
        ({"batch_tokens": 3}, "batch_size, batch_tokens: give exactly one of them"),
        ({"steps": 0}, "steps: must be positive, got 0"),
        ({"accumulation": 0}, "accumulation: must be at least 1, got 0"),
        ({"ema": 1.0}, r"ema: must lie in \[0, 1\), got 1.0"),
        ({"seed": -1}, "seed: must be at least 0, got -1"),
        ({"precision": "int8"}, "precision: expected one of fp32, bf16, fp16, got 'int8'"),
        ({"optimizer": {"learning_rate": "fast"}}, "optimizer.learning_rate: expected a number, g"),
        ({"minutes": ".inf"}, "minutes: expected a number, got '.inf'"),
        ({"clip": float("inf")}, "clip: expected a finite number, got inf"),
        ({"optimizer": {"eps": "nan"}}, "optimizer.eps: expected a finite number, got 'nan'"),
        (
            {"batch_size": None, "batch_tokens": 9, "group_by_length": True},
            "group_by_length: needs batch_size",
        ),
        ({"optimizer": {"learning_rate": -1}}, "learning_rate: must be at least 0.0, got -1"),
        ({"optimizer": {"betas": [0.9]}}, r"optimizer.betas: expected a list of 2, got \[0.9\]"),
        ({"optimizer": {"no_decay": ["heads"]}}, r"optimizer.no_decay\[0\]: expected one of norms"),
        ({"schedule": {"decay_share": 2}}, "schedule.decay_share: must lie in 0..1, got 2"),
        ({"schedule": {"warmup_steps": 1, "warmup_ratio": 0.1}}, "give at most one of them"),
        ({"schedule": {"gamma": -1}}, "schedule.gamma: must be at least 0, got -1"),
        ({"optimizer": {"eps": -1}}, "optimizer.eps: must be at least 0.0, got -1"),
        (
            {"optimizer": {"groups": [{"match": ["*"], "lr_factor": -1}]}},
            "optimizer.groups.lr_factor: must be at least 0.0, got -1",
        ),
        ({"lora": {"rank": 0}}, "lora.rank: must be at least 1, got 0"),
        ({"lora": {"alpha": 0}}, "lora.alpha: must be positive, got 0"),
        ({"lora": {"ranks": 3}}, "lora.ranks: unknown key; the nearest known is lora.rank"),
        ({"fsdp": 1}, "fsdp: expected true or false, got 1"),
        ({"workers": True}, "workers: expected an integer, got True"),
        ({"train": "*"}, r"train: expected a list, got '\*'"),
        ({"data": [{"path": "x"}]}, r"data\[0\].format: is missing"),
        ({"options": 3}, "options: expected keys and values, got 3"),
    ],
)
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(Recipe, {"system": "mini", "steps": 3, "batch_size": 2, **values})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system: [", "not valid YAML"),
        ("- system", "expected keys and values"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("[" * 1200, "not valid YAML"),
        ("system: mini\n#" + "x" * (1 << 20), "is larger than 1 MiB"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(file)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("steps.x", "steps.x: there is nothing below steps, got 3"),
        ("data.1.path", "data.1.path: expected an index up to 0, got '1'"),
        ("data.x.path", "data.x.path: expected an index up to 0, got 'x'"),
    ],
)
def test_keys_that_lead_nowhere(key: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_overrides({"steps": 3, "data": []}, {key: 1})


def test_overrides_leave_the_values_they_start_from() -> None:
    values = {"optimizer": {"betas": [1, 2]}}
    assert with_overrides(values, {"optimizer.betas.0": 5}) == {"optimizer": {"betas": [5, 2]}}
    assert values == {"optimizer": {"betas": [1, 2]}}


@dataclass(frozen=True, kw_only=True)
class _Inner:
    kind: Literal["a", "b"] = "a"
    sides: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Outer:
    number: float
    name: str | None = None
    path: Path = Path()
    inner: _Inner = field(default_factory=_Inner)
    more: tuple[_Inner, ...] = ()
    table: dict[str, int] = field(default_factory=dict)


@settings(max_examples=30)
@given(
    st.builds(
        _Outer,
        number=st.floats(allow_nan=False, allow_infinity=False),
        name=st.none() | st.text(),
        path=st.sampled_from([Path("a/b"), Path("c")]),
        inner=st.builds(_Inner, kind=st.sampled_from(["a", "b"]), sides=st.tuples(st.integers())),
        more=st.tuples(st.builds(_Inner)),
        table=st.dictionaries(st.text(), st.integers()),
    )
)
def test_any_settings_go_through_yaml(outer: _Outer) -> None:
    text = yaml.safe_dump(to_mapping(outer), allow_unicode=False)
    assert from_mapping(_Outer, yaml.safe_load(text)) == outer


def test_numbers_as_yaml_reads_them() -> None:
    """It takes 1e-5 for text, and 1 for an integer."""
    assert from_mapping(_Outer, {"number": "1e-5"}).number == 1e-5
    assert from_mapping(_Outer, {"number": 1}).number == 1.0
    assert replace(from_mapping(_Outer, {"number": 1}), number=2.0).number == 2.0
