"""Trains the built-in captioner, on rendered scenes or on rows of one's own.

On scenes, the vision tower learns first, by itself, to tell the facts of a region
(:mod:`fastregion.training.mini_facts`); then the whole model learns to put them into sentences, the
facts remaining a second loss. What a sentence is about hangs on a few of its tokens (colours,
shapes, places); the others are soon learned and then mostly noise. So the words of shapes and
patterns weigh more until the learning rate decays; the weights then become equal, since unequal
ones would teach it to guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from fastregion.language import IGNORED_LABEL
from fastregion.models.auto import load
from fastregion.models.mini import MiniCaptioner, MiniConfig
from fastregion.models.mini.modeling import MiniModel
from fastregion.training.batches import Batches, Loading
from fastregion.training.data import Record
from fastregion.training.mini_batches import SceneBatches
from fastregion.training.mini_data import Batch, Sample, collate, prompt_tokens
from fastregion.training.mini_facts import FactHeads
from fastregion.training.mini_records import record_samples
from fastregion.training.mini_tokenizer import hard_tokens, train_tokenizer
from fastregion.training.recipe import Recipe
from fastregion.training.task import Loss, Task

__all__ = ["MiniStep", "MiniTask", "Options", "build_task"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of mini alone.

    Attributes:
        facts_share: part of a run in which the tower learns the facts alone; 0 suits weights whose
            tower is trained already.
        facts_weight: what the facts of a region weigh beside the sentences, in tokens.
        hard_weight: what a word of a shape or a pattern weighs, in other tokens, until the learning
            rate decays.
    """

    facts_share: float = 0.0
    facts_weight: float = 40.0
    hard_weight: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.facts_share <= 1:
            raise ValueError(f"facts_share: must lie in 0..1, got {self.facts_share}")
        for name in ("facts_weight", "hard_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must be at least 0, got {getattr(self, name)}")


def build_task(recipe: Recipe, options: Options) -> MiniTask:
    """Mini with the weights that the recipe starts from, or with random ones and a new tokenizer.

    Raises:
        ValueError: the recipe starts from another captioner; facts alone shall be learned of rows.
    """
    if recipe.data and options.facts_share:
        raise ValueError(
            f"options.facts_share: rows hold no facts, so it must be 0, got {options.facts_share}"
        )
    if recipe.start_from is None:
        config = MiniConfig()
        captioner = MiniCaptioner(config, train_tokenizer(config))
    else:
        loaded = load(recipe.start_from, dtype=torch.float32)
        if not isinstance(loaded, MiniCaptioner):
            raise ValueError(f"start_from: expected a mini captioner, got {loaded.model_type}")
        captioner = loaded
    captioner.model.requires_grad_(True)
    return MiniTask(captioner, recipe, options)


class MiniTask(Task):
    """Mini, its losses, and the scenes it learns from.

    Args:
        captioner: what is trained.
        recipe: with rows of data, or without for scenes.
        options: see there.
    """

    captioner: MiniCaptioner
    step: MiniStep

    def __init__(self, captioner: MiniCaptioner, recipe: Recipe, options: Options) -> None:
        self.captioner = captioner
        self.options = options
        self._decay_from = 1.0 - recipe.schedule.decay_share
        self._on_scenes = not recipe.data
        hard = hard_tokens(captioner.tokenizer, captioner.config.decoder.vocab_size)
        self.step = MiniStep(captioner.model, hard, facts_weight=options.facts_weight)
        self.set_progress(0.0)

    def batches(self, loading: Loading) -> Batches | None:
        """Those of scenes, unless the recipe has rows."""
        if not self._on_scenes:
            return None
        return SceneBatches(self.captioner.tokenizer, self.captioner.config, loading)

    def set_progress(self, progress: float) -> None:
        """Facts alone, then sentences with hard words, then all words alike."""
        self.step.facts_alone = progress < self.options.facts_share
        decaying = progress >= self._decay_from or not self._on_scenes
        self.step.hard_weight = 1.0 if decaying else self.options.hard_weight

    def sample(self, record: Record, rng: np.random.Generator) -> tuple[Sample, ...]:
        """A prompt for each captioned region, or one for a dialogue; without chance.

        Raises:
            BadRow: a dialogue about more regions than mini has names for, or of another form.
        """
        return record_samples(record, self.captioner.config)

    def num_tokens(self, sample: Sequence[Sample]) -> int:
        """Of the prompts of a row, with their tiles' tokens."""
        return sum(
            prompt_tokens(prompt, self.captioner.tokenizer, self.captioner.config)
            for prompt in sample
        )

    def collate(self, samples: Sequence[Sequence[Sample]]) -> Batch:
        """One batch of the prompts of several rows."""
        prompts = [prompt for sample in samples for prompt in sample]
        return collate(prompts, self.captioner.tokenizer, self.captioner.config)

    def decoded(self, sample: Sequence[Sample] | Batch) -> str:
        """Instruction and answer of every exchange."""
        batch = sample if isinstance(sample, Batch) else self.collate([sample])
        return "\n".join(
            f"{count} region{'s' if count > 1 else ''}:"
            + "".join(self._decoded_runs(ids, labels, segments))
            for count, ids, labels, segments in zip(
                batch.regions_per_prompt,
                batch.input_ids.tolist(),
                batch.labels.tolist(),
                batch.segments.tolist(),
                strict=True,
            )
        )

    def _decoded_runs(
        self, ids: Sequence[int], labels: Sequence[int], segments: Sequence[int]
    ) -> Iterator[str]:
        """Texts of the runs of tokens that are learned, or are not, without the padding."""
        tokens = zip(ids, labels, segments, strict=True)
        kinds = groupby(tokens, key=lambda token: (token[2], token[1] != IGNORED_LABEL))
        for (segment, learned), run in kinds:
            text = self.captioner.tokenizer.decode([token[0] for token in run])
            if segment:
                yield f"[[{text}]]" if learned else text

    def save(self, folder: Path) -> None:
        """The captioner, in float16."""
        self.captioner.save_pretrained(folder, dtype=torch.float16)


