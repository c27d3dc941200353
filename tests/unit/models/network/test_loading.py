"""Where models come from and what is refused; the fake scorer; and that neither costs an import of torch."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from PIL import Image
from safetensors.torch import load_file, save_file

from scanfleet.models import factory
from scanfleet.models.errors import ModelInvalid, ModelUnavailable, unreadable
from scanfleet.models.fake import FakeScorer
from scanfleet.models.inputs.sources import folder_revision, locate
from scanfleet.models.network.base import load_base
from scanfleet.models.types import Question, Scorer
from tests.unit.models import tiny_models as tiny

QUESTION = Question(name="q", prompt="?", labels=("a", "b", "c"), flags=frozenset({"a"}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "tiny", "qwen3_vl")


def refusal(model: object, **options: Any) -> str:
    with pytest.raises(ModelInvalid) as caught:
        load_base(str(model), device="cpu", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_that_leads_nowhere_says_what_can_be_given(tmp_path: Path) -> None:
    assert "'pocket', an existing folder or a hub id" in refusal(tmp_path / "absent")
    assert "'pocket', an existing folder or a hub id" in refusal("qwen")
    assert "config.json is missing" in refusal(tmp_path)


def test_an_unsupported_family_is_named_with_those_that_are(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    message = refusal(folder)
    assert "llama" in message
    assert "qwen2_5_vl, qwen2_vl, qwen3_vl" in message


def test_an_unknown_precision_is_named(folder: Path) -> None:
    assert "auto, fp32, bf16, nf4, int8" in refusal(folder, precision="fp4")


def test_a_pickled_checkpoint_is_never_opened(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "cannot be loaded" in refusal(folder, precision="fp32")


@pytest.mark.parametrize("opening", ["<think>\n", "<|thinking|>", "◁think▷", "<seed:think>"])
def test_a_checkpoint_that_thinks_aloud_first_is_refused_by_name(folder: Path, opening: str) -> None:
    template = (folder / "chat_template.jinja").read_text()
    assert "assistant\n" in template
    (folder / "chat_template.jinja").write_text(template.replace("assistant\n", f"assistant\n{opening}"))
    assert f"{folder} thinks aloud first: take its -Instruct checkpoint" in refusal(folder)


def test_a_checkpoint_whose_thought_is_closed_answers_at_once(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text()
    closed = "assistant\n<think>\n\n</think>\n\n"
    (folder / "chat_template.jinja").write_text(template.replace("assistant\n", closed))
    base = load_base(str(folder), precision="fp32", device="cpu")
    assert base.processor.prompt(QUESTION).turn.text.endswith("</think>\n\n")


def test_missing_weights_are_refused_and_not_filled_with_noise(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.language_model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "layers.1.mlp.up_proj.weight" in refusal(folder, precision="fp32")


def test_damaged_weights_are_refused(folder: Path) -> None:
    body = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(body[: len(body) // 2])
    assert "cannot be loaded" in refusal(folder, precision="fp32")


def test_a_failing_disk_can_be_tried_again_and_a_missing_file_cannot() -> None:
    assert isinstance(unreadable("x", OSError(errno.EIO, "Input/output error")), ModelUnavailable)
    assert isinstance(unreadable("x", FileNotFoundError(errno.ENOENT, "gone")), ModelInvalid)
    assert isinstance(unreadable("x", OSError("transformers found no file")), ModelInvalid)


def test_bitsandbytes_that_is_missing_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what an absent package looks like to `import`
    assert "pip install -c constraints.txt '.[worker]'" in refusal(folder, precision="nf4")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(ModelInvalid, match="no CUDA device"):
        load_base(str(folder), precision="fp32", device="cuda")


def test_code_in_a_checkpoint_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForImageTextToText": "evil.Model", "AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()")
    scorer = factory.scorer(load_base(str(folder), precision="fp32", device="cpu"), QUESTION)
    assert len(scorer.score([scorer.prepare(tiny.picture(64, 64, 1))])) == 1
    assert not (folder / "ran").exists()


def test_the_revision_of_a_folder_follows_its_weights_and_settings(folder: Path) -> None:
    before = folder_revision(folder)
    (folder / "README.md").write_text("words")
    assert folder_revision(folder) == before
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config + "\n")
    assert folder_revision(folder) != before
    (folder / "config.json").write_text(config)
    assert folder_revision(folder) == before


def test_a_pinned_folder_that_changed_is_refused(folder: Path) -> None:
    found = locate(str(folder))
    assert locate(str(folder), revision=found.revision) == found
    with pytest.raises(ModelInvalid, match="not the pinned"):
        locate(str(folder), revision="sha256:0")


def test_a_hub_that_cannot_be_reached_can_be_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelUnavailable, match="cannot fetch owner/name") as caught:
        locate("owner/name")
    assert "\n" not in str(caught.value)


def test_the_hub_gives_a_folder_and_a_commit(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked: dict[str, Any] = {}

    def snapshot(repo_id: str, **options: Any) -> str:
        asked.update(options, repo_id=repo_id)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    found = locate("owner/name", revision="main")
    assert (found.name, found.revision) == ("owner/name", folder.name)
    assert not any(pattern.endswith((".py", ".bin", ".pt")) for pattern in asked["allow_patterns"])


def test_a_repository_the_hub_does_not_have_is_permanent(monkeypatch: pytest.MonkeyPatch) -> None:
    response = type("Response", (), {"headers": {}, "request": None})()

    def absent(*_: object, **__: object) -> str:
        raise RepositoryNotFoundError("404", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    with pytest.raises(ModelInvalid, match="the hub has no owner/name"):
        locate("owner/name")

    def away(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no connection\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    with pytest.raises(ModelUnavailable, match=r"no connection$"):
        locate("owner/name")


def test_the_fake_scores_by_content_alone_and_in_any_company() -> None:
    scorer: FakeScorer = FakeScorer(question=QUESTION)
    as_protocol: Scorer = scorer
    assert as_protocol.identity.base_model == "fake"
    items = [scorer.prepare(tiny.picture(40, 30, i)) for i in range(50)]
    alone = [scorer.score([item])[0] for item in items]
    assert scorer.score(items[::-1]) == alone[::-1]
    assert FakeScorer(question=QUESTION).score(items) == alone
    margins = [reading.margin for reading in alone]
    assert len(set(margins)) == 50
    assert min(margins) < 0 < max(margins)
    assert scorer.calls[-1] == 50


def test_the_fake_tells_images_sizes_and_questions_apart() -> None:
    red, blue = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")
    scorer = FakeScorer(question=QUESTION)
    digests = {scorer.prepare(image).digest for image in (red, blue, red.resize((9, 8)))}
    other = FakeScorer(question=Question(name="r", prompt="?", labels=("a", "b"), flags=frozenset({"a"})))
    assert len(digests | {other.prepare(red).digest}) == 4


def test_a_fake_without_flags_has_the_best_label_against_the_rest() -> None:
    question = Question(name="k", prompt="?", labels=("a", "b"), flags=frozenset())
    scorer = FakeScorer(question=question)
    (found,) = scorer.score([scorer.prepare(Image.new("RGB", (8, 8)))])
    assert found.margin == pytest.approx(abs(found.logits[0] - found.logits[1]))


def test_the_light_half_of_the_library_imports_no_torch() -> None:
    names = (
        "models, scanfleet.models.types, scanfleet.models.fake, scanfleet.models.errors, "
        "scanfleet.models.adapters.card, scanfleet.models.adapters.calibration, scanfleet.models.inputs.prompts"
    )
    check = f"import sys, {names}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_automatic_precision_is_named_in_the_identity(folder: Path) -> None:
    on_cpu = load_base(str(folder), device="cpu")
    assert factory.scorer(on_cpu, QUESTION).identity.precision == "fp32"
    assert on_cpu.network.dtype == torch.float32
