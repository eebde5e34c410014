"""What mini brings to the training loop: samples, batches, losses and a stream of scenes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from fastregion.language import IGNORED_LABEL, Tokenizer, score
from fastregion.models import load
from fastregion.models.mini import MiniCaptioner, MiniConfig
from fastregion.models.mini.processing import TileCutter
from fastregion.models.request import RegionRequest
from fastregion.regions import Region
from fastregion.scenes import COLOR_TERMS, generate_scene
from fastregion.scenes.textures import PATTERNS
from fastregion.scenes.wording import Exchange, exchanges
from fastregion.training.batches import Loading
from fastregion.training.data import BadRow, Record, Turn
from fastregion.training.mini_batches import SceneBatch, SceneBatches
from fastregion.training.mini_data import Sample, collate, prompt_tokens
from fastregion.training.mini_facts import UNKNOWN, FactHeads, fact_labels, unknown_facts
from fastregion.training.mini_scenes import _reticent, scene_samples
from fastregion.training.mini_tokenizer import hard_tokens, pattern_tokens, train_tokenizer
from fastregion.training.recipe import Recipe, Schedule
from fastregion.training.systems.mini import MiniStep, MiniTask, Options, build_task

CONFIG = MiniConfig()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(CONFIG, num_scenes=12)


def _sample(seed: int, regions: int = 1) -> Sample:
    scene = generate_scene(seed)
    texts = exchanges(scene.regions[0].facts, np.random.default_rng(seed), extra=2)
    cutter = TileCutter(scene.image, CONFIG)
    own = scene.regions[:regions]
    assert len(own) == regions
    return Sample(
        tiles=cutter.cut([region.mask for region in own]),
        facts=tuple(fact_labels(region.facts) for region in own),
        exchanges=tuple(texts),
    )


def _step(tokenizer: Tokenizer, facts_weight: float = 0.0) -> MiniStep:
    torch.manual_seed(0)
    hard = hard_tokens(tokenizer, CONFIG.decoder.vocab_size)
    # Batch norm in evaluation mode, so that a sample's loss does not depend on its batch.
    model = MiniCaptioner(CONFIG, tokenizer).model.eval()
    return MiniStep(model, hard, facts_weight=facts_weight)


def _collate(tokenizer: Tokenizer, *samples: Sample):  # type: ignore[no-untyped-def]
    return collate(samples, tokenizer, CONFIG)


def _task(tokenizer: Tokenizer, **options: float) -> MiniTask:
    recipe = Recipe(
        system="mini",
        steps=4,
        batch_size=2,
        schedule=Schedule(name="constant", decay_share=0.25),
    )
    return MiniTask(MiniCaptioner(CONFIG, tokenizer), recipe, Options(**options))


def test_hard_tokens_are_the_words_of_shapes_and_patterns(tokenizer: Tokenizer) -> None:
    hard = hard_tokens(tokenizer, CONFIG.decoder.vocab_size)
    text = "A small striped red round region at the top left, on a blue background."
    told = [tokenizer.decode([k]).strip() for k in tokenizer.encode(text) if hard[k]]
    assert told == ["striped", "round", "left"]


def test_tokenizer_knows_names_and_takes_any_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size <= CONFIG.decoder.vocab_size
    assert tokenizer.token_id("<bos>") == CONFIG.bos_token_id
    assert tokenizer.token_id("<eos>") == CONFIG.eos_token_id
    names = [tokenizer.token_id(f"<Prompt{k}>") for k in range(len(CONFIG.region_token_ids))]
    assert names == list(CONFIG.region_token_ids)
    for text in ("<Prompt1> is above <Prompt0>.", "naïve ☂ façade\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_hard_tokens_weigh_more(tokenizer: Tokenizer) -> None:
    step = _step(tokenizer)
    batch = _collate(tokenizer, _sample(3))
    losses = []
    with torch.no_grad():
        for weight in (1.0, 0.0, 4.0):
            step.hard_weight = weight
            losses.append(step(batch))
    plain, others, weighted = (loss.total.item() for loss in losses)
    number, told = losses[0].targets.item(), losses[0].targets.item() - losses[1].targets.item()
    assert number == int((batch.labels != IGNORED_LABEL).sum())
    assert told == int(step.hard[batch.labels[batch.labels != IGNORED_LABEL]].sum()) > 0
    assert losses[2].targets.item() == number + 3 * told
    assert weighted == pytest.approx(others + 4 * (plain - others), rel=1e-5)


def test_exchanges_and_prompts_of_a_batch_do_not_see_each_other(tokenizer: Tokenizer) -> None:
    """Packed behind one prefix, or beside a longer one: the loss is that of each by itself."""
    step = _step(tokenizer, facts_weight=3.0)
    samples = [_sample(3), _sample(4), _sample(5, regions=2)]
    with torch.no_grad():
        together = step(_collate(tokenizer, *samples))
        text, facts, count = 0.0, 0.0, 0.0
        for sample in samples:
            for exchange in sample.exchanges:
                one = step(_collate(tokenizer, replace(sample, exchanges=(exchange,))))
                text += one.parts["text"].item()
                count += one.targets.item()
            facts += one.parts["facts"].item()
    assert together.targets.item() == count
    assert together.parts["text"].item() == pytest.approx(text, rel=1e-5)
    assert together.parts["facts"].item() == pytest.approx(facts, rel=1e-5)
    assert together.total.item() == pytest.approx(text + facts, rel=1e-5)


def test_tokens_are_counted_as_the_decoder_sees_them(tokenizer: Tokenizer) -> None:
    step = _step(tokenizer)
    sample = _sample(5, regions=2)
    batch = _collate(tokenizer, sample)
    with torch.no_grad():
        packed = step.model.encode(batch.tiles, batch.regions_per_prompt)
    text = int((batch.segments > 0).sum())
    assert prompt_tokens(sample, tokenizer, CONFIG) == len(packed.embeddings) + text


def test_training_lays_prompts_out_as_asking_does(tokenizer: Tokenizer) -> None:
    """A question that mentions regions: its loss is that of the prompt made of a user's words."""
    captioner = MiniCaptioner(CONFIG, tokenizer)
    captioner.model.geometry_embedding.weight.data.normal_(std=0.5)
    captioner.model.eval()
    step = MiniStep(
        captioner.model, torch.zeros(CONFIG.decoder.vocab_size, dtype=torch.bool), facts_weight=0.0
    )
    scene = generate_scene(5)
    regions = tuple(Region.from_mask(region.mask) for region in scene.regions[:2])
    exchange = Exchange(
        "Where is <Prompt1> relative to <Prompt0>?", "<Prompt1> is above <Prompt0>."
    )
    sample = replace(_sample(5, regions=2), exchanges=(exchange,))
    with torch.no_grad():
        loss = step(_collate(tokenizer, sample))
    request = RegionRequest(scene.image, regions, exchange.prompt, joint=True)
    with torch.no_grad():
        prompts = captioner.encode(captioner.process(request))
        prompts = captioner.append_text(prompts, [exchange.answer])
        expected = score(captioner.decoder, prompts)
    assert -loss.total.item() / loss.targets.item() == pytest.approx(float(expected[0]), abs=1e-4)


