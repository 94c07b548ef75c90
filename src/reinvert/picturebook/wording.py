"""Captions as people write them: other words, another order, details left out; and what such a caption says.

    reword(scene, rng)   "in the snow, two kittens: a red one and a blue one that looks left"
    plainly(text)        its plain caption, "a red cat and a blue cat facing left in snow", and where the things stand

The plain caption is the one of `Scene.caption`. Whatever `reword` writes, `plainly` reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from reinvert.picturebook.scene import (
    COLORS,
    FACING_KINDS,
    FACINGS,
    KINDS,
    MATERIALS,
    PLACE,
    STYLE_PREFIX,
    STYLES,
    WEARABLES,
    Scene,
    Thing,
)

KIND_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "cat": ("kitten", "kitty"),
    "dog": ("puppy",),
    "fish": (),
    "car": ("automobile",),
    "boat": ("sailing boat", "ship"),
    "house": ("cottage",),
    "tree": (),
    "star": (),
    "mushroom": ("toadstool",),
    "snowman": ("snow man",),
}
"""Other names of things; some things have a name of two words."""
COLOR_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "red": ("crimson", "scarlet"),
    "orange": ("tangerine",),
    "yellow": ("lemon yellow",),
    "green": ("emerald",),
    "blue": ("azure",),
    "purple": ("violet",),
    "pink": ("rose",),
    "white": ("snow white",),
}
MATERIAL_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "striped": ("stripy",),
    "dotted": ("spotted",),
    "metal": ("metallic",),
}
MATERIAL_PHRASES: Final[dict[str, tuple[str, ...]]] = {
    "striped": ("with stripes",),
    "dotted": ("with dots", "with spots"),
    "metal": ("made of metal",),
}
WORN_WORDS: Final[dict[str, tuple[str, ...]]] = {"hat": ("party hat",), "crown": ("golden crown",)}
WORN_BY: Final = ("wearing", "with", "in", "that wears")
LOOKS: Final = ("facing {}", "looking {}", "that looks {}", "facing to the {}")
PLACE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "grass": ("in a meadow", "on the grass"),
    "sand": ("on the sand", "in the desert"),
    "sea": ("on the water", "at sea"),
    "night": ("by night", "under the moon"),
    "snow": ("in the snow", "in winter"),
    "room": ("in the room", "indoors"),
}
STYLE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "drawn": ("a picture of {}",),
    "sketch": ("a pencil sketch of {}", "{} as a sketch", "{} in pencil"),
    "neon": ("a neon light of {}", "{} as a neon sign", "{} in neon"),
}
STANDS: Final[dict[str, str]] = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
"""How a caption says where a thing stands."""


@dataclass(frozen=True)
class Plain:
    """What a caption says: the same in the words of `Scene.caption` (without the place where none is said), and for
    each of its things where it stands: left, middle, right, or None where that is left open."""

    caption: str
    stands: tuple[str | None, ...]


def words() -> tuple[str, ...]:
    """Every word that a rewording can have beside those of plain captions, sorted."""
    phrases = [w for table in (KIND_WORDS, COLOR_WORDS, MATERIAL_WORDS, MATERIAL_PHRASES, WORN_WORDS, PLACE_WORDS)
               for ways in table.values() for w in ways]  # fmt: skip
    phrases += [*WORN_BY, *LOOKS, *(way for ways in STYLE_WORDS.values() for way in ways), *STANDS.values()]
    phrases += ["two one that is made of", *(plural(name) for kind in KINDS for name in (kind, *KIND_WORDS[kind]))]
    return tuple(sorted({word for phrase in phrases for word in phrase.split() if word.isalpha()}))


def plural(name: str) -> str:
    """cats, puppies, fish, snowmen."""
    if name == "fish":
        return name
    if name.endswith("man"):
        return f"{name[:-3]}men"
    return f"{name[:-1]}ies" if name.endswith("y") and name != "kitty" else f"{name}s"


def stands(x: float) -> str:
    """Where a thing stands, of its place from the left."""
    return "left" if x < 0.4 else "right" if x > 0.6 else "middle"


# --- writing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reworded:
    """A caption, and what it says."""

    text: str
    plain: Plain


def reword(scene: Scene, rng: Random, *, unsaid: float = 0.12, near: float = 0.3) -> Reworded:
    """A caption of the scene. `unsaid`: how often each of colour, material, facing and place is left out; `near`: how
    often a word is another than the plain one."""

    def said(thing: Thing) -> Thing:
        return replace(
            thing,
            says_color=rng.random() >= unsaid,
            says_facing=thing.kind in FACING_KINDS and rng.random() >= max(unsaid, 0.4),
            material="plain" if rng.random() < unsaid else thing.material,
        )

    things = [said(thing) for thing in scene.things]
    if len(things) == 2 and rng.random() < 0.5:
        things.reverse()
    place = rng.random() >= unsaid
    alone = len(things) == 1
    aside = alone and stands(things[0].x) != "middle"
    tells_stands = rng.random() < (0.75 if aside else 0.35)
    where = [stands(thing.x) if tells_stands else None for thing in things]

    writer = _Writer(rng, near)
    shared = not alone and not tells_stands and _share(*things) and rng.random() < 0.7
    if shared:
        text = writer.both(*things)
    else:
        before = scene.style == STYLES[0]
        phrases = [writer.thing(thing, side, before=before) for thing, side in zip(things, where, strict=True)]
        text = rng.choice((" and ", " and ", ", ")).join(phrases)
    if scene.style != STYLES[0] or rng.random() < 0.1:
        text = writer.word(f"{STYLE_PREFIX[scene.style]}{{}}", STYLE_WORDS[scene.style]).format(text)
    if place:
        named = writer.word(PLACE[scene.background], PLACE_WORDS[scene.background])
        text = f"{named}, {text}" if rng.random() < 0.25 else f"{text} {named}"
    caption = f"{STYLE_PREFIX[scene.style]}{' and '.join(thing.phrase for thing in things)}"
    return Reworded(text, Plain(f"{caption} {PLACE[scene.background]}" if place else caption, tuple(where)))


def _share(a: Thing, b: Thing) -> bool:
    """Whether "two ..." can say both things: one kind, and the same but for colours that are said."""
    alike = a.kind == b.kind and a.wearing == b.wearing and a.material == b.material and a.says_color == b.says_color
    return alike and a.says_facing == b.says_facing and (not a.says_facing or a.facing == b.facing)


@dataclass(frozen=True)
class _Writer:
    rng: Random
    near: float

    def word(self, plain: str, others: Sequence[str]) -> str:
        """The plain word, or now and then another."""
        return self.rng.choice(others) if others and self.rng.random() < self.near else plain

    def thing(self, thing: Thing, where: str | None, *, before: bool) -> str:
        """A noun phrase with all that it says; where it stands may come first if `before`."""
        adjectives, after = self._look(thing, colored=True)
        noun = " ".join([*adjectives, self.word(thing.kind, KIND_WORDS[thing.kind])])
        phrase = " ".join([_article(noun), *after])
        if where is None:
            return phrase
        stand = STANDS[where]
        return f"{stand} {phrase}" if before and self.rng.random() < 0.3 else f"{phrase} {stand}"

    def both(self, a: Thing, b: Thing) -> str:
        """Two things of one kind: "two red cats wearing a hat", "two cats, a red one and a blue one"."""
        apart = a.says_color and a.color != b.color
        adjectives, after = self._look(a, colored=not apart)
        name = plural(self.word(a.kind, KIND_WORDS[a.kind]))
        text = " ".join(["two", *adjectives, name, *after])
        if apart:
            colors = [self.word(thing.color, COLOR_WORDS[thing.color]) for thing in (a, b)]
            text += ", " + " and ".join(f"{_article(color)} one" for color in colors)
        return text

    def _look(self, thing: Thing, *, colored: bool) -> tuple[list[str], list[str]]:
        """What is said before and behind the noun."""
        color = [self.word(thing.color, COLOR_WORDS[thing.color])] if thing.says_color and colored else []
        before, after = color, list[str]()
        if thing.material != "plain":
            if self.rng.random() < 0.25:
                after.append(self.rng.choice(MATERIAL_PHRASES[thing.material]))
            else:
                named = self.word(thing.material, MATERIAL_WORDS[thing.material])
                if color and self.rng.random() < 0.15:
                    before, after = [], [f"that is {color[0]} and {named}"]
                else:
                    before = [named, *color] if self.rng.random() < 0.4 else [*color, named]
        more = list[str]()
        if thing.wearing:
            by = self.word(WORN_BY[0], WORN_BY[1:])
            more.append(f"{by} {_article(self.word(thing.wearing, WORN_WORDS[thing.wearing]))}")
        if thing.says_facing and thing.kind in FACING_KINDS:
            more.append(self.word(LOOKS[0], LOOKS[1:]).format(thing.facing))
        self.rng.shuffle(more)
        return before, [*after, *more]


def _article(words_: str) -> str:
    return f"{'an' if words_[0] in 'aeiou' else 'a'} {words_}"


# --- reading -----------------------------------------------------------------------------------------------------


def _any(phrases: Sequence[str]) -> str:
    return "|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))


def _table(*tables: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {way: name for table in tables for name, ways in table.items() for way in ways}


KIND_OF: Final = _table({kind: (kind, *KIND_WORDS[kind]) for kind in KINDS})
KIND_OF_MANY: Final = {plural(way): kind for way, kind in KIND_OF.items()}
COLOR_OF: Final = _table({color: (color, *COLOR_WORDS[color]) for color in COLORS})
MATERIAL_OF: Final = _table({m: (m, *MATERIAL_WORDS.get(m, ())) for m in MATERIALS if m != "plain"}, MATERIAL_PHRASES)
WORN_OF: Final = _table({worn: (worn, *WORN_WORDS[worn]) for worn in WEARABLES})
_PLACES: Final = _table({name: (PLACE[name], *PLACE_WORDS[name]) for name in PLACE})
SIDE_OF: Final = {phrase: side for side, phrase in STANDS.items()}

WEARS = re.compile(rf"\b(?:{_any(WORN_BY)}) an? ({_any(tuple(WORN_OF))})\b")
FACES = re.compile(rf"\b(?:{'|'.join(way.format(f'({_any(FACINGS)})') for way in LOOKS)})\b")
_PLACED = re.compile(rf"(?:^|(?<= ))(?:{_any(tuple(_PLACES))})(?= |,|$)")
STOOD = re.compile(rf"\b({_any(tuple(SIDE_OF))})\b")
MADE = re.compile(rf"\b({_any(tuple(MATERIAL_OF))})\b")
COLORED = re.compile(rf"\b({_any(tuple(COLOR_OF))})\b")
NAMED = re.compile(rf"\b({_any(tuple(KIND_OF))})\b")
_TWO = re.compile(rf"\btwo (?:.* )?({_any(tuple(KIND_OF_MANY))})\b")


@dataclass
class Clause:
    """One thing's part of a caption; what is read of it is taken out."""

    rest: str

    def take(self, pattern: re.Pattern[str], names: dict[str, str] | None = None) -> str | None:
        """The first match's word, in plain words; None where there is none."""
        match = pattern.search(self.rest)
        if match is None:
            return None
        self.rest = f"{self.rest[: match.start()]} {self.rest[match.end() :]}"
        found = next(group for group in match.groups() if group)
        return names[found] if names else found


