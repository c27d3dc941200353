"""The other side of `bench.asking.against_vllm`: runs under the Python that has vLLM, and knows none of our code.

A line of JSON on stdin is a round, a line on stdout its answer. From the bytes of files to label logprobs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def cpu_seconds(root: int, *, without: int | None = None) -> float:
    """Return the processor time of a process and its descendants so far, without one of these and its own."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(path.parent.name)], ticks[int(path.parent.name)] = int(words[1]), sum(map(int, words[11:13]))
    counted = {pid for pid in ticks if _below(pid, root, parents) and not (without and _below(pid, without, parents))}
    return sum(ticks[pid] for pid in counted) / os.sysconf("SC_CLK_TCK")


def _below(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid and pid != root:
        pid = parents.get(pid, 0)
    return pid == root


def main() -> None:
    os.environ.update(SETTINGS)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no answer
    from vllm import LLM, SamplingParams

    given = json.loads(sys.stdin.readline())
    llm = LLM(
        model=given["model"],
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=64,
        max_num_batched_tokens=8192,
        max_model_len=1024,
        mm_processor_kwargs={"min_pixels": given["min_pixels"], "max_pixels": given["max_pixels"]},
        limit_mm_per_prompt={"image": 1, "video": 0},
        max_logprobs=20,
    )
    sampling = SamplingParams(max_tokens=1, logprobs=20, temperature=0)
    _send(answers, {})
    for line in sys.stdin:
        asked = json.loads(line)
        before, start = cpu_seconds(os.getpid()), time.perf_counter()
        outputs = llm.generate(_requests(asked), sampling, use_tqdm=False)
        logprobs = [_listed(output, asked["ids"]) for output in outputs]
        wall, cpu = time.perf_counter() - start, cpu_seconds(os.getpid()) - before
        _send(answers, {"wall": wall, "cpu": cpu, "logprobs": logprobs})


def _requests(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the questions about each image, one image after the other."""
    from PIL import Image

    found = []
    for path in asked["files"]:
        image = Image.open(path).convert("RGB")
        found += [{"prompt": prompt, "multi_modal_data": {"image": image}} for prompt in asked["prompts"]]
    return found


def _listed(output: Any, ids: list[int]) -> list[float | None]:
    found = output.outputs[0].logprobs[0]
    return [found[token].logprob if token in found else None for token in ids]


def _send(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
