"""Two processes that run one function, as ``torchrun`` starts them, on CPUs with gloo."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import traceback

RANKS = 2
PATIENCE = 300  # seconds; only what hangs for good takes as long


class Ranks:
    """Processes that wait for functions; ``run`` gives what each rank returned."""

    def __init__(self, folder):
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(RANKS):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, str(folder / "store"), theirs), daemon=True
            )
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, function, *args):
        if not all(process.is_alive() for process in self.processes):
            raise RuntimeError("a rank ended in an earlier test")
        for pipe in self.pipes:
            pipe.send((function, args))
        results = []
        for rank, pipe in enumerate(self.pipes):
            try:
                failed, result = pipe.recv() if pipe.poll(PATIENCE) else (True, "it hangs")
            except EOFError:
                failed, result = True, "it ended"
            if failed:
                self.end()  # the ranks no longer agree on what comes next
                raise AssertionError(f"rank {rank}: {result}")
            results.append(result)
        return results

    def end(self):
        for process in self.processes:
            process.kill()
            process.join()


def _serve(rank, store, pipe):
    import torch

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=PATIENCE),
    )
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = (False, function(rank, *args))
        except BaseException:
            answer = (True, traceback.format_exc())
        pipe.send(answer)
