"""Questions about a scene, each with one answer of one word, and the vocabulary they are made of.

ask(scene, rng)  # [Question("which digit is red ?", "7", "name"), ...]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .scenes import COLOURS, DIGITS, NAMES, SHAPES, SIDE, WORDS, Object, Scene

# The last two, about places, are trained but not learned in an hour: reports leave them out.
KINDS = ("digit", "shape", "word", "colour", "there", "count", "corner", "beside")
LEARNED = KINDS[:6]
CORNERS = {"upper left": (0, 0), "upper right": (1, 0), "lower left": (0, 1), "lower right": (1, 1)}
SIDES = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
COUNTS = ("none", "one", "two", "three", "four", "five", "six")
GRAMMAR = (
    "which what is the of in how many objects digit digits shape shapes word words color there a "
    "corner upper lower left right above below yes no nothing ?"
).split()
VOCABULARY = tuple(dict.fromkeys((*GRAMMAR, *COUNTS, *NAMES, *COLOURS)))
GROUPS = {"digit": DIGITS, "shape": SHAPES, "word": WORDS}


@dataclass(frozen=True)
class Question:
    text: str
    answer: str
    kind: str


def name_of(scene: Scene, o: Object) -> Question:
    return Question(f"which {o.kind} is {o.colour} ?", o.name, o.kind)


def colour_of(scene: Scene, o: Object) -> Question:
    return Question(f"what color is the {o.name} ?", o.colour, "colour")


def there(scene: Scene, rng: np.random.Generator) -> Question:
    present = [o.name for o in scene.objects]
    absent = [n for n in NAMES if n not in present]
    yes = rng.random() < 0.5
    name = present[rng.integers(len(present))] if yes else absent[rng.integers(len(absent))]
    return Question(f"is there a {name} ?", "yes" if yes else "no", "there")


def count(scene: Scene, rng: np.random.Generator) -> Question:
    kinds = Counter(o.kind for o in scene.objects)
    kind = ("objects", *GROUPS)[rng.integers(4)]
    if kind == "objects":
        return Question("how many objects ?", COUNTS[len(scene.objects)], "count")
    return Question(f"how many {kind}s ?", COUNTS[kinds[kind]], "count")


def corner(scene: Scene, rng: np.random.Generator) -> Question | None:
    """A quarter with one object or none; not asked where anything lies near its border."""
    name = list(CORNERS)[rng.integers(4)]
    right, low = CORNERS[name]
    inside = []
    for o in scene.objects:
        x, y = (c - SIDE / 2 for c in o.centre)
        if min(abs(x), abs(y)) < 20:
            return None
        if (x > 0) == right and (y > 0) == low:
            inside.append(o.name)
    if len(inside) > 1:
        return None
    return Question(f"what is in the {name} corner ?", inside[0] if inside else "nothing", "corner")


def beside(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The only object on one side of another; not asked where any side is in doubt."""
    o = scene.objects[rng.integers(len(scene.objects))]
    side = list(SIDES)[rng.integers(4)]
    dx, dy = SIDES[side]
    found = []
    for other in scene.objects:
        along = (other.centre[0] - o.centre[0]) * dx + (other.centre[1] - o.centre[1]) * dy
        if other is not o and abs(along) < 24:
            return None
        if along > 0:
            found.append(other.name)
    if len(found) != 1:
        return None
    preposition = f"{side} of" if dx else side
    return Question(f"what is {preposition} the {o.name} ?", found[0], "beside")


def ask(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Every name and colour of the scene, two each of "is there", counts, corners and sides."""
    asked = [name_of(scene, o) for o in scene.objects] + [
        colour_of(scene, o) for o in scene.objects
    ]
    for make in (there, there, count, count, corner, corner, beside, beside):
        question = make(scene, rng)
        if question and question not in asked:
            asked.append(question)
    return asked
