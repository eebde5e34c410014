"""A checkpoint's chat template: how a conversation is written before it is cut into tokens.

The template is a program from the checkpoint. It is rendered by transformers' own function, in
jinja2's ``ImmutableSandboxedEnvironment``, which gives it neither Python nor files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastregion._torchvision_guard import import_transformers
from fastregion.language.tokenizer_files import CONFIG_FILE, read_json

__all__ = ["ChatTemplate"]

_TEMPLATE_FILE = "chat_template.jinja"
_KEY = "chat_template"
_JSON_FILES = ("chat_template.json", CONFIG_FILE)
_MAX_CHARACTERS = 1 << 20  # far above any honest one


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template; made by :meth:`from_pretrained`, or from its text.

    Attributes:
        template: the Jinja text.
        origin: where it came from, for errors.
        special_tokens: what the template may call ``bos_token``, ``eos_token``, ...; the ``names``
            of the tokenizer.

    Raises:
        TypeError: ``template`` is not a string.
        ValueError: it has more than 2**20 characters.
    """

    template: str
    origin: str = _KEY
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.template, str):
            raise TypeError(f"{self.origin}: must be a string, got {type(self.template).__name__}")
        if len(self.template) > _MAX_CHARACTERS:
            raise ValueError(
                f"{self.origin}: must have at most {_MAX_CHARACTERS} characters, "
                f"got {len(self.template)}"
            )

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], special_tokens: Mapping[str, str] | None = None
    ) -> ChatTemplate:
        """Read the template of a checkpoint.

        Looked for where transformers does, in its order: ``chat_template.jinja``, then the key
        ``chat_template`` of ``chat_template.json`` and of ``tokenizer_config.json`` (a list of
        named templates counts if one is named ``default``).

        Raises:
            FileNotFoundError: no file in the folder has a template.
            ValueError: a file is damaged or its template is no text; names file and key.
        """
        names = dict(special_tokens or {})
        file = Path(folder) / _TEMPLATE_FILE
        if file.is_file():
            try:
                return cls(file.read_text(encoding="utf-8"), str(file), names)
            except UnicodeDecodeError as error:
                raise ValueError(f"{file}: is not UTF-8 text: {error}") from error
        for name in _JSON_FILES:
            file = Path(folder) / name
            if file.is_file():
                value = read_json(file).get(_KEY)
                if value is not None:
                    origin = f"{file}: {_KEY}"
                    return cls(_default(value, origin), origin, names)
        raise FileNotFoundError(
            f"chat template: {os.fspath(folder)} has no {_TEMPLATE_FILE}, and no key {_KEY!r} in "
            + " or ".join(_JSON_FILES)
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Write a conversation as one text.

        The text has the template's own special tokens in it. ``Tokenizer.encode`` adds none by
        default; with ``add_special_tokens=True`` a template that begins with the BOS token yields
        it twice, which is what some published models were evaluated with.

        Args:
            messages: the turns, each with ``role`` and ``content``.
            add_generation_prompt: end with the beginning of the assistant's turn.
            variables: further names that the template knows.

        Raises:
            ValueError: the template is no valid Jinja, or refuses the messages.
        """
        render = import_transformers("utils.chat_template_utils").render_jinja_template
        try:
            (text,), _ = render(
                conversations=[list(messages)],
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
                **{**self.special_tokens, **variables},
            )
        except ImportError:  # jinja2 is missing or too old, which is not the template's fault
            raise
        except Exception as error:  # whatever a template from elsewhere can cause
            raise ValueError(f"{self.origin}: {type(error).__name__}: {error}") from error
        return str(text)


def _default(value: Any, origin: str) -> str:
    """A template given as text, or the one named ``default`` of several."""
    if isinstance(value, list):
        try:
            value = {entry["name"]: entry["template"] for entry in value}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{origin}: must be a text or a list of name and template") from error
    if isinstance(value, dict):
        if "default" not in value:
            raise ValueError(f"{origin}: has no template named 'default', only {sorted(value)}")
        value = value["default"]
    if not isinstance(value, str):
        raise ValueError(f"{origin}: must be a text, got {type(value).__name__}")
    return value
