"""Adapters merged into the weights while they are active, and the base as it was, to the last bit, afterwards."""

from __future__ import annotations

import gc
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from scanfleet.models import factory
from scanfleet.models.adapters.card import AdapterCard, LoraSettings
from scanfleet.models.families import FAMILIES
from scanfleet.models.network.base import BaseModel, Precision, load_base
from scanfleet.models.network.lora import add_lora, save_lora
from scanfleet.models.network.merging import adapted_layers
from scanfleet.models.scoring.prefill import PrefillScorer
from scanfleet.models.types import Question
from tests.unit.models import tiny_models as tiny

QUESTION = Question(
    name="overlay",
    prompt="Is there text?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    max_pixels=100 * 100,
)
STD = 0.1
LORA = LoraSettings(r=4, lora_alpha=8, target_modules=FAMILIES["qwen3_vl"].language_linear)
ADDED = re.compile(r"\.lora_|\.modules_to_save\.")  # what adapters bring along
# Of a margin, in logits, between an adapter in the weights and beside them. In bf16 the sum W + s·B·A is rounded to 8
# bits of mantissa, which a random tiny model with margins of several logits shows plainly.
CLOSE = {"fp32": 1e-4, "bf16": 0.1}


def use(base: BaseModel, adapter_sha256: str | None) -> None:
    """A forward's turn, without a forward."""
    with base.using(adapter_sha256):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"), "qwen3_vl")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("adapters")
    attention = LORA.model_copy(update={"target_modules": ("q_proj", "v_proj")})
    return make_adapter(root / "one", folder, seed=1), make_adapter(root / "two", folder, seed=2, lora=attention)


@pytest.fixture
def base(folder: Path) -> BaseModel:
    return load(folder)


def load(folder: Path, precision: Precision = "fp32", *, merges: bool = True) -> BaseModel:
    base = load_base(str(folder), precision=precision, device="cpu")
    base.merges = merges
    return base


def make_adapter(into: Path, folder: Path, *, seed: int, lora: LoraSettings = LORA) -> Path:
    """Random factors, strong enough to move every margin of the tiny model, and a changed copy of whole modules."""
    base = load(folder)
    model = add_lora(base.network, lora, name="default")
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(tensor, std=STD)
            elif "modules_to_save" in key:
                tensor.mul_(1.5)
    card = AdapterCard(
        name=f"seed {seed}", question=QUESTION, base_model="tiny", base_revision=base.checkpoint.revision
    )
    save_lora(into, model, card=card, lora=lora)
    return into


def margins(scorer: PrefillScorer) -> list[float]:
    images = [scorer.prepare(tiny.picture(90, 60, i)) for i in range(3)]
    return [reading.margin for reading in scorer.score(images)]


