"""InstructBLIP: what it refuses, and whose template it follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scanfleet.models import factory
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.network.base import load_base
from scanfleet.models.types import Question
from tests.unit.models.checkpoints import TINY
from tests.unit.models.tiny_models import picture

QUESTION = Question(name="q", prompt="Is it red?", labels=("yes", "no"), flags=frozenset({"yes"}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return TINY["instructblip"].checkpoint(tmp_path / "tiny")


def test_a_text_model_with_an_encoder_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] = {"model_type": "t5"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match="t5") as caught:
        load_base(str(folder), precision="fp32", device="cpu")
    assert "\n" not in str(caught.value)


def test_a_question_longer_than_the_q_former_reads_is_refused(folder: Path) -> None:
    long = Question(name="q", prompt="red or blue? " * 60, labels=("yes", "no"), flags=frozenset({"yes"}))
    scorer = factory.scorer(load_base(str(folder), precision="fp32", device="cpu"), long)
    with pytest.raises(ModelInvalid, match="512"):
        scorer.score([scorer.prepare(picture(60, 60, 1))])


def test_a_text_only_template_of_the_tokenizer_is_not_followed(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}USER: {{ m['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    scorer = factory.scorer(load_base(str(folder), precision="fp32", device="cpu"), QUESTION)
    assert scorer.prompt.turn.before == ()
    assert scorer.prompt.turn.text.startswith("<image><s> Is it red?\n")
