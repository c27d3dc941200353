"""A real vLLM with the pocket weights and an adapter: its answers are those of the same weights here.

vLLM needs another transformers than ours, so `BENCH_VLLM` names a Python that has it (docs/benchmarks.md#vllm).
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.asking.vllm_rounds import SETTINGS
from scanfleet.config.settings import load_settings
from scanfleet.models import factory, pocket
from scanfleet.models.adapters.card import AdapterCard, LoraSettings
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.network.lora import add_lora, save_lora, take_out
from scanfleet.models.pocket.questions import OVERLAY
from scanfleet.models.pocket.scenes import CHECKS
from scanfleet.worker.scoring.endpoint import load_endpoint

PYTHON = os.environ.get("BENCH_VLLM", "")
VLLM = Path(PYTHON).parent / "vllm"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON or not VLLM.is_file(), reason="BENCH_VLLM names no Python that has vLLM"),
]
# The order that the pocket model learnt, in which no spelling of a letter that counts is left unlisted.
QUESTION = replace(OVERLAY, order="instruction-first")
READY = "Application startup complete."
BOUND = 1e-3  # logits: two programs that compute in fp32, in another order of summation
N_TOKENS = 12


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base("pocket", precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def adapter(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the language model that moves every margin."""
    folder = tmp_path_factory.mktemp("adapters") / "drawn"
    lora = LoraSettings(r=8, lora_alpha=16, target_modules=("q_proj", "v_proj", "down_proj"))
    model = add_lora(base.network, lora, name="default")
    torch.manual_seed(1)
    for name, tensor in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(tensor, std=0.02)
    card = AdapterCard(name="drawn", question=QUESTION, base_model="pocket", base_revision=base.checkpoint.revision)
    save_lora(folder, model, card=card, lora=lora)
    take_out(base.network)
    return folder


@pytest.fixture(scope="module")
def url(adapter: Path) -> Iterator[str]:
    """The address of a vLLM that serves `pocket` and `drawn`."""
    port = "18173"
    options = {
        "--host": "127.0.0.1", "--port": port, "--dtype": "float32", "--max-model-len": "1024", "--max-num-seqs": "8",
        "--max-logprobs": "20", "--served-model-name": "pocket", "--lora-modules": f"drawn={adapter}",
    }  # fmt: skip
    command = [str(VLLM), "serve", str(pocket.folder()), "--enforce-eager", "--enable-lora"]
    command += [word for pair in options.items() for word in pair]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= SETTINGS | {"VLLM_LOGGING_LEVEL": "INFO"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            said = []
            while READY not in (line := process.stdout.readline()):
                said.append(line)
                assert line, "vLLM ended: " + "".join(said[-20:])
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.stdout.read()


def pictures() -> list[Image.Image]:
    return [CHECKS["overlay"].draw(31, number, *size).image for number, size in enumerate([(128, 128), (256, 192)] * 3)]


@pytest.mark.parametrize("name", ["pocket", "drawn"])
def test_margins_and_explanations_are_those_of_the_same_weights_here(
    tmp_path: Path, url: str, base: BaseModel, adapter: Path, name: str
) -> None:
    folder = adapter if name == "drawn" else None
    here, explains = (
        factory.scorer(base, QUESTION, folder),
        factory.explainer(base, QUESTION, folder, max_new_tokens=N_TOKENS),
    )
    near = here.score(prepared := [here.prepare(image) for image in pictures()])
    wrote = explains.explain([explains.job(*each) for each in zip(prepared, near, strict=True)])
    settings = load_settings(
        data_dir=tmp_path,
        model=f"endpoint:{name}",
        endpoint_url=url,
        endpoint_timeout_seconds=60,
        endpoint_patience_seconds=90,
    )
    model = load_endpoint(settings)
    try:
        there, explainer = model.scorer(QUESTION, None), model.explainer(QUESTION, None, tokens=N_TOKENS)
        sent = [there.prepare(image) for image in pictures()]
        far = there.score(sent)
        told = explainer.explain([explainer.job(*each) for each in zip(sent, far, strict=True)], heartbeat=lambda: None)
    finally:
        model.close()
    assert [reading.margin for reading in far] == pytest.approx([reading.margin for reading in near], abs=BOUND)
    assert len({each.text for each in wrote}) > 1, "texts that do not look at the image would prove nothing"
    assert [each.text for each in told] == [each.text for each in wrote]
