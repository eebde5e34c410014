"""LoRA by peft: low-rank updates of a captioner's linear layers, trained while the layers stay.

    y = W x + b + (alpha / r) B A dropout(x)              A [r, in], B [out, r]; B begins at 0

Updates are written in two ways: folded into the weights, as a whole checkpoint, and by themselves,
as peft writes an adapter, under the published names of the layers.

URECA has low-rank layers of its own (:mod:`fastregion.language.lora`): in InternLM2 queries, keys
and values share A, which peft does not know, and published checkpoints of URECA that hold updates
can be read without peft.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastregion._torchvision_guard import import_transformers
from fastregion.json_files import read_json_object
from fastregion.language.lora import fold
from fastregion.models.base import Captioner
from fastregion.models.checkpoint import files_at_once
from fastregion.models.patterns import fits, require_fit

__all__ = ["add_lora", "has_lora", "load_adapter", "merge_lora", "merged_lora", "save_adapter"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of peft's names in a file
_ADAPTER = "default"
_MAX_JSON_BYTES = 1 << 20
# What a foreign adapter may have, and would be another model without.
_UNSUPPORTED = ("use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class _Layer:
    """A layer with an update: the module that it belongs to, its name there, and all names."""

    parent: nn.Module
    name: str
    module: Any
    published: str


def add_lora(
    captioner: Captioner,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Sequence[str] = (),
    also_train: Sequence[str] = (),
) -> list[str]:
    """Give linear layers a low-rank update, and freeze everything else.

    Nothing changes yet, as B is 0. A is drawn from torch's generator.

    Args:
        captioner: modified.
        rank: r, at least 1.
        alpha: the updates are scaled by ``alpha / rank``.
        dropout: share of the updates' inputs that are dropped in training, in [0, 1).
        targets: patterns, as in a shell, of the published names of layers; none for all linear
            layers of the decoder's blocks.
        also_train: patterns of the published names of parameters that are trained themselves, such
            as those of the mask's path.

    Returns:
        The published names of the parameters that are trained.

    Raises:
        ImportError: peft is not installed.
        ValueError: a pattern that fits nothing, a layer whose weight another parameter shares,
            or a captioner that has updates already.
    """
    peft = _peft()
    if has_lora(captioner):
        raise ValueError("captioner: has LoRA layers already; merge them first")
    layers = _linear_layers(captioner)
    require_fit("lora.targets", targets, layers)
    causal_lm: Any = captioner.decoder
    decoder = {id(module) for module in causal_lm.model.layers.modules()}
    modules = dict(captioner.model.named_modules())
    chosen = [
        ours
        for theirs, ours in layers.items()
        if (fits(theirs, targets) if targets else id(modules[ours]) in decoder)
    ]
    _check_not_shared(captioner, chosen)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen, bias="none"
    )
    peft.inject_adapter_in_model(config, captioner.model, adapter_name=_ADAPTER)
    named = {captioner.layout.published(n): p for n, p in captioner.model.named_parameters()}
    require_fit("lora.also_train", also_train, named)
    for name, parameter in named.items():
        parameter.requires_grad_(".lora_" in name or fits(name, also_train))
    return [name for name, parameter in named.items() if parameter.requires_grad]


def has_lora(captioner: Captioner) -> bool:
    """Whether some layers have an update."""
    return any(".lora_A." in name for name, _ in captioner.model.named_parameters())


@contextmanager
def merged_lora(captioner: Captioner) -> Iterator[None]:
    """A captioner whose updates are folded into its weights for a while, for decoding and saving.

    Plain layers take the places of those with updates, which stay as they are and come back.
    """
    layers = list(_lora_layers(captioner))
    for layer in layers:
        setattr(layer.parent, layer.name, _merged(layer.module))
    try:
        yield
    finally:
        for layer in layers:
            setattr(layer.parent, layer.name, layer.module)


def merge_lora(captioner: Captioner) -> None:
    """Fold all updates into the weights; plain layers remain."""
    for layer in list(_lora_layers(captioner)):
        setattr(layer.parent, layer.name, _merged(layer.module))


def save_adapter(captioner: Captioner, folder: str | os.PathLike[str]) -> None:
    """Write what is trained, and nothing else, as peft writes an adapter.

    Args:
        captioner: with updates.
        folder: made if it does not exist; its files appear whole or not at all.

    Raises:
        ValueError: the captioner has no updates.
    """
    layers = list(_lora_layers(captioner))
    if not layers:
        raise ValueError("captioner: has no LoRA layers")
    tensors: dict[str, Tensor] = {}
    for name, parameter in captioner.model.named_parameters():
        if parameter.requires_grad:
            published = captioner.layout.published(name).replace(f".{_ADAPTER}.", ".")
            tensors[_PREFIX + published] = parameter.detach().contiguous().cpu()
    first = layers[0].module  # all are alike
    values = {
        "peft_type": "LORA",
        "base_model_name_or_path": captioner.model_id,
        "r": first.r[_ADAPTER],
        "lora_alpha": first.lora_alpha[_ADAPTER],
        "lora_dropout": getattr(first.lora_dropout[_ADAPTER], "p", 0.0),
        "bias": "none",
        "target_modules": [layer.published for layer in layers],
    }
    with files_at_once(folder, last=_CONFIG) as scratch:
        save_file(tensors, scratch / _WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(values, indent=2) + "\n"
        (scratch / _CONFIG).write_text(text, encoding="utf-8")


def load_adapter(captioner: Captioner, folder: str | os.PathLike[str]) -> None:
    """Give a captioner the updates, and the other trained parameters, that a folder holds.

    Args:
        captioner: what they were trained on; modified.
        folder: what :func:`save_adapter` wrote.

    Raises:
        ImportError: peft is not installed.
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or holds the updates of another model.
        NotImplementedError: updates of another kind, which peft can write and we do not.
    """
    for name in (_CONFIG, _WEIGHTS):
        if not Path(folder, name).is_file():
            raise FileNotFoundError(f"adapter: {os.fspath(folder)!r} has no {name}")
    values = read_json_object(Path(folder, _CONFIG), _MAX_JSON_BYTES, "adapter")
    number = (int, float)
    kinds: dict[str, Any] = {
        "r": int,
        "lora_alpha": number,
        "lora_dropout": number,
        "target_modules": list,
    }
    for key, kind in kinds.items():
        if key not in values:
            raise ValueError(f"adapter: {_CONFIG} has no key {key!r}")
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise ValueError(f"adapter: {_CONFIG}: {key} must not be {values[key]!r}")
    for key in _UNSUPPORTED:
        if values.get(key):
            raise NotImplementedError(f"adapter: {_CONFIG}: {key} is not supported")
    try:
        read = load_file(Path(folder, _WEIGHTS))
    except SafetensorError as error:
        raise ValueError(f"adapter: {_WEIGHTS}: damaged ({error})") from error
    stored = {key.removeprefix(_PREFIX): tensor for key, tensor in read.items()}
    add_lora(
        captioner,
        rank=values["r"],
        alpha=values["lora_alpha"],
        dropout=values["lora_dropout"],
        targets=values["target_modules"],
        also_train=[key for key in stored if ".lora_" not in key],
    )
    named = {
        captioner.layout.published(name).replace(f".{_ADAPTER}.", "."): parameter
        for name, parameter in captioner.model.named_parameters()
        if parameter.requires_grad
    }
    if named.keys() != stored.keys():
        other = min(named.keys() ^ stored.keys())
        raise ValueError(f"adapter: {_WEIGHTS} does not fit {_CONFIG}: {other!r}")
    with torch.no_grad():
        for name, parameter in named.items():
            if parameter.shape != stored[name].shape:
                raise ValueError(
                    f"adapter: {name!r} must have shape {tuple(parameter.shape)}, "
                    f"got {tuple(stored[name].shape)}"
                )
            parameter.copy_(stored[name])


def _peft() -> Any:
    import_transformers()  # which peft imports
    try:
        import peft
    except ImportError as error:
        raise ImportError('LoRA needs peft: pip install "fastregion[train]"') from error
    return peft


def _linear_layers(captioner: Captioner) -> dict[str, str]:
    """Linear layers: their published names, and ours."""
    return {
        captioner.layout.published(f"{name}.weight").removesuffix(".weight"): name
        for name, module in captioner.model.named_modules()
        if type(module) is nn.Linear
    }


def _check_not_shared(captioner: Captioner, chosen: Sequence[str]) -> None:
    count: dict[int, int] = {}
    for _, parameter in captioner.model.named_parameters(remove_duplicate=False):
        count[id(parameter)] = count.get(id(parameter), 0) + 1
    for name in chosen:
        if count[id(captioner.model.get_submodule(name).weight)] > 1:
            raise ValueError(
                f"lora.targets: {name!r} shares its weight with another layer, and an update of "
                "one alone cannot be merged"
            )


def _lora_layers(captioner: Captioner) -> Iterator[_Layer]:
    for path, module in captioner.model.named_modules():
        if not isinstance(getattr(module, "lora_A", None), nn.ModuleDict):
            continue
        parent, _, name = path.rpartition(".")
        published = captioner.layout.published(f"{path}.weight").removesuffix(".weight")
        yield _Layer(captioner.model.get_submodule(parent), name, module, published)


def _merged(module: Any) -> nn.Linear:
    """A plain layer that computes the same, without dropout."""
    base = module.base_layer
    layer = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
    a, b = (part[_ADAPTER].weight.detach() for part in (module.lora_A, module.lora_B))
    folded = fold(base.weight.detach(), a, b, module.scaling[_ADAPTER])
    layer.weight = nn.Parameter(folded, requires_grad=False)
    layer.bias = base.bias
    return layer
