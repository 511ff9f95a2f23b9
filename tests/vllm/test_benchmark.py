"""The benchmark's ratios are those of the same round, and docs/vllm.md shows what was measured."""

from types import SimpleNamespace

from benchmarks import readme, vllm


def engine(keep, speeds, tokens):
    rounds = [
        dict(
            requests_per_second=s,
            first_token_seconds=3 / s,
            lengths=[tokens],
            kv_blocks=tokens // 32,
        )
        for s in speeds
    ]
    return SimpleNamespace(keep=keep, rounds=rounds)


def rows():
    unpruned = engine(None, [1.0, 4.0, 2.0], 616)
    pruned = engine(64, [2.0, 12.0, 8.0], 104)
    return [vllm.summary(each, unpruned) for each in (unpruned, pruned)]


def test_ratios_are_of_the_same_round():
    unpruned, pruned = rows()
    assert unpruned["requests_per_second_ratio"] == 1
    assert pruned["requests_per_second_ratio"] == 3
    assert pruned["first_token_seconds_spread"] == [2, 4]
    assert pruned["requests_per_second"] == 8 and "refused" not in pruned
    assert "3.00x, first token 3.00x" in vllm.line(pruned)


def test_a_prompt_of_another_length_is_refused():
    row = vllm.summary(engine(64, [1.0], 616), engine(None, [1.0], 616))
    assert row["refused"] == "prompts of [616] tokens, not of 104"
    assert "REFUSED" in vllm.line(row)


def test_the_document_shows_the_result(tmp_path):
    assert vllm.document([]) == "Not measured yet."
    setting = dict(vllm="0.32.0", model="LLaVA-1.5", layers=2, rounds=3, load=5.6)
    machine = dict(device="cpu", name="A CPU", torch="2.13", cores=2, date="2026-11-26T19:20")
    text = vllm.document([dict(machine=machine, setting=setting, rows=rows())])
    assert "| keep 64 | 104 | 3 | 3.0x (2.0 to 4.0) | 3.0x (2.0 to 4.0) |" in text
    assert "| unpruned | 616 | 19 | 1x | 1x |" in text and "load average 6 on 2 cores" in text
    assert readme.VLLM.read_text().count(readme.BEGIN) == 1
    (tmp_path / "vllm-a-cpu.json").write_text("{}")  # no row of the README's own table
    assert readme.load(tmp_path)[""] == []