def plainly(text: str) -> Plain | None:
    """What a caption says in plain words; None where it says what picturebook does not know."""
    text = " ".join(text.lower().replace(",", " , ").replace(":", " , ").split()).rstrip(".! ")
    style, text = _style(text)
    places = _PLACED.findall(text)
    if len(places) > 1:
        return None
    text = _PLACED.sub(" , ", text)
    text = re.sub(rf"\bthat is ({_any(tuple(COLOR_OF))}) and ", r"\1 ", text)
    clauses = [part for part in re.split(r" and | , |^, | ,$", f" {text} ") if part.strip(" ,")]
    read = _things(clauses)
    if read is None:
        return None
    phrases, where = read
    caption = f"{STYLE_PREFIX[style]}{' and '.join(phrases)}"
    return Plain(f"{caption} {PLACE[_PLACES[places[0]]]}" if places else caption, where)


def _style(text: str) -> tuple[str, str]:
    ways = [(way, style) for style in STYLES for way in (f"{STYLE_PREFIX[style]}{{}}", *STYLE_WORDS[style])]
    for way, style in sorted((pair for pair in ways if pair[0] != "{}"), key=lambda pair: -len(pair[0])):
        plain = way.replace("{}", "").strip()
        match = re.search(rf"(?:^|(?<= )){re.escape(plain)}(?= |$)", text)
        if match:
            return style, f"{text[: match.start()]} {text[match.end() :]}".strip()
    return STYLES[0], text


