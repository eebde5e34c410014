"""Trains the built-in captioner on rendered scenes.

One process per core, each with one thread and seeds of its own. They step by themselves and
exchange weights every few steps (:mod:`fastregion.training.averaging`), none waiting for another.
Matrices of hidden layers are trained with Muon, all else with AdamW. The learning rate warms up,
stays, and decays to zero over the last third of the run; a run is as long as its ``minutes`` or its
``steps``.

The vision tower learns first, by itself, to tell the facts of a region
(:mod:`fastregion.training.mini_facts`); then the whole model learns to put them into sentences, the
facts remaining a second loss. What a sentence is about hangs on a few of its tokens (colours,
shapes, places); the others are soon learned and then mostly noise. So the words of shapes and
patterns weigh more until the learning rate decays; the weights then become equal, since unequal
ones would teach it to guess.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import Progress, TaskID
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from fastregion.language import IGNORED_LABEL, Tokenizer
from fastregion.models.auto import BUILT_IN
from fastregion.models.mini import MiniCaptioner, MiniConfig
from fastregion.models.mini.modeling import MiniModel
from fastregion.models.weights import WEIGHTS
from fastregion.scenes import EVALUATION_SEEDS
from fastregion.training.averaging import SharedAverage
from fastregion.training.mini_data import Batch, SampleStream
from fastregion.training.mini_facts import FactHeads
from fastregion.training.mini_tokenizer import hard_tokens, train_tokenizer
from fastregion.training.muon import Muon

# Number of regions in a batch's prompts, how often such a batch is drawn, and its size.
_BATCH_KINDS = ((1, 0.9, 24), (2, 0.07, 10), (3, 0.03, 6))
_FACTS_BATCH = 32  # regions
_FACTS_WEIGHT = 1.0  # of the facts beside the sentences
_HARD_WEIGHT = 4.0  # of the words of shapes and patterns, until the learning rate decays
_AVERAGE_EVERY = 8  # steps


@dataclass(frozen=True, kw_only=True)
class MiniRecipe:
    """Hyper-parameters of a run, which lasts for ``minutes`` of training or for ``steps``.

    ``start_from`` is a folder of a mini captioner, or ``"fastregion/mini"``. The run takes over its
    tokenizer and those of its weights that fit by name and shape, so that a captioner with another
    tower may lend its decoder; by default weights are random. ``facts_share`` is the part of the
    run in which the tower learns the facts alone; 0 suits weights whose tower is trained already.
    """

    minutes: float | None = None
    steps: int | None = None
    start_from: str | None = None
    seed: int = 0
    processes: int = 2
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    decay_share: float = 0.35
    facts_share: float = 0.43
    save_every_minutes: float = 4.0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("minutes, steps: give exactly one of them")
        for name in ("minutes", "steps", "processes", "warmup_steps", "save_every_minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: must be positive, got {value}")
        if not 0 <= self.facts_share <= 1:
            raise ValueError(f"facts_share: must lie in 0..1, got {self.facts_share}")


def train(output: Path, recipe: MiniRecipe) -> None:
    """Trains mini into ``output``; a folder that holds an unfinished run is continued.

    The folder gets the captioner (``config.json``, ``tokenizer.json``, ``model.safetensors``),
    ``recipe.json``, one line per step in ``log.jsonl``, and the state from which a killed run goes
    on.

    Args:
        output: Folder, made if it does not exist.
        recipe: Hyper-parameters and length.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    output.mkdir(parents=True, exist_ok=True)
    _write_text(output / "recipe.json", json.dumps(asdict(recipe), indent=2) + "\n")
    if not (output / "tokenizer.json").exists():
        if recipe.start_from is None:
            tokenizer = train_tokenizer(MiniConfig())
        else:
            tokenizer = Tokenizer.from_file(_folder(recipe.start_from))
        _write_text(output / "tokenizer.json", tokenizer.backend.to_str(pretty=True) + "\n")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if recipe.processes == 1:
        _work(0, output, recipe, None)
        return
    config = MiniConfig()
    module = MiniTrainingStep(MiniModel(config), torch.zeros(config.decoder.vocab_size))
    average = SharedAverage(sum(value.numel() for value in _averaged(module)), recipe.processes)
    spawn(_work, args=(output, recipe, average), nprocs=recipe.processes)  # type: ignore[no-untyped-call]


