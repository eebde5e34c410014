"""The training loop on a few steps; how well mini was trained is measured by ``eval mini``."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fastregion.language import IGNORED_LABEL, Tokenizer
from fastregion.models import load
from fastregion.models.mini import MiniCaptioner, MiniConfig
from fastregion.models.mini.processing import TileCutter
from fastregion.scenes import COLOR_TERMS, generate_scene
from fastregion.scenes.wording import exchanges
from fastregion.training.mini import MiniRecipe, MiniTrainingStep, train
from fastregion.training.mini_data import Sample, SampleStream, _reticent, collate
from fastregion.training.mini_facts import UNKNOWN, FactHeads, fact_labels
from fastregion.training.mini_tokenizer import hard_tokens, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(MiniConfig(), num_scenes=12)


def _sample(seed: int) -> Sample:
    scene = generate_scene(seed)
    texts = exchanges(scene.regions[0].facts, np.random.default_rng(seed), extra=2)
    cutter = TileCutter(scene.image, MiniConfig())
    return Sample(
        tiles=cutter.cut([scene.regions[0].mask]),
        facts=(fact_labels(scene.regions[0].facts),),
        exchanges=tuple(texts),
    )


def _training_step(tokenizer: Tokenizer) -> MiniTrainingStep:
    config = MiniConfig()
    hard = hard_tokens(tokenizer, config.decoder.vocab_size)
    # Batch norm in evaluation mode, so that a sample's loss does not depend on its batch.
    return MiniTrainingStep(MiniCaptioner(config, tokenizer).model.eval(), hard)


def test_hard_tokens_are_the_words_of_shapes_and_patterns(tokenizer: Tokenizer) -> None:
    hard = hard_tokens(tokenizer, MiniConfig().decoder.vocab_size)
    text = "A small striped red round region at the top left, on a blue background."
    told = [tokenizer.decode([k]).strip() for k in tokenizer.encode(text) if hard[k]]
    assert told == ["striped", "round"]


def test_hard_tokens_weigh_more(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    step = _training_step(tokenizer)
    batch = collate([_sample(3)], tokenizer, MiniConfig().eos_token_id)
    with torch.no_grad():
        plain, others, weighted = (step(batch, weight)[0].item() for weight in (1.0, 0.0, 4.0))
    number = int((batch.labels != IGNORED_LABEL).sum())
    told = int(step.hard[batch.labels[batch.labels != IGNORED_LABEL]].sum())
    assert told > 0
    hard = (plain * number - others * (number - told)) / told
    expected = (4 * hard * told + others * (number - told)) / (4 * told + number - told)
    assert weighted == pytest.approx(expected, rel=1e-5)


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
        together = step(batch)[0].item()
        total, count = 0.0, 0
        for sample in samples:
            for exchange in sample.exchanges:
                alone = replace(sample, exchanges=(exchange,))
                one = collate([alone], tokenizer, MiniConfig().eos_token_id)
                number = int((one.labels != IGNORED_LABEL).sum())
                total += step(one)[0].item() * number
                count += number
    assert together == pytest.approx(total / count, rel=1e-5)


def test_stream_never_touches_evaluation_seeds(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="first_seed: seeds below 10000 are for evaluation"):
        SampleStream(tokenizer, MiniConfig(), first_seed=9_999, stride=1)


def test_side_facts_are_left_out_now_and_then_and_main_facts_never() -> None:
    facts = replace(
        generate_scene(1).regions[0].facts,
        pattern="striped",
        shape="round",
        second="blue",
        edges=("left",),
        relation=("inside", "red", "square"),
    )
    rng = np.random.default_rng(0)
    seen = [_reticent(facts, rng) for _ in range(400)]
    assert {(f.color, f.pattern, f.shape, f.size, f.place) for f in seen} == {
        (facts.color, "striped", "round", facts.size, facts.place)
    }
    assert {f.second for f in seen} == {"blue", None}
    assert {f.edges for f in seen} == {("left",), ()}
    assert {f.relation for f in seen} == {
        ("inside", "red", "square"),
        ("inside", "red", None),
        None,
    }
    assert 0.2 < np.mean([f.second is None for f in seen]) < 0.4


def test_the_loss_falls_on_a_batch(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    step = _training_step(tokenizer).train()
    batch = collate([_sample(3), _sample(4)], tokenizer, MiniConfig().eos_token_id)
    optimizer = torch.optim.AdamW(step.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        text, facts = step(batch)
        loss = text + facts
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_a_run_saves_resumes_and_loads(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastregion.training.mini._FACTS_BATCH", 2)
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
    monkeypatch.setattr("fastregion.training.mini._FACTS_BATCH", 2)
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
    for name, value in first.model.named_parameters():
        torch.testing.assert_close(
            second.model.get_parameter(name), value, atol=1e-3, rtol=1e-3, msg=name
        )


def test_only_weights_that_fit_are_taken_over(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastregion.training.mini._FACTS_BATCH", 2)
    monkeypatch.setattr("fastregion.training.mini_data._SHUFFLE", 4)
    lender = MiniCaptioner(MiniConfig(), tokenizer)
    lender.save_pretrained(tmp_path / "first")
    weights = load_file(tmp_path / "first" / "model.safetensors")
    position = "vision_tower.position_embedding.128"
    weights[position] = torch.full((256, 128), 7.0)
    save_file(weights, tmp_path / "first" / "model.safetensors")
    before = torch.get_num_threads()
    try:
        recipe = MiniRecipe(
            steps=1, processes=1, start_from=str(tmp_path / "first"), learning_rate=0.0
        )
        train(tmp_path / "second", recipe)
    finally:
        torch.set_num_threads(before)
    model = load(tmp_path / "second").model
    assert model.get_parameter(position).shape == (64, 192)
    name = "decoder.model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(
        model.get_parameter(name), lender.model.get_parameter(name), atol=1e-3, rtol=1e-3
    )


def test_a_folder_without_weights_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start_from: expected a folder with model"):
        train(tmp_path / "run", MiniRecipe(steps=1, start_from=str(tmp_path)))


def test_fact_labels_are_classes_and_unknown_patterns_are_not_learned() -> None:
    facts = generate_scene(1).regions[0].facts
    labels = fact_labels(facts)
    assert COLOR_TERMS[labels[0]] == facts.color
    torch.manual_seed(0)
    heads, tokens = FactHeads(16), torch.randn(2, 5, 16)
    known = fact_labels(replace(facts, pattern="striped"))
    unknown = fact_labels(replace(facts, pattern=None))
    assert unknown[2] == UNKNOWN
    # The mean over regions ignores the one whose pattern cannot be told.
    one = heads(tokens[:1], torch.tensor([known]))
    heads(tokens, torch.tensor([known, unknown])).backward()
    assert torch.isfinite(one)
    gradient = torch.autograd.grad(
        heads(tokens[:1], torch.tensor([unknown])), heads.heads[0].weight
    )[0]
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "minutes, steps: give exactly one of them"),
        ({"minutes": 1.0, "steps": 3}, "minutes, steps: give exactly one of them"),
        ({"steps": 0}, "steps: must be positive, got 0"),
        ({"steps": 1, "processes": 0}, "processes: must be positive, got 0"),
        ({"steps": 1, "facts_share": 1.5}, "facts_share: must lie in 0..1, got 1.5"),
    ],
)
def test_recipes_that_make_no_sense(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiniRecipe(**values)  # type: ignore[arg-type]
