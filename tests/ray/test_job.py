"""The Ray Data job with two local workers, of which one is killed."""

import os
import signal
import threading
import time
import uuid
from pathlib import Path

import pytest
import torch
from zoprune.ray import prune_images, read_shards

from tests.vllm import checkpoints

ray = pytest.importorskip("ray")
IMAGES, SHARD = 40, 4


@pytest.fixture(scope="module")
def mark():
    """A variable of the workers' environment, by which they are told from other processes."""
    mark = uuid.uuid4().hex
    environment = {"ZOPRUNE_TEST": mark, "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, f"{root}/python"])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": environment},
    )
    yield mark
    ray.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    import numpy as np
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for n in range(IMAGES):
        (folder / f"{n % 3}").mkdir(exist_ok=True)
        picture = Image.fromarray(rng.integers(0, 256, (28 + n, 40, 3), dtype=np.uint8))
        picture.save(folder / f"{n % 3}" / f"{n}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return checkpoints.llava(tmp_path_factory.mktemp("ray") / "llava")


def workers(mark):
    """Process ids of the job's own actors."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            if b"MapWorker" in command and mark.encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def kill_one(mark, output, killed):
    """As soon as the first shard is there."""
    end = time.monotonic() + 240
    while time.monotonic() < end and not killed:
        if list(output.glob("*.safetensors")):
            for process in workers(mark)[:1]:
                os.kill(process, signal.SIGKILL)
                killed.append(process)
        time.sleep(0.01)


def test_each_image_is_once_in_the_shards_although_a_worker_dies(mark, photos, llava, tmp_path):
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(mark, tmp_path, killed), daemon=True)
    killer.start()
    failed = prune_images(photos, str(llava), tmp_path, 5, shard=SHARD, dtype="float32")
    killer.join(1)
    assert killed and not failed
    names = [name for name, _ in read_shards(tmp_path)]
    expected = {f"{n % 3}/{n}.png" for n in range(IMAGES)}
    assert len(names) == IMAGES and set(names) == expected
    assert not list(tmp_path.glob(".*"))

    # the tokens are those that zoprune.prune gives a whole model
    import zoprune
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(llava)
    model = AutoModelForImageTextToText.from_pretrained(llava, dtype=torch.float32).eval()
    zoprune.prune(model, keep=5)
    for name, parts in list(read_shards(tmp_path))[:3]:
        picture = Image.open(photos / name).convert("RGB")
        inputs = processor(text=["<image>"], images=[picture], return_tensors="pt")
        with torch.no_grad():
            features = model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
            model(**inputs)
        report = zoprune.report(model)
        assert torch.equal(parts["indices"], report.kept[0].cpu())
        torch.testing.assert_close(parts["scores"], report.scores[0].float().cpu())
        torch.testing.assert_close(parts["features"], features[parts["indices"]])


def test_a_job_that_was_stopped_goes_on(mark, photos, llava, tmp_path):
    first = photos / "0"
    data = [{"id": p.name, "path": str(p)} for p in sorted(first.iterdir())]
    options = dict(keep=0.25, shard=SHARD, dtype="float32", workers=1)
    prune_images(ray.data.from_items(data[:6]), str(llava), tmp_path, **options)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(list(read_shards(tmp_path))) == 6
    bad = [{"id": "broken", "path": str(photos / "notes.txt")}, {"id": "gone", "path": "/none.png"}]
    failed = prune_images(ray.data.from_items([*data, *bad]), str(llava), tmp_path, **options)
    assert sorted(failed) == ["broken", "gone"]
    assert "UnidentifiedImageError" in failed["broken"] and "FileNotFound" in failed["gone"]
    names = [name for name, _ in read_shards(tmp_path)]
    assert sorted(names) == sorted(row["id"] for row in data)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for other in (dict(options, keep=5), dict(options, dtype="bfloat16")):
        with pytest.raises(ValueError, match="expected shards of"):
            prune_images(first, str(llava), tmp_path, **other)


def test_two_images_of_one_id_are_refused(mark, photos, llava, tmp_path):
    path = str(next((photos / "0").iterdir()))
    data = ray.data.from_items([{"id": "a", "path": path}, {"id": "a", "path": path}])
    with pytest.raises(ValueError, match="expected an id of its own for each image, got a twice"):
        prune_images(data, str(llava), tmp_path, 5, workers=1, shard=1, dtype="float32")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(keep=0), "keep: expected a count >= 1"),
        (dict(keep="64"), "keep: expected a count >= 1"),
        (dict(workers=0), "workers: expected a count >= 1, got 0"),
        (dict(shard=-1), "shard: expected a count >= 1, got -1"),
    ],
)
def test_bad_counts_are_refused_before_anything_runs(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prune_images(tmp_path, "m", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder with pictures"):
        prune_images(tmp_path, "m", tmp_path / "out")