class MiniTrainingStep(nn.Module):
    """The losses of a batch."""

    hard: Tensor  # bool [vocab_size]

    def __init__(self, model: MiniModel, hard: Tensor) -> None:
        super().__init__()
        self.model = model
        self.heads = FactHeads(model.config.decoder.hidden_size)
        self.register_buffer("hard", hard, persistent=False)

    def facts(self, batch: Batch) -> Tensor:
        """Mean cross entropy of the regions' facts, read from their detail tiles."""
        loss: Tensor = self.heads(self.model.embed_details(batch.tiles), batch.facts)
        return loss

    def forward(self, batch: Batch, hard_weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of the answers' tokens, hard ones weighted; and that of the facts."""
        # All prompts of a batch have the same number of regions, hence the same length.
        thumbnails, blocks = self.model.embed_regions(batch.tiles, batch.regions_per_prompt)
        details = blocks[:, 1 : 1 + self.model.config.replay_size**2]
        facts = self.heads(details, batch.facts)
        packed = self.model.lay_out(thumbnails, blocks, batch.regions_per_prompt).embeddings
        prefix = packed.view(len(batch.input_ids), -1, packed.shape[-1])
        hidden = self._run_decoder(prefix, batch)
        # Position t predicts the token at t + 1, so a label looks at the state just before it.
        learned = batch.labels[:, 1:] != IGNORED_LABEL
        states = hidden[:, prefix.shape[1] : -1][learned]
        logits = self.model.decoder.lm_head(states).float()
        labels = batch.labels[:, 1:][learned]
        weight = torch.where(self.hard[labels], hard_weight, 1.0)
        losses = F.cross_entropy(logits, labels, reduction="none")
        return (losses * weight).sum() / weight.sum(), facts

    def _run_decoder(self, prefix: Tensor, batch: Batch) -> Tensor:
        # prefix: [B, P, hidden]; several exchanges of L tokens in all follow it
        size, length = batch.input_ids.shape
        start = prefix.shape[1]
        total = start + length
        text = self.model.decoder.get_input_embeddings()(batch.input_ids)
        positions = torch.cat([torch.arange(start).expand(size, -1), start + batch.offsets], dim=1)
        # Everyone sees the prefix (segment 0, as is the padding) and its own segment, causally.
        segments = torch.cat([torch.zeros(size, start, dtype=torch.long), batch.segments], dim=1)
        same = segments[:, :, None] == segments[:, None, :]
        causal = torch.ones(total, total, dtype=torch.bool).tril()
        visible = causal & (same | (torch.arange(total) < start))
        mask = torch.zeros(size, 1, total, total).masked_fill_(~visible[:, None], -torch.inf)
        hidden: Tensor = self.model.decoder.model(
            inputs_embeds=torch.cat([prefix, text], dim=1),
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        return hidden


class _Run:
    """One process of a run."""

    def __init__(
        self, output: Path, recipe: MiniRecipe, rank: int, average: SharedAverage | None
    ) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(recipe.seed)
        self.output, self.recipe, self.rank, self.average = output, recipe, rank, average
        tokenizer = Tokenizer.from_file(output)
        self.captioner = MiniCaptioner(MiniConfig(), tokenizer)
        self.model = self.captioner.model.train()
        hard = hard_tokens(tokenizer, self.captioner.config.decoder.vocab_size)
        self.module = MiniTrainingStep(self.model, hard)
        self.optimizers = _optimizers(self.module, recipe)
        self.stream = SampleStream(
            tokenizer,
            self.captioner.config,
            first_seed=EVALUATION_SEEDS + recipe.seed * 100_000_000 + rank,
            stride=recipe.processes,
        )
        self.step, self.seconds = 0, 0.0
        self._restore()

    def go(self) -> None:
        """Trains to the end of the recipe."""
        recipe = self.recipe
        kinds = torch.Generator().manual_seed(recipe.seed + self.step)
        last, saved = time.monotonic(), self.seconds
        with _progress_bar(self.rank == 0) as show:
            while (progress := self._progress()) < 1.0:
                regions, size = _draw_kind(progress < recipe.facts_share, kinds)
                rate = _learning_rate(recipe, self.step, progress)
                loss = self._update(self.stream.batch(regions, size), rate, progress)
                self.step += 1
                now = time.monotonic()
                self.seconds, last = self.seconds + now - last, now
                if self.rank == 0:
                    self._log(loss, rate, regions, size)
                    show(progress, loss)
                if self.average is not None and self.step % _AVERAGE_EVERY == 0:
                    self.average.exchange(_averaged(self.module))
                if self.seconds - saved > 60 * recipe.save_every_minutes:
                    self._save()
                    saved = self.seconds
        if self.average is not None:
            self.average.settle(_averaged(self.module))
        self._save()

    def _update(self, batch: Batch, rate: float, progress: float) -> float:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        if progress < self.recipe.facts_share:
            loss = self.module.facts(batch)
        else:
            decaying = progress > 1.0 - self.recipe.decay_share
            text, facts = self.module(batch, 1.0 if decaying else _HARD_WEIGHT)
            loss = text + _FACTS_WEIGHT * facts
        self.module.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        value = float(loss.item())
        if not math.isfinite(value):
            raise FloatingPointError(f"loss: must be finite, got {value} at step {self.step}")
        return value

    def _progress(self) -> float:
        """Share of the run that is done."""
        if self.recipe.steps is not None:
            return self.step / self.recipe.steps
        assert self.recipe.minutes is not None
        return self.seconds / (60 * self.recipe.minutes)

    def _log(self, loss: float, rate: float, regions: int, size: int) -> None:
        row = {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "loss": round(loss, 4),
            "learning_rate": rate,
            "regions": regions,
            "samples": size * self.recipe.processes,
        }
        with (self.output / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _save(self) -> None:
        """Writes the captioner, and all that a later start needs to go on."""
        state = {"step": self.step, "seconds": self.seconds, "next_seed": self.stream.next_seed}
        _write_text(self.output / f"state-{self.rank}.json", json.dumps(state) + "\n")
        if self.rank:
            return
        self.captioner.save_pretrained(self.output, dtype=torch.float16)
        tensors = {f"module.{name}": value for name, value in _values(self.module).items()}
        for name, parameter in self.module.named_parameters():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{name}.{key}"] = value
        tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
        _replace(self.output / "state.safetensors", lambda part: save_file(tensors, part))

    def _take_over(self, folder: Path) -> None:
        """Copies the weights that fit by name and shape."""
        given = load_file(folder / WEIGHTS)
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if name in given and given[name].shape == value.shape:
                    value.copy_(given[name])

    def _restore(self) -> None:
        """Goes on from the last save in the output folder, or starts as the recipe says."""
        file = self.output / f"state-{self.rank}.json"
        if not file.exists():
            if self.recipe.start_from is not None:
                self._take_over(_folder(self.recipe.start_from))
            return
        state = json.loads(file.read_text(encoding="utf-8"))
        self.step, self.seconds = state["step"], state["seconds"]
        self.stream.next_seed = state["next_seed"]
        tensors = load_file(self.output / "state.safetensors")
        owners = {
            parameter: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for name, parameter in self.module.named_parameters():
            prefix = f"optimizer.{name}."
            owners[parameter].state[parameter] = {
                key.removeprefix(prefix): value
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
        with torch.no_grad():
            for name, value in _values(self.module).items():
                value.copy_(tensors[f"module.{name}"])


def _values(module: nn.Module) -> dict[str, Tensor]:
    """Weights, each once, and the running statistics of norms."""
    kept = module.state_dict(keep_vars=True)
    return {
        **dict(module.named_parameters()),
        **{name: value for name, value in module.named_buffers() if name in kept},
    }


def _averaged(module: nn.Module) -> list[Tensor]:
    return [value for value in _values(module).values() if value.is_floating_point()]


def _work(rank: int, output: Path, recipe: MiniRecipe, average: SharedAverage | None) -> None:
    """Body of one process."""
    _Run(output, recipe, rank, average).go()


def _folder(name: str) -> Path:
    """The folder of the captioner that a run starts from."""
    folder = BUILT_IN.get(name, Path(name))
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"start_from: expected a folder with {WEIGHTS}, got {name!r}")
    return folder


def _draw_kind(facts_alone: bool, generator: torch.Generator) -> tuple[int, int]:
    """Number of regions in a prompt and number of prompts of the next batch."""
    if facts_alone:
        return 1, _FACTS_BATCH
    shares = torch.tensor([share for _, share, _ in _BATCH_KINDS])
    regions, _, size = _BATCH_KINDS[int(torch.multinomial(shares, 1, generator=generator))]
    return regions, size


def _learning_rate(recipe: MiniRecipe, step: int, progress: float) -> float:
    warm = min((step + 1) / recipe.warmup_steps, 1.0)
    left = min((1.0 - progress) / recipe.decay_share, 1.0)
    return recipe.learning_rate * warm * max(left, 0.0)


def _optimizers(model: nn.Module, recipe: MiniRecipe) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of hidden layers, AdamW for embeddings, norms and biases."""
    hidden, embeddings, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim <= 1:
            vectors.append(parameter)
        elif "embed" not in name and not name.startswith("heads."):
            hidden.append(parameter)
        else:
            embeddings.append(parameter)
    groups = [
        {"params": embeddings, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return (
        Muon(hidden, lr=recipe.learning_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True),
    )


@contextmanager
def _progress_bar(wanted: bool) -> Iterator[Callable[[float, float], None]]:
    """Gives a function of (share done, loss) that moves a bar."""
    with Progress(disable=not wanted) as bar:
        task: TaskID = bar.add_task("training", total=1.0)
        yield lambda done, loss: bar.update(
            task, completed=done, description=f"training, loss {loss:.3f}"
        )


def _write_text(path: Path, text: str) -> None:
    _replace(path, lambda part: part.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name and moves it over the final one."""
    part = path.with_name(path.name + ".part")
    write(part)
    part.replace(path)
