"""The training loop on a few steps; how well mini was trained is measured by ``eval mini``."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastregion.language import IGNORED_LABEL, Tokenizer
from fastregion.models import load
from fastregion.models.mini import MiniCaptioner, MiniConfig
from fastregion.models.mini.processing import TileCutter
from fastregion.scenes import generate_scene
from fastregion.scenes.wording import exchanges
from fastregion.training.mini import MiniRecipe, MiniTrainingStep, train
from fastregion.training.mini_data import Sample, SampleStream, collate
from fastregion.training.mini_tokenizer import telling_tokens, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(MiniConfig(), num_scenes=12)


def _sample(seed: int) -> Sample:
    scene = generate_scene(seed)
    texts = exchanges(scene.regions[0].facts, np.random.default_rng(seed), extra=2)
    cutter = TileCutter(scene.image, MiniConfig())
    return Sample(tiles=cutter.cut([scene.regions[0].mask]), exchanges=tuple(texts))


def _training_step(tokenizer: Tokenizer) -> MiniTrainingStep:
    config = MiniConfig()
    telling = telling_tokens(tokenizer, config.decoder.vocab_size)
    return MiniTrainingStep(MiniCaptioner(config, tokenizer).model, telling)


def test_telling_tokens_are_the_words_of_facts(tokenizer: Tokenizer) -> None:
    telling = telling_tokens(tokenizer, MiniConfig().decoder.vocab_size)
    text = "A small striped red round region at the top left, on a blue background."
    told = [tokenizer.decode([k]).strip() for k in tokenizer.encode(text) if telling[k]]
    assert told == ["small", "striped", "red", "round", "top", "left", "blue"]


def test_other_tokens_weigh_less(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    step = _training_step(tokenizer)
    batch = collate([_sample(3)], tokenizer, MiniConfig().eos_token_id)
    with torch.no_grad():
        full, none, half = (step(batch, weight).item() for weight in (1.0, 0.0, 0.5))
    number = int((batch.labels != IGNORED_LABEL).sum())
    told = int(step.telling[batch.labels[batch.labels != IGNORED_LABEL]].sum())
    others = (full * number - none * told) / (number - told)
    expected = (none * told + 0.5 * others * (number - told)) / (told + 0.5 * (number - told))
    assert half == pytest.approx(expected, rel=1e-5)


def test_tokenizer_knows_names_and_takes_any_text(tokenizer: Tokenizer) -> None:
    config = MiniConfig()
    assert tokenizer.vocab_size <= config.decoder.vocab_size
    assert tokenizer.token_id("<bos>") == config.bos_token_id
    assert tokenizer.token_id("<eos>") == config.eos_token_id
    names = [tokenizer.token_id(f"<Prompt{k}>") for k in range(len(config.region_token_ids))]
    assert names == list(config.region_token_ids)
    for text in ("<Prompt1> is above <Prompt0>.", "naïve ☂ façade\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_packed_exchanges_give_the_loss_of_separate_ones(tokenizer: Tokenizer) -> None:
    """Several exchanges behind one prefix must not see each other."""
    torch.manual_seed(0)
    step = _training_step(tokenizer)
    samples = [_sample(3), _sample(4)]
    batch = collate(samples, tokenizer, MiniConfig().eos_token_id)
    with torch.no_grad():
        together = step(batch).item()
        total, count = 0.0, 0
        for sample in samples:
            for exchange in sample.exchanges:
                alone = Sample(tiles=sample.tiles, exchanges=(exchange,))
                one = collate([alone], tokenizer, MiniConfig().eos_token_id)
                number = int((one.labels != IGNORED_LABEL).sum())
                total += step(one).item() * number
                count += number
    assert together == pytest.approx(total / count, rel=1e-5)


def test_stream_never_touches_evaluation_seeds(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="first_seed: seeds below 10000 are for evaluation"):
        SampleStream(tokenizer, MiniConfig(), first_seed=9_999, stride=1)


def test_the_loss_falls_on_a_batch(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    step = _training_step(tokenizer)
    batch = collate([_sample(3), _sample(4)], tokenizer, MiniConfig().eos_token_id)
    optimizer = torch.optim.AdamW(step.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = step(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_a_run_saves_resumes_and_loads(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastregion.training.mini._EARLY_KINDS", ((1, 1.0, 2),))
    monkeypatch.setattr("fastregion.training.mini._BATCH_KINDS", ((2, 1.0, 2),))
    monkeypatch.setattr("fastregion.training.mini_data._SHUFFLE", 4)
    tokenizer.save(tmp_path)
    before = torch.get_num_threads()
    try:
        train(tmp_path, MiniRecipe(steps=2, processes=1, warmup_steps=1))
        train(tmp_path, MiniRecipe(steps=3, processes=1, warmup_steps=1))
    finally:
        torch.set_num_threads(before)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert json.loads((tmp_path / "state-0.json").read_text())["step"] == 3
    assert not list(tmp_path.glob("*.part"))
    scene = generate_scene(1)
    text = load(tmp_path).describe(scene.image, scene.regions[0].mask, max_new_tokens=4)
    assert isinstance(text, str)


def test_a_run_can_start_from_other_weights(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastregion.training.mini._EARLY_KINDS", ((1, 1.0, 2),))
    monkeypatch.setattr("fastregion.training.mini_data._SHUFFLE", 4)
    first = MiniCaptioner(MiniConfig(), tokenizer)
    first.save_pretrained(tmp_path / "first")
    before = torch.get_num_threads()
    try:
        recipe = MiniRecipe(
            steps=1, processes=1, start_from=str(tmp_path / "first"), learning_rate=0.0
        )
        train(tmp_path / "second", recipe)
    finally:
        torch.set_num_threads(before)
    second = load(tmp_path / "second")
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "minutes, steps: give exactly one of them"),
        ({"minutes": 1.0, "steps": 3}, "minutes, steps: give exactly one of them"),
        ({"steps": 0}, "steps: must be positive, got 0"),
        ({"steps": 1, "processes": 0}, "processes: must be positive, got 0"),
    ],
)
def test_recipes_that_make_no_sense(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiniRecipe(**values)  # type: ignore[arg-type]
