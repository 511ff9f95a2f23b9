"""``make soak`` in small."""

import torch

from tests import soak


def test_threads_get_the_same_bits(one_thread):
    made, wrong = soak.in_threads(4, lambda turn: turn < 1)
    assert made == 4 * len(soak.every_call()) and not wrong


def test_selections_have_a_certificate():
    assert soak.certified(3500) == (3500, [])


def test_selections_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(soak, "batch_passes", lambda number: made.append(number) or number != 3)
    state = tmp_path / "new" / "soak.json"
    assert soak.certified(1500, 0, state) == (1500, [])
    assert soak.certified(3000, 1500, state) == (3000, [3])
    assert made == [0, 1, 2, 3, 4, 5]
    assert state.read_text() == '{"selections": 1500}'


class Selected(torch.utils.data.Dataset):
    """Selections that workers make; the parent made the same before they were forked."""

    def __init__(self, scores: torch.Tensor, keys: torch.Tensor) -> None:
        self.scores, self.keys = scores, keys

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.ops.zoprune.select(self.scores[i], self.keys[i], 8)


def test_data_loader_workers_select():
    scores, keys = torch.rand(6, 63), torch.randn(6, 63, 16)
    expected = torch.ops.zoprune.select(scores, keys, 8)
    loader = torch.utils.data.DataLoader(Selected(scores, keys), batch_size=2, num_workers=2)
    assert torch.equal(torch.cat(list(loader)), expected)
