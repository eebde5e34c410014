"""A judge that runs here: a folder with a transformers model and its chat template.

Text alone needs a causal language model; pictures need one with a processor. No code of the folder
is run and nothing is downloaded.
"""

from __future__ import annotations

import base64
import binascii
import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fastregion.evaluation.fingerprint import fingerprint
from fastregion.evaluation.judges.chat import Answer, Messages
from fastregion.images import load_image

__all__ = ["LocalModel"]

_MAX_NEW_TOKENS = 1024  # where a request says nothing
_OPTIONS = frozenset(("max_tokens", "temperature", "top_p", "seed"))
# Of the API, without effect on one answer of a model that does not repeat itself: zero penalties.
_NEUTRAL = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0, "stream": False}


class LocalModel:
    """Answers messages by a model of transformers; see :class:`..chat.Chat`.

    Args:
        folder: written by ``save_pretrained`` of the model and its tokenizer or processor.
        device: where it runs; by default a GPU where there is one.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no model with a chat template.
    """

    concurrency = 1

    def __init__(self, folder: Path, device: torch.device | str | None = None) -> None:
        import transformers

        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"judge: {str(folder)!r} is no folder with a model")
        only_here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            processors: Any = transformers.AutoProcessor
            self._processor = processors.from_pretrained(folder, **only_here)
            config = transformers.AutoConfig.from_pretrained(folder, **only_here)
            self._sees = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            auto = (
                transformers.AutoModelForImageTextToText
                if self._sees
                else transformers.AutoModelForCausalLM
            )
            model: Any = auto.from_pretrained(folder, dtype="auto", **only_here)
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"judge: {str(folder)!r} cannot be loaded: {reason}") from error
        if getattr(self._processor, "chat_template", None) is None:
            raise ValueError(f"judge: {str(folder)!r} has no chat template")
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(where).eval()
        self.name = f"{folder.resolve().name} {fingerprint(self._model)}"
        self._lock = threading.Lock()

    def ask(self, messages: Messages, options: Mapping[str, Any]) -> Answer:
        """See :meth:`..chat.Chat.ask`; greedy where the temperature is 0 or not given.

        Raises:
            ValueError: an option that it has not, or pictures for a model of text.
        """
        for name, value in options.items():
            if name not in _OPTIONS and _NEUTRAL.get(name, ...) != value:
                raise ValueError(f"judge: a local model has no option {name}={value!r}")
        inputs = self._processor.apply_chat_template(
            self._messages(messages),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device)
        temperature = float(options.get("temperature") or 0.0)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
            sampling["top_p"] = float(options.get("top_p") or 1.0)
        with self._lock, torch.inference_mode():
            if temperature > 0:
                torch.manual_seed(int(options.get("seed") or 0))
            found = self._model.generate(
                **inputs,
                max_new_tokens=int(options.get("max_tokens") or _MAX_NEW_TOKENS),
                **sampling,
            )
        length = inputs["input_ids"].shape[1]
        new = found[0, length:]
        text: str = self._processor.decode(new, skip_special_tokens=True)
        usage = {"prompt_tokens": length, "completion_tokens": len(new)}
        return Answer(text=text.strip(), usage=usage)

    def close(self) -> None:
        """Nothing is held that Python would not give back."""

    def _messages(self, messages: Messages) -> list[dict[str, Any]]:
        """As chat templates take them: text as a string, or parts with pictures."""
        found = []
        for message in messages:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if self._sees:
                content = [self._part(part) for part in parts]
            else:
                for part in parts:
                    if part["type"] != "text":
                        raise ValueError(
                            f"judge: {self.name} is a model of text and sees no pictures"
                        )
                content = "\n".join(part["text"] for part in parts)
            found.append({"role": message["role"], "content": content})
        return found

    def _part(self, part: Mapping[str, Any]) -> dict[str, Any]:
        if part["type"] == "text":
            return {"type": "text", "text": part["text"]}
        return {"type": "image", "image": _picture(part["image_url"]["url"])}


def _picture(url: str) -> Image.Image:
    """The picture of a data URL."""
    _, _, data = url.partition(";base64,")
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            return Image.fromarray(load_image(image))
    except (binascii.Error, OSError) as error:
        raise ValueError(f"judge: expected a picture as a data URL: {error}") from error
