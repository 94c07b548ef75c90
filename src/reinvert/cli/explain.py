"""`--explain`: it needs a model's tokenizer and nothing else of it."""

from __future__ import annotations

from collections.abc import Sequence

from reinvert import prompts
from reinvert.backbones.loading import load_tokenizer, load_world
from reinvert.cli.common import Given
from reinvert.cli.terminal import say
from reinvert.editors.base import Editor
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.models import Usual, usual_of
from reinvert.values import show
from reinvert.words import explain_table, self_window


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