def test_words_that_hold_a_place_are_not_learned(tokenizer: Tokenizer) -> None:
    sample = _sample(3)
    known = _collate(tokenizer, sample)
    unknown = _collate(tokenizer, replace(sample, unknown_pattern=True))
    changed = known.labels != unknown.labels
    words = [tokenizer.decode([k]).strip() for k in known.labels[changed].tolist()]
    assert words
    assert set(words) <= set(PATTERNS)
    assert (unknown.labels[changed] == IGNORED_LABEL).all()
    assert torch.equal(known.input_ids, unknown.input_ids)
    assert {tokenizer.decode([k]).strip() for k in pattern_tokens(tokenizer)} == set(PATTERNS)


def test_a_batch_is_decoded_with_what_is_learned_in_brackets(tokenizer: Tokenizer) -> None:
    sample = _sample(3)
    text = _task(tokenizer).decoded(_collate(tokenizer, replace(sample, unknown_pattern=True)))
    prompt, answer = sample.exchanges[0]
    assert f"1 region:\n{prompt}\n" in text
    pattern = next(word for word in PATTERNS if f" {word} " in answer)
    before, after = answer.split(f" {pattern}")
    assert f"[[{before}]] {pattern}[[{after}" in text


def test_the_loss_falls_on_a_batch(tokenizer: Tokenizer) -> None:
    step = _step(tokenizer, facts_weight=40.0).train()
    batch = _collate(tokenizer, _sample(3), _sample(4))
    optimizer = torch.optim.AdamW(step.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = step(batch)
        mean = loss.total / loss.targets
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        losses.append(mean.item())
    assert losses[-1] < 0.6 * losses[0]


def test_facts_come_first_then_hard_words_then_all_alike(tokenizer: Tokenizer) -> None:
    task = _task(tokenizer, facts_share=0.5, hard_weight=4.0)
    batch = _collate(tokenizer, _sample(3), _sample(4))
    seen = []
    for progress in (0.0, 0.5, 0.75):
        task.set_progress(progress)
        loss = task.step(batch)
        task.step.zero_grad(set_to_none=True)
        loss.total.backward()
        decoder = task.captioner.model.decoder.model.layers[0].mlp.up_proj.weight
        seen.append((task.step.facts_alone, task.step.hard_weight, decoder.grad is not None))
        assert set(loss.parts) == {"text", "facts"}
        if task.step.facts_alone:
            assert loss.targets.item() == 2
    assert seen == [(True, 4.0, False), (False, 4.0, True), (False, 1.0, True)]


def test_fact_labels_are_classes_and_unknown_facts_are_not_learned() -> None:
    facts = generate_scene(1).regions[0].facts
    labels = fact_labels(facts)
    assert COLOR_TERMS[labels[0]] == facts.color
    torch.manual_seed(0)
    heads, tokens = FactHeads(16), torch.randn(2, 5, 16)
    known = fact_labels(replace(facts, pattern="striped"))
    assert fact_labels(replace(facts, pattern=None))[2] == UNKNOWN
    both = heads(tokens, torch.tensor([known, unknown_facts()]))
    torch.testing.assert_close(both, heads(tokens[:1], torch.tensor([known])))
    nothing = heads(tokens[1:], torch.tensor([unknown_facts()]))
    assert nothing.item() == 0.0


def test_samples_are_never_those_of_evaluation_scenes() -> None:
    with pytest.raises(ValueError, match="seed: seeds below 10000 are for evaluation, got 9999"):
        scene_samples(9_999, 0, CONFIG)


def test_samples_of_a_scene_depend_on_its_seed_alone() -> None:
    first, again = scene_samples(10_004, 1, CONFIG), scene_samples(10_004, 1, CONFIG)
    other = scene_samples(10_004, 2, CONFIG)
    assert [sample.exchanges for sample in first] == [sample.exchanges for sample in again]
    assert all(
        torch.equal(a.tiles.textures, b.tiles.textures) for a, b in zip(first, again, strict=True)
    )
    assert [sample.exchanges for sample in first] != [sample.exchanges for sample in other]


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
    assert 0.3 < np.mean([f.second is None for f in seen]) < 0.55


def _loading(**values: int | None) -> Loading:
    usual = {"seed": 1, "process": 0, "num_processes": 2, "num_workers": 0, "batch_size": 4}
    return Loading(**{"batch_tokens": None, **usual, **values})  # type: ignore[arg-type]


def _stream(tokenizer: Tokenizer, **values: int | None) -> SceneBatches:
    return SceneBatches(tokenizer, CONFIG, _loading(**values), scenes_per_block=2)


def _ids(items: Iterator[SceneBatch], count: int) -> list[list[list[int]]]:
    return [item.batch.input_ids.tolist() for item in islice(items, count)]


def test_a_stream_goes_on_where_it_stood(tokenizer: Tokenizer) -> None:
    stream = _stream(tokenizer)
    items = iter(stream)
    _ids(items, 5)
    state = json.loads(json.dumps(stream.state_dict()))
    ahead = _ids(items, 20)
    resumed = _stream(tokenizer)
    resumed.load_state_dict(state)
    assert _ids(iter(resumed), 20) == ahead
    assert stream.state_dict()["block"] > state["block"]  # the blocks' border was crossed


def test_processes_and_seeds_see_other_scenes(tokenizer: Tokenizer) -> None:
    first = _ids(iter(_stream(tokenizer)), 3)
    assert _ids(iter(_stream(tokenizer)), 3) == first
    assert _ids(iter(_stream(tokenizer, process=1)), 3) != first
    assert _ids(iter(_stream(tokenizer, seed=2)), 3) != first


@pytest.mark.slow
def test_workers_change_nothing(tokenizer: Tokenizer) -> None:
    stream = _stream(tokenizer, num_workers=2)
    try:
        assert _ids(iter(stream), 6) == _ids(iter(_stream(tokenizer)), 6)
    finally:
        stream.close()


def test_a_state_of_another_run_is_refused(tokenizer: Tokenizer) -> None:
    state = _stream(tokenizer).state_dict()
    with pytest.raises(ValueError, match="num_processes: the run began with 2, got 1"):
        _stream(tokenizer, num_processes=1).load_state_dict(state)
    with pytest.raises(ValueError, match="batch_tokens: batches of scenes are filled by batch"):
        _stream(tokenizer, batch_size=None, batch_tokens=100)
    with pytest.raises(ValueError, match="epochs: rendered scenes have no end"):
        _stream(tokenizer).batches_per_epoch()


def test_prompts_about_several_regions_make_smaller_batches(tokenizer: Tokenizer) -> None:
    stream = SceneBatches(tokenizer, CONFIG, _loading(batch_size=6), scenes_per_block=8)
    sizes: dict[int, set[int]] = {}
    for item in islice(iter(stream), 20):
        (regions,) = set(item.batch.regions_per_prompt)
        sizes.setdefault(regions, set()).add(item.samples)
        assert item.samples == len(item.batch.regions_per_prompt)
        assert item.tokens > 100 * item.samples
    assert max(sizes[1]) == 6
    assert max(sizes[2]) == 2


def _record(**values: object) -> Record:
    image = np.full((60, 80, 3), 200, np.uint8)
    regions = tuple(Region.from_box((x, 5, x + 15, 40), size=(60, 80)) for x in (5, 30))
    given = {"id": "a", "image": lambda: image, "regions": lambda: regions, "num_regions": 2}
    return Record(**{**given, **values})  # type: ignore[arg-type]


def test_rows_of_captions_give_a_prompt_for_each_region(tokenizer: Tokenizer) -> None:
    task = _task(tokenizer)
    record = _record(captions=(("a mug",), ("a spoon", "a small spoon")))
    sample = task.sample(record, np.random.default_rng(0))
    assert [len(prompt.facts) for prompt in sample] == [1, 1]
    assert [exchange.answer for exchange in sample[1].exchanges] == ["a spoon", "a small spoon"]
    text = task.decoded(sample)
    assert "[[a mug<eos>]]" in text or "[[a mug]]" in text
    batch = task.collate([sample, sample])
    assert batch.regions_per_prompt == (1, 1, 1, 1)
    loss = task.step(batch)
    assert loss.parts["facts"].item() == 0.0
    assert loss.targets.item() > 0
    assert task.num_tokens(sample) == sum(prompt_tokens(p, tokenizer, CONFIG) for p in sample)


def test_rows_of_dialogue_give_one_prompt(tokenizer: Tokenizer) -> None:
    task = _task(tokenizer)
    turns = (
        Turn(speaker="human", text="Which is larger?"),
        Turn(speaker="gpt", text="<Prompt0> is."),
    )
    (prompt,) = task.sample(_record(turns=turns), np.random.default_rng(0))
    assert len(prompt.facts) == 2
    assert "2 regions:\nWhich is larger?\n[[<Prompt0> is." in task.decoded((prompt,))
    with pytest.raises(BadRow, match="each question with its answer"):
        task.sample(_record(turns=turns[:1]), np.random.default_rng(0))
    with pytest.raises(BadRow, match="a dialogue about 1 to 5 regions, got 9"):
        task.sample(_record(turns=turns, num_regions=9), np.random.default_rng(0))


def test_a_task_starts_from_a_captioner_and_saves_one(tmp_path, tokenizer: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    first = MiniCaptioner(CONFIG, tokenizer)
    first.save_pretrained(tmp_path / "first")
    recipe = Recipe(system="mini", steps=1, batch_size=1, start_from=str(tmp_path / "first"))
    task = build_task(recipe, Options())
    task.save(tmp_path / "second")
    second = load(tmp_path / "second")
    for name, value in first.model.named_parameters():
        torch.testing.assert_close(
            second.model.get_parameter(name), value, atol=1e-3, rtol=1e-3, msg=name
        )
    assert isinstance(task.batches(_loading()), SceneBatches)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"facts_share": 1.5}, "facts_share: must lie in 0..1, got 1.5"),
        ({"facts_weight": -1.0}, "facts_weight: must be at least 0, got -1.0"),
        ({"hard_weight": -1.0}, "hard_weight: must be at least 0, got -1.0"),
    ],
)
def test_options_that_make_no_sense(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**values)
