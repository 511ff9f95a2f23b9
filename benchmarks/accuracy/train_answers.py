"""Second stage of ``make train``: projector and language model learn to answer.

All questions of a picture share its 576 visual tokens in one forward pass and do not see one
another. The tower is frozen at first, then learns along with them, more slowly.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from transformers import LlavaForConditionalGeneration

from . import compose, questions, scenes, tower
from . import model as small
from .train_tower import MEASUREMENTS, share
from .training import Training

FROZEN = 0.25  # of the time, the tower does not learn
AMONG = {"names": 3, "colours": 3, "there": 2, "count": 3, "corner": 3, "beside": 3}
DEVELOPMENT = 256  # pictures


def look(model: LlavaForConditionalGeneration, layout: scenes.Layout, learn: bool) -> Tensor:
    """Visual tokens [B, 576, hidden], as the projector makes them."""
    pixels = tower.scaled(compose.render(layout))
    with torch.set_grad_enabled(learn and torch.is_grad_enabled()):
        features = model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
    return model.model.multi_modal_projector(features)


def losses(
    model: LlavaForConditionalGeneration, layout: scenes.Layout, asked: questions.Asked, learn: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.autocast(layout.name.device.type, torch.bfloat16):
        images = look(model, layout, learn)
        logits = small.ask(model, images, asked.words, asked.starts[None])
    loss = F.cross_entropy(logits.flatten(0, 1).float(), asked.targets.flatten())
    with torch.no_grad():
        right, due = logits.argmax(-1) == asked.targets, small.is_answer(asked.targets)
        found = {"right": share(right.float(), due)}
        for kind, columns in asked.columns.items():
            found[kind] = share(right[:, columns].float(), due[:, columns])
    return loss, found


def train(
    folder: Path, seconds: float, size: int, *, device: str, rate: float, light: bool
) -> None:
    """Trains for ``seconds``, ``size`` pictures a step; writes ``folder``/answers.pt."""
    torch.manual_seed(0)
    model = small.build().to(device)
    trained = torch.load(folder / "tower.pt", weights_only=True, map_location=device)
    model.model.vision_tower.load_state_dict(trained["model"])
    training = Training(
        folder, "answers", {"model": model}, seconds, rate, slow="vision_tower", light=light
    )
    loose = trained["heads"]["reached"].item()
    generator, measured = Generator(device), training.seconds
    for step in training:
        generator.manual_seed(10**6 + step)
        layout = scenes.draw(generator, "train", size, loose)
        asked = questions.ask(layout, generator, AMONG)
        training.update(*losses(model, layout, asked, training.done > FROZEN))
        if training.seconds - measured > training.limit / MEASUREMENTS:
            measure(training, model, loose, device)
            measured = training.seconds
    measure(training, model, loose, device)


@torch.no_grad()
def measure(
    training: Training, model: LlavaForConditionalGeneration, loose: float, device: str
) -> None:
    generator = Generator(device).manual_seed(0)
    layout = scenes.draw(generator, "dev", DEVELOPMENT, loose)
    loss, found = losses(model, layout, questions.ask(layout, generator), False)
    training.note({"loss": loss.item()} | {k: v.item() for k, v in found.items()}, "dev")
