"""Shards: written whole, found again, and not mixed with another job's."""

import pytest
import torch
from zoprune.ray.shards import finished, read_shards, write_shard

MAKER = {"checkpoint": "m", "keep": 3, "method": "sads"}


def image(k=3):
    return {
        "features": torch.randn(k, 5, dtype=torch.bfloat16),
        "indices": torch.arange(k),
        "scores": torch.rand(9),
    }


def test_what_is_written_is_read(tmp_path):
    images = {f"{n}.png": image(n + 1) for n in range(5)}
    first, second = list(images.items())[:3], list(images.items())[3:]
    for batch in (first, second, first):  # the first once more, as a worker does that was restarted
        write_shard(tmp_path, batch, MAKER)
    assert len(list(tmp_path.iterdir())) == 2
    assert set(finished(tmp_path, MAKER)) == set(images)
    found = list(read_shards(tmp_path))
    assert len(found) == 5
    for name, parts in found:
        assert all(torch.equal(parts[part], images[name][part]) for part in images[name])


def test_drafts_are_removed_and_do_not_count(tmp_path):
    write_shard(tmp_path, [("a", image())], MAKER)
    (tmp_path / ".0123-draft").write_bytes(b"half")
    assert set(finished(tmp_path, MAKER)) == {"a"}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("change", [{"keep": 4}, {"checkpoint": "n"}, {"method": "topk"}])
def test_another_jobs_shards_are_refused(tmp_path, change):
    write_shard(tmp_path, [("a", image())], MAKER)
    with pytest.raises(ValueError, match="zoprune: output: expected shards of"):
        finished(tmp_path, MAKER | change)
