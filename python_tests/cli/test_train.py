"""``fastregion train``: what it takes, tells and refuses. The toy task stands in for ``mini``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from toy_training import ToyOptions, toy_task

from fastregion.cli import main

Run = Callable[..., tuple[int, str, str]]

RECIPE = {
    "system": "mini",
    "steps": 3,
    "batch_size": 2,
    "tensorboard": False,
    "optimizer": {"learning_rate": 0.01},
    "options": {"rows": 9},
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    module = SimpleNamespace(
        Options=ToyOptions, build_task=lambda recipe, options: toy_task(rows=options.rows)
    )
    monkeypatch.setitem(sys.modules, "fastregion.training.systems.mini", module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(RECIPE))

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["train", *arguments])
        told = capsys.readouterr()
        return int(left.value.code or 0), told.out, told.err

    return run


def test_a_run_and_the_same_command_again(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("toy.yaml")
    assert (code, out) == (0, "saved in runs/toy/model\n")
    assert (tmp_path / "runs" / "toy" / "loss.png").stat().st_size > 1000
    code, out, _ = run("toy.yaml", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["finished"]
    assert answer["model"] == "runs/toy/model"
    assert answer["last"]["step"] == 3


def test_keys_are_given_anew(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("toy.yaml", "steps=2", "optimizer.learning_rate=1e-4", "clip=null",
                       "--output", "out", "--json")  # fmt: skip
    assert code == 0
    assert json.loads(out)["last"]["step"] == 2
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert recipe["optimizer"]["learning_rate"] == 1e-4
    assert recipe["clip"] is None


def test_dry_run_tells_and_trains_nothing(run: Run, tmp_path: Path) -> None:
    code, out, err = run("toy.yaml", "--dry-run", "freeze=[embedding.*]", "ema=0.9")
    assert code == 0, err
    assert "layers.*.*.weight" in out
    assert "[[" in out
    assert not (tmp_path / "runs").exists()
    code, out, _ = run("toy.yaml", "--dry-run", "--json", "freeze=[embedding.*]", "ema=0.9")
    found = json.loads(out)
    trained = 2 * (12 + 12 + 12 * 12 + 12) + 3 * 3 + 3 + 12 * 13 + 13
    assert sum(found["trained"].values()) == trained
    assert found["frozen"] == {"embedding.weight": 13 * 12}
    memory = found["memory"]
    assert memory["weights"] == 4 * (trained + 13 * 12)
    assert memory["gradients"] == 4 * trained == memory["average"]
    assert memory["optimizer"] == 8 * trained
    assert memory["activations"] > 0
    # Sequences as they are, the first token not learned.
    assert found["texts"][0].count("[[") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "recipe: no file 'nothing'; packaged recipes are dam, gar,"),
        (["toy.yaml", "stepz=3"], "stepz: unknown key; the nearest known is steps"),
        (["toy.yaml", "optimizer.lr=1"], "optimizer.lr: unknown key; the nearest known is "),
        (["toy.yaml", "options.row=1"], "options.row: unknown key; the nearest known is options.r"),
        (["toy.yaml", "steps=many"], "steps: expected an integer, got 'many'"),
        (["toy.yaml", "steps"], "'steps': expected key=value, such as steps=100"),
        (["toy.yaml", "freeze=[nothing.*]"], "freeze: 'nothing.*' fits no parameter; names are"),
        (["toy.yaml", "freeze=['*']"], "train, freeze: nothing is left to train"),
        (["toy.yaml", "data.0.format=jsonl", "data.0.path=x"], "data: no such file: 'x'"),
        (["gar"], "data: expected at least one source of rows, got none"),
        (["gar", "--dry-run"], "data: expected at least one source of rows, got none"),
        (["gar", "data=[{format: gar, path: x.json}]"], "x.json"),
    ],
)
def test_refused(run: Run, arguments: list[str], message: str, tmp_path: Path) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "runs" / "toy" / "checkpoints").exists()


def test_an_output_that_cannot_be_made(run: Run) -> None:
    code, _, err = run("toy.yaml", "--output", "toy.yaml")
    assert code == 2
    assert "error: output: [Errno 17] File exists: 'toy.yaml'" in err


def test_a_library_that_is_missing_is_named_before_any_work(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find: Any = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    code, _, err = run("toy.yaml", "tensorboard=true")
    assert code == 2
    assert 'training needs tensorboard: pip install "fastregion[train]"' in err