def digest(base: BaseModel) -> str:
    """SHA-256 over every parameter and buffer of the base, under the names it was loaded with.

    Not from `state_dict()`, which itself changes 4-bit weights on some CPUs.
    """
    tensors = [*base.network.named_parameters(), *base.network.named_buffers()]
    tensors += [
        (f"{path}.weight.{part}", value)
        for path, module in base.network.named_modules()
        if (state := getattr(module, "quant_state", None) or getattr(module, "state", None)) is not None
        for part, value in sorted(vars(state).items())
        if isinstance(value, torch.Tensor)
    ]
    kept = {_plain(path): value for path, value in tensors if not ADDED.search(path)}
    found = hashlib.sha256()
    for path in sorted(kept):
        found.update(path.encode() + kept[path].detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _plain(path: str) -> str:
    return path.replace(".base_layer", "").replace(".original_module", "")


def name_of(scorer: PrefillScorer) -> str:
    assert scorer.identity.adapter_sha256 is not None
    return scorer.identity.adapter_sha256


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_merged_scores_as_unmerged_in_every_family(tmp_path: Path, family: str, precision: Precision) -> None:
    folder = tiny.checkpoint(tmp_path / "base", family)
    lora = LORA.model_copy(update={"target_modules": FAMILIES[family].language_linear})
    adapter = make_adapter(tmp_path / "adapter", folder, seed=1, lora=lora)
    base, beside = load(folder, precision), load(folder, precision, merges=False)
    untouched = digest(base)
    merged, unmerged = factory.scorer(base, QUESTION, adapter), factory.scorer(beside, QUESTION, adapter)
    assert margins(merged) == pytest.approx(margins(unmerged), abs=CLOSE[precision])
    assert digest(base) != untouched == digest(beside)
    alone = margins(factory.scorer(base, QUESTION))
    assert digest(base) == untouched
    assert alone == margins(factory.scorer(beside, QUESTION))
    assert margins(merged) != pytest.approx(alone, abs=CLOSE[precision])


def test_the_sum_is_rounded_once(folder: Path, adapters: tuple[Path, Path]) -> None:
    base = load(folder, "bf16")
    plain = {path: weight.float() for path, weight in base.network.named_parameters()}
    scorer = factory.scorer(base, QUESTION, adapters[0])
    use(base, name_of(scorer))
    layers = list(adapted_layers(base.network, name_of(scorer)))
    assert len(layers) == 14
    for path, layer in layers:
        factors = [part[name_of(scorer)].weight.double() for part in (layer.lora_B, layer.lora_A)]
        exact = plain[f"{path}.weight"].double() + 2.0 * factors[0] @ factors[1]
        weight = layer.get_base_layer().weight
        assert weight.dtype == torch.bfloat16
        # Half a step of bf16, and a little of fp32: two roundings could come to more.
        assert ((weight.double() - exact).abs() <= exact.abs() * 2**-8 * 1.001 + 1e-6).all()


def test_two_adapters_take_turns_and_each_comes_back_to_the_same_bits(
    base: BaseModel, adapters: tuple[Path, Path]
) -> None:
    alone, one, two = factory.scorer(base, QUESTION), *(factory.scorer(base, QUESTION, adapter) for adapter in adapters)
    seen: dict[PrefillScorer, set[tuple[str, tuple[float, ...]]]] = {}
    for scorer in (alone, one, two, one, alone, two, alone, one, two, two, one):
        found = tuple(margins(scorer))
        seen.setdefault(scorer, set()).add((digest(base), found))
    assert [len(states) for states in seen.values()] == [1, 1, 1]
    assert len(set.union(*seen.values())) == 3
    beside = load(Path(base.checkpoint.folder), merges=False)
    for scorer, adapter in zip((one, two), adapters, strict=True):
        ((_, found),) = seen[scorer]
        assert found == pytest.approx(margins(factory.scorer(beside, QUESTION, adapter)), abs=CLOSE["fp32"])


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_over_quantised_weights_an_adapter_stays_beside_them(
    folder: Path, adapters: tuple[Path, Path], precision: Precision
) -> None:
    base = load(folder, precision)
    untouched = digest(base)
    alone = margins(factory.scorer(base, QUESTION))
    assert digest(base) == untouched  # no forward changes anything: several threads may run it
    one = factory.scorer(base, QUESTION, adapters[0])
    assert margins(one) != alone
    assert digest(base) == untouched
    assert margins(factory.scorer(base, QUESTION)) == alone
    assert "plain LoRA" in base.unmerged[name_of(one)]


@pytest.mark.parametrize(
    ("change", "merged"),
    [
        ({"use_rslora": True}, True),
        ({"modules_to_save": ("visual.merger",)}, True),
        ({"target_modules": ("q_proj", "embed_tokens")}, False),
    ],
)
def test_other_forms_are_merged_or_stay_beside_the_weights_and_score_the_same(
    base: BaseModel, folder: Path, tmp_path: Path, change: dict[str, Any], merged: bool
) -> None:
    adapter = make_adapter(tmp_path, folder, seed=3, lora=LORA.model_copy(update=change))
    untouched, alone = digest(base), margins(factory.scorer(base, QUESTION))
    scorer = factory.scorer(base, QUESTION, adapter)
    beside = load(folder, merges=False)
    expected = margins(factory.scorer(beside, QUESTION, adapter))
    assert margins(scorer) == pytest.approx(expected, abs=CLOSE["fp32"])
    assert expected != pytest.approx(alone, abs=1e-2)
    assert (name_of(scorer) not in base.unmerged) is merged
    assert (digest(base) != untouched) is merged
    assert margins(factory.scorer(base, QUESTION)) == alone
    assert digest(base) == untouched


def test_a_weight_that_two_layers_share_is_not_merged_into(base: BaseModel, adapters: tuple[Path, Path]) -> None:
    first, second = (layer.self_attn for layer in base.network.model.language_model.layers)
    second.q_proj.weight = first.q_proj.weight
    one = factory.scorer(base, QUESTION, adapters[0])
    assert "shares its weight" in base.unmerged[name_of(one)]


def test_a_merge_that_breaks_off_leaves_the_base_as_it_was(base: BaseModel, adapters: tuple[Path, Path]) -> None:
    alone, one, two = factory.scorer(base, QUESTION), *(factory.scorer(base, QUESTION, adapter) for adapter in adapters)
    before, first, second = margins(alone), margins(one), margins(two)
    use(base, name_of(one))
    *_, (_, last) = adapted_layers(base.network, name_of(one))
    use(base, None)
    untouched = digest(base)
    factor = last.lora_B[name_of(one)].weight
    sound = factor.data
    for active, expected in ((alone, before), (two, second)):
        factor.data = sound
        assert margins(active) == expected
        factor.data = torch.zeros(3, 3)  # a product that cannot be computed, after all others were
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            margins(one)
        assert digest(base) == untouched
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            margins(one)  # what broke off is not taken for done
        assert margins(active) == expected
    factor.data = sound
    assert margins(one) == first
    assert margins(alone) == before


def test_an_adapter_that_is_released_or_loaded_while_one_is_merged(
    base: BaseModel, adapters: tuple[Path, Path]
) -> None:
    untouched, alone = digest(base), factory.scorer(base, QUESTION)
    before = margins(alone)
    one = factory.scorer(base, QUESTION, adapters[0])
    first = margins(one)
    two = factory.scorer(base, QUESTION, adapters[1])  # the first is merged at this moment
    second = margins(two)
    base.release(name_of(two))
    assert digest(base) == untouched
    assert margins(one) == first
    base.release(name_of(one))
    assert digest(base) == untouched
    assert margins(alone) == before
    assert margins(factory.scorer(base, QUESTION, adapters[1])) == second


@pytest.mark.slow
def test_memory_stays_flat_over_many_swaps(base: BaseModel, adapters: tuple[Path, Path]) -> None:
    scorers = [factory.scorer(base, QUESTION), *(factory.scorer(base, QUESTION, adapter) for adapter in adapters)]

    def held_after(lock: int) -> int:
        for _ in range(lock):
            for scorer in scorers:
                use(base, scorer.identity.adapter_sha256)
        gc.collect()
        storages = {
            each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
            for each in gc.get_objects()
            if type(each) in (torch.Tensor, torch.nn.Parameter)
        }
        return sum(storages.values())

    once = held_after(1)
    assert held_after(30) == once
    use(base, None)
    for scorer in scorers[1:]:
        base.release(name_of(scorer))
    assert held_after(0) < once
