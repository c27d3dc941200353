"""Model names: a mistyped one must not create a scan that no worker ever scores."""

from pathlib import Path

import pytest

from scanfleet.config.model_names import BUILTIN_MODELS, FAKE_MODELS, require_address, require_model
from scanfleet.config.settings import load_settings
from scanfleet.errors import BadSettings
from scanfleet.models.inputs.sources import POCKET
from scanfleet.worker.scoring.model import load_model


def test_the_names_are_those_that_the_worker_knows(tmp_path: Path) -> None:
    assert BUILTIN_MODELS == (POCKET,)
    for name in FAKE_MODELS:
        assert load_model(load_settings(data_dir=tmp_path, model=name)).identity.base_model == name


@pytest.mark.parametrize("name", ["pocket", *FAKE_MODELS, "Qwen/Qwen3-VL-4B-Instruct", "a/b.c_d-e"])
def test_what_a_worker_may_load_is_taken(name: str) -> None:
    require_model(name, elsewhere=False)


@pytest.mark.parametrize("name", ["pockt", "Pocket", "", "Qwen3-VL-4B", "./none", "/none/such", "a/b/c", "a/", "a b/c"])
def test_what_no_worker_can_load_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(BadSettings) as caught:
        require_model(name, elsewhere=False)
    assert "pocket" in str(caught.value)
    assert ("did you mean pocket?" in str(caught.value)) == (name in ("pockt", "Pocket"))


def test_a_folder_may_lie_on_the_workers_machines_only(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"config\.json is missing"):
        require_model(str(tmp_path), elsewhere=False)
    (tmp_path / "config.json").write_text("{}")
    require_model(str(tmp_path), elsewhere=False)
    require_model(str(tmp_path / "none"), elsewhere=True)
    with pytest.raises(BadSettings):
        require_model("none/such/folder", elsewhere=True)


def test_a_model_at_an_endpoint_needs_its_address(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="endpoint_url"):
        require_address(load_settings(data_dir=tmp_path, model="endpoint:gpt-4o"))
    require_address(load_settings(data_dir=tmp_path, model="endpoint:gpt-4o", endpoint_url="https://host/v1"))
    require_address(load_settings(data_dir=tmp_path, model="pocket"))
