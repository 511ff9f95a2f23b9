"""Slow proofs run when what they prove has changed, and only then."""

from types import SimpleNamespace

import pytest

from tests import proofs

PATHS = ("sources", "test_proof.py")


@pytest.fixture
def item(tmp_path, monkeypatch):
    """A slow proof of a folder."""
    monkeypatch.setattr(proofs, "ROOT", tmp_path)
    monkeypatch.setattr(proofs, "RECORD", tmp_path / "proofs.json")
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "kernel.cu").write_text("one")
    (tmp_path / "test_proof.py").touch()
    marker = pytest.mark.proves("sources").mark
    return SimpleNamespace(path=tmp_path / PATHS[-1], get_closest_marker=lambda _: marker)


def record(*outcomes: str) -> None:
    recorder = proofs.Recorder()
    for outcome in outcomes:
        for when in ("setup", "call", "teardown"):
            failed, passed = outcome == f"{when} failed", outcome == "passed"
            properties = [("proves", list(PATHS))]
            recorder.add(
                SimpleNamespace(when=when, failed=failed, passed=passed, user_properties=properties)
            )
    recorder.write()


def runs(item) -> bool:
    proofs.digest.cache_clear()
    other = SimpleNamespace(path=item.path, get_closest_marker=lambda _: None)
    items = [other, item]
    dropped = proofs.drop_proved(items)
    assert items[0] is other and len(items) + len(dropped) == 2
    return item in items


@pytest.mark.parametrize("changed", ["sources/kernel.cu", "test_proof.py", "sources/new.h"])
def test_a_proof_runs_again_only_when_its_content_has_changed(item, changed):
    assert runs(item)  # nothing is recorded
    record("passed", "passed")
    assert proofs.recorded()["test_proof.py"]["passed"] == 2
    assert not runs(item)
    (proofs.ROOT / changed).write_text("two")
    assert runs(item)


@pytest.mark.parametrize("outcome", ["call failed", "setup failed", "skipped"])
def test_what_did_not_pass_is_not_recorded(item, outcome):
    record(outcome, *["passed"] * (outcome != "skipped"))
    assert proofs.recorded() == {} and runs(item)
