"""What the page says, as HTML: every word of a user's is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from reinvert.ui.jobs import Waiting, Working
from reinvert.words import Link

HUES = (210, 30, 130, 280, 0, 55, 175, 320, 90, 240)
"""Colours of words, in degrees."""


def status(update: Waiting | Working) -> str:
    """What is going on, with a bar."""
    if isinstance(update, Waiting):
        people = "person is" if update.before == 1 else "people are"
        return _note(f"You are next but {update.before}: {update.before} {people} served first.", "wait")
    left = "" if update.left is None else f", about {max(1, round(update.left))} s left"
    count = f" {update.done} of {update.total}" if update.total else " …"
    share = 100 * update.done / update.total if update.total else 0
    label = escape(f"{update.stage}{count}{left}")
    bar = (
        f'<div class="ri-bar" role="progressbar" aria-label="progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share:.0f}"><div style="width:{share:.1f}%"></div></div>'
    )
    return _note(label, "work", plain=False) + bar


def done(summary: str, notes: Sequence[str] = ()) -> str:
    """What was done, and warnings."""
    return _note(f"Done: {summary}.", "done") + "".join(_note(note, "wait") for note in notes)


HERE = {
    "(--any-words, any_words=True, lets it through)": "(a box under All settings lets it through)",
    "use --model with a Stable Diffusion checkpoint for photographs, or --force (force=True) to go on": "start the "
    "studio with --model and a Stable Diffusion checkpoint for photographs, or tick the box under All settings",
    "needs a mask (--mask)": "needs a mask: paint one under Change only a part",
    "(--blend cat dog) or a mask (--mask)": "or a mask: give them under Change only a part",
    "local_blend acts on": "local_blend (the words under Change only a part) acts on",
    "choose another --guidance": "choose another strength",
}
"""What the command line's sentences name by its options, as the page has it."""


def error(sentence: str) -> str:
    """What will not work, and what to do."""
    for typed, here in HERE.items():
        sentence = sentence.replace(typed, here)
    sentence = sentence[:1].upper() + sentence[1:] + ("" if sentence.endswith((".", "?", "!", ")")) else ".")
    return f'<div class="ri-note ri-error" role="alert">{escape(sentence)}</div>'


def note(sentence: str) -> str:
    """Anything else."""
    return _note(sentence, "idle")


def _note(text: str, kind: str, plain: bool = True) -> str:
    return f'<div class="ri-note ri-{kind}">{escape(text) if plain else text}</div>'


def alignment(links: Sequence[Link], special: int) -> str:
    """Which source token each target token takes its attention from, as a table of coloured words.

    `special` tokens stand before the words, and one after them.
    """
    last = max(link.target for link in links)
    rows: list[str] = []
    for link in links:
        if link.target < special or (special and link.target == last):
            continue
        color = "" if link.source is None else f' style="--hue:{HUES[link.source % len(HUES)]}"'
        source = "–" if link.source is None else _chip(str(link.source_piece), color)
        how = "the source's attention" if link.keeps_source else "its own attention"
        rows.append(f"<tr><td>{_chip(link.target_piece, color)}</td><td>{how}</td><td>{source}</td></tr>")
    head = "<tr><th scope='col'>target</th><th scope='col'>follows</th><th scope='col'>source</th></tr>"
    return f'<table class="ri-words"><caption>Which word keeps whose attention</caption>{head}{"".join(rows)}</table>'


def _chip(word: str, color: str) -> str:
    return f'<span class="ri-chip{"" if color else " ri-own"}"{color}>{escape(word)}</span>'


def refused(reasons: dict[str, str]) -> str:
    """Inversions that are not offered, and why, as a list."""
    if not reasons:
        return ""
    rows = "".join(f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in reasons.items())
    heading = "<summary>Inversions that do not go with this editor, and why</summary>"
    return f"<details class='ri-why'>{heading}<ul>{rows}</ul></details>"


CSS = """
.ri-note {padding: .45em .7em; border-radius: 6px; border-left: 4px solid #8aa; margin: .15em 0; line-height: 1.4;
  background: var(--block-background-fill); color: var(--body-text-color)}
.ri-work {border-left-color: #2f6fde} .ri-done {border-left-color: #2e9e5b} .ri-wait {border-left-color: #c98a00}
.ri-error {border-left-color: #d33; background: var(--error-background-fill); color: var(--body-text-color)}
.ri-bar {height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden; margin: .3em 0}
.ri-bar > div {height: 100%; background: #2f6fde; transition: width .2s}
.ri-words, .ri-words tr {border-collapse: collapse; margin: .4em 0; border: 0 !important}
.ri-words caption {text-align: left; padding-bottom: .3em}
.ri-words td, .ri-words th {padding: .2em .8em .2em 0 !important; text-align: left; border: 0 !important}
.ri-chip {padding: .1em .5em; border-radius: 1em; background: hsl(var(--hue) 75% 85%); color: #111}
.ri-own {background: transparent; color: var(--body-text-color); border: 1px dashed var(--body-text-color)}
.ri-why summary {cursor: pointer} .ri-why ul {margin: .4em 0 0 1.2em}
.gradio-container, .gradio-container > .main {max-width: 1440px !important}
#examples .grid-container {grid-template-columns: repeat(4, minmax(0, 1fr)) !important}
#sides .grid-container {grid-template-columns: repeat(auto-fit, minmax(120px, 1fr)) !important}
:is(#history, #cells) .grid-container {grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)) !important}
:is(#history, #sides) .caption-label {font-size: .7rem !important; padding: .1em .4em; max-width: 100%}
.ri-settings > .form {display: grid !important; grid-template-columns: repeat(auto-fit, minmax(min(260px, 100%), 1fr));
  background: var(--block-background-fill) !important}
#title h1 {font-size: 1.4rem; margin: 0} #title p {margin: 0}
:is(#editor, #inversion) input {text-overflow: ellipsis; padding-right: 1.6em !important}
#files .label-clear-button {display: none}
.grid-wrap.fixed-height {min-height: 0 !important}
#examples .caption-label {font-size: .65rem; padding: 0 .2em; max-width: 100%; white-space: normal; line-height: 1.2}
.gradio-container :is(button, input, textarea, summary, a, [tabindex]):focus-visible {
  outline: 3px solid var(--color-accent) !important; outline-offset: 2px}
footer {display: none !important}
"""

JS = """
() => {
  // The thumbnails of a gallery are called after what is written on them, not "Thumbnail 1 of 4".
  const name = () => document.querySelectorAll('.grid-container button').forEach(button => {
    const said = button.querySelector('.caption-label')?.innerText.trim();
    if (said && button.getAttribute('aria-label') !== said) button.setAttribute('aria-label', said);
  });
  let due = false;
  new MutationObserver(() => {
    if (due) return;
    due = true;
    setTimeout(() => { due = false; name(); }, 200);
  }).observe(document.body, {childList: true, subtree: true});
  name();
}
"""