class MiniStep(nn.Module):
    """The loss of a batch.

    Args:
        model: what is trained.
        hard: bool ``[vocab_size]``, the tokens that :attr:`hard_weight` is for.
        facts_weight: what the facts of a region weigh, in tokens.

    Attributes:
        facts_alone: whether only the facts are learned now, from the tiles of the regions.
        hard_weight: what a hard token weighs now, in others.
    """

    hard: Tensor

    def __init__(self, model: MiniModel, hard: Tensor, *, facts_weight: float) -> None:
        super().__init__()
        self.model = model
        self.heads = FactHeads(model.config.decoder.hidden_size)
        self.facts_weight = facts_weight
        self.facts_alone = False
        self.hard_weight = 1.0
        self.register_buffer("hard", hard, persistent=False)

    def forward(self, batch: Batch) -> Loss:
        """Cross entropies of the answers' tokens, weighted, and of the regions' facts."""
        if self.facts_alone:
            facts = self.heads(self.model.embed_details(batch.tiles), batch.facts)
            regions = facts.new_tensor(float(len(batch.facts)))
            return Loss(
                facts, regions, {"text": torch.zeros_like(regions), "facts": facts.detach()}
            )
        config = self.model.config
        thumbnails, blocks = self.model.embed_regions(batch.tiles, batch.regions_per_prompt)
        own = config.replay_size**2 + config.texture_replay_size**2
        facts = self.facts_weight * self.heads(blocks[:, 1 : 1 + own], batch.facts)
        packed = self.model.lay_out(thumbnails, blocks, batch.regions_per_prompt)
        prefixes = torch.split(packed.embeddings, packed.cu_seqlens.diff().tolist())
        states = self._run_decoder(prefixes, blocks[:, 0], batch)
        # Position t predicts the token at t + 1, so a label looks at the state just before it.
        learned = batch.labels[:, 1:] != IGNORED_LABEL
        logits = self.model.decoder.lm_head(states[:, :-1][learned]).float()
        labels = batch.labels[:, 1:][learned]
        weight = torch.where(self.hard[labels], self.hard_weight, 1.0)
        text = (F.cross_entropy(logits, labels, reduction="none") * weight).sum()
        parts = {"text": text.detach(), "facts": facts.detach()}
        return Loss(text + facts, weight.sum(), parts)

    def _run_decoder(self, prefixes: Sequence[Tensor], names: Tensor, batch: Batch) -> Tensor:
        """States ``[B, L, hidden]`` of the exchanges, several of which follow each prefix."""
        # names: [R, hidden], what an instruction's mention of a region is
        size, length = batch.input_ids.shape
        device = batch.input_ids.device
        starts = torch.tensor([len(prefix) for prefix in prefixes], device=device)[:, None]
        prefix = pad_sequence(list(prefixes), batch_first=True)
        start = prefix.shape[1]
        total = start + length
        text = self.model.decoder.get_input_embeddings()(batch.input_ids).to(names.dtype)
        mentioned = (batch.mentions >= 0)[..., None]
        text = torch.where(mentioned, names[batch.mentions.clamp(min=0)], text)
        places = torch.arange(start, device=device).expand(size, -1)
        positions = torch.cat([places, starts + batch.offsets], dim=1)
        # Everyone sees the prefix and, causally, its own segment; padding is segment 0.
        segments = torch.cat([torch.zeros_like(places), batch.segments], dim=1)
        own = segments[:, :, None] == segments[:, None, :]
        own[:, :, :start] = (places < starts)[:, None, :]
        visible = own & torch.ones(total, total, dtype=torch.bool, device=device).tril()
        mask = torch.zeros(size, 1, total, total, dtype=prefix.dtype, device=device)
        hidden: Tensor = self.model.decoder.model(
            inputs_embeds=torch.cat([prefix, text.to(prefix.dtype)], dim=1),
            attention_mask=mask.masked_fill_(~visible[:, None], -torch.inf),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        return hidden[:, start:]