def _things(clauses: Sequence[str]) -> tuple[tuple[str, ...], tuple[str | None, ...]] | None:
    """The plain phrase of every thing, and where it stands."""
    if not clauses:
        return None
    both = _TWO.search(clauses[0])
    if both is not None:
        kind = KIND_OF_MANY[both[1]]
        rest = clauses[0][: both.start(1)] + kind + clauses[0][both.end(1) :]
        clauses = (
            [rest.replace("two ", "", 1)] * 2 if len(clauses) == 1 else _ones(rest.replace("two ", "", 1), clauses[1:])
        )
    phrases, where = list[str](), list[str | None]()
    for text in clauses:
        clause = Clause(text)
        worn, facing = clause.take(WEARS, WORN_OF), clause.take(FACES)
        side, color = clause.take(STOOD, SIDE_OF), clause.take(COLORED, COLOR_OF)
        material, kind = clause.take(MADE, MATERIAL_OF), clause.take(NAMED, KIND_OF)
        if kind is None or set(clause.rest.split()) - {"a", "an", "the", "that", "is"}:
            return None
        thing = Thing(kind, color or COLORS[0], material or "plain", facing or FACINGS[0], worn)
        thing = replace(thing, says_color=color is not None, says_facing=facing is not None)
        if facing and kind not in FACING_KINDS:
            return None
        phrases.append(thing.phrase)
        where.append(side)
    return tuple(phrases), tuple(where)


def _ones(shared: str, ones: Sequence[str]) -> list[str]:
    """ "cats that look left", "a red one", "a blue one": what is said of each."""
    if len(ones) != 2:
        return [shared, *ones]
    return [f"{one.strip().removesuffix('one')} {shared}" for one in ones]
