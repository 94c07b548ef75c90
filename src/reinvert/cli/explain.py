"""`--explain`, and the check of words: both need a model's tokenizer and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

from reinvert import prompts
from reinvert.backbones.loading import load_tokenizer, load_world
from reinvert.cli.common import Given
from reinvert.cli.terminal import say
from reinvert.cli.values import show
from reinvert.editors.base import Editor
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.models import Usual, usual_of
from reinvert.words import DEFAULT, explain_table, self_window, word_positions


def check_words(
    model: str, source: str, targets: Sequence[str], editors: Sequence[Editor], tokenizer_folder: str | None = None
) -> None:
    """Refuse a word that does not occur in its prompt, naming those that do, before the model is loaded.

    An editor says which of its fields hold words of the source and of the targets; whatever is given word by word
    (boost, cross windows) belongs to the targets.
    """
    tokenizer: Any = None
    for editor in editors:
        for field in fields(editor):
            value, told = getattr(editor, field.name), targets
            if isinstance(value, Mapping):
                wanted = [word for word in cast(Mapping[str, object], value) if word != DEFAULT]
            elif field.name in (*editor.words_of_source, *editor.words_of_target):
                wanted = list(cast(tuple[str, ...], value))
                told = [source] if field.name in editor.words_of_source else targets
            else:
                continue
            if wanted and tokenizer is None:
                tokenizer = load_tokenizer(model, tokenizer=tokenizer_folder)
            for prompt in told:
                for word in wanted:
                    word_positions(tokenizer, prompt, word)


def run(
    model: str,
    given: Given,
    targets: Sequence[str],
    editors: Sequence[Editor],
    steps: int | None,
    any_words: bool = False,
    tokenizer_folder: str | None = None,
) -> int:
    """Print, for each target, which source token gives each target token its attention, and during which steps."""
    p2p = next((e for e in editors if isinstance(e, P2P)), None)
    if p2p is None:
        raise ReinvertError("--explain shows whose attention p2p keeps; choose --editor p2p")
    tokenizer = load_tokenizer(model, tokenizer=tokenizer_folder)
    prompts.check_words(model, load_world(model), [given.source, *targets], any_words)
    prompts.warn_of_prompts(model, tokenizer, [given.source, *targets])
    if given.trajectory is not None:
        steps = given.trajectory.steps
    steps = (usual_of(model) or Usual()).steps if steps is None else steps
    start, stop = self_window(steps, p2p.self_attention)
    for target in targets:
        say(f"{given.source}  ->  {target}")
        say(explain_table(tokenizer, given.source, target, p2p.kind_for(given.source, target)))
        say(f"The words' attention follows this table for {show(p2p.cross)} of {steps} steps (--cross);")
        say(f"all self-attention is the source's from step {start + 1} to step {stop} (--self-attention).")
        if p2p.boost:
            say(f"Attention is multiplied at {show(p2p.boost)} (--boost).")
        say()
    return 0
