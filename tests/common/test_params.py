"""params.yaml: what `dvc exp run -S` writes is understood, and what is wrong is one line that names the key."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.parts.errors import UserError
from stages.common import licences
from stages.common.params import GateParams, Params, load_params

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
TRAINED = "cosyvoice3"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def with_changes(folder: Path, changes: dict[str, str]) -> Path:
    """params.yaml with the text of some values replaced (dotted key -> YAML text), as a person or DVC would."""
    values = deepcopy(SETTINGS)
    for key, text in changes.items():
        *blocks, last = key.split(".")
        place = values
        for block in blocks:
            place = place.setdefault(block, {})
        place[last] = yaml.safe_load(text)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def load(folder: Path, **changes: str) -> Params:
    return load_params(with_changes(folder, {key.replace("__", "."): text for key, text in changes.items()}))


def error(folder: Path, changes: dict[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        load_params(with_changes(folder, changes))
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{folder / 'params.yaml'}: ")


def test_the_small_bases_are_judged_with_lenience_and_released_models_without(tmp_path: Path) -> None:
    def gate(profile: str) -> GateParams:
        more = f"{{{profile}: {{dropped: 2, inserted: 0, share: 0.25}}}}"
        return load_params(with_changes(tmp_path, {"gate.extra_dropped": "3", "gate.lenience": more})).gate

    mine, of_another_profile = gate("tiny"), gate("full")
    assert (mine.extra_dropped, of_another_profile.extra_dropped) == (5, 3)
    assert mine.extra_share - of_another_profile.extra_share == 0.25


def test_the_params_of_the_repository_are_valid() -> None:
    params = load_params()
    assert [params.family(name).weights for name in params.models] == [
        Path(SETTINGS[name][params.profile]["weights"]) for name in params.models
    ]


@pytest.mark.parametrize("text", ["2e-06", "2.0e-6", "0.000002", "'2e-6'"])
def test_a_rate_is_a_float_however_yaml_reads_it(tmp_path: Path, text: str) -> None:
    rate = load(tmp_path, lr=text).learning_rate(TRAINED)
    assert (type(rate), rate) == (float, 2e-06)


def test_whole_numbers_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    train = load(tmp_path, cosyvoice3__tiny__train__batch_frames="1e5").family(TRAINED).train
    assert (type(train.batch_frames), train.batch_frames) == (int, 100_000)


def test_the_top_level_rate_wins_over_the_family_s_own(tmp_path: Path) -> None:
    own = SETTINGS[TRAINED]["tiny"]["train"]["lr"]
    assert load(tmp_path, lr="null").learning_rate(TRAINED) == own
    assert load(tmp_path, lr="3e-4").learning_rate(TRAINED) == 3e-4


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rate=st.floats(min_value=1e-30, max_value=1e10))
def test_every_rate_survives_the_way_dvc_writes_it(tmp_path: Path, rate: float) -> None:
    assert load(tmp_path, lr=str(rate)).learning_rate(TRAINED) == rate


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("lr", "-1", "lr: -1 must be greater than 0"),
        ("lr", "0", "lr: 0 must be greater than 0"),
        ("lr", "true", "lr: True must be a number"),
        ("lr", "fast", "lr: 'fast' must be a number"),
        ("lr", ".nan", "lr: nan must be a finite number"),
        ("lr", "inf", "lr: 'inf' must be a finite number"),
        ("cosyvoice3.tiny.train.lr", "-1.0", "cosyvoice3.tiny.train.lr: -1.0 must be greater than 0"),
        ("cosyvoice3.tiny.train.rank", "0", "cosyvoice3.tiny.train.rank: 0 must be greater than or equal to 1"),
        ("cosyvoice3.tiny.train.epochs", "2.5", "cosyvoice3.tiny.train.epochs: 2.5 must be a whole number"),
        ("cosyvoice3.tiny.train.mode", "dora", "cosyvoice3.tiny.train.mode: 'dora' must be 'lora' or 'sft'"),
        ("cosyvoice3.tiny.train.targets", "[]", "cosyvoice3.tiny.train.targets: [] must not be empty"),
        ("cosyvoice3.tiny.train", "5", "cosyvoice3.tiny.train: 5 must be a block of settings"),
        ("corpus.test", "1.5", "corpus.test: 1.5 must be less than or equal to 1"),
        ("corpus.test", "0.95", "corpus: validation and test together must leave something to train on"),
        ("corpus.min_seconds", "40", "corpus: min_seconds must be less than max_seconds"),
        ("cosyvoice3.tiny.scales", "[1.0, x]", "cosyvoice3.tiny.scales.1: 'x' must be a number"),
        ("models", "cosyvoice3", "models: 'cosyvoice3' must be a list"),
        ("models", "[cosyvoice3, cosyvoice3]", "models: cosyvoice3 stands there twice"),
        ("models", "[cosyvoic3]", "models: there is no family 'cosyvoic3'; did you mean cosyvoice3?"),
        ("external", "[acme, acme]", "external: acme stands there twice"),
        ("external", "[fish_s2]", "external: fish_s2 is a family of models/; give the system, and its folder in data/external, another name"),
        ("external", "[corpus]", "external: data/corpus is for something else"),
        ("external", "[a/b]", "external.0: 'a/b' must be a name of letters, digits, - and _"),
        ("cosyvoic3", "{}", "cosyvoic3: unknown key; did you mean cosyvoice3?"),
        ("pass_rate", "1", "pass_rate: unknown key; did you mean gate.pass_rate?"),
        ("gate.pass_rat", "1", "gate.pass_rat: unknown key; did you mean gate.pass_rate?"),
        ("gate.pass_rate", "1", "gate.pass_rate: 1 must be less than 1"),
        ("gate.budget", "17", "gate: budget must be a multiple of batch"),
        ("gate.reading", "{full: {segment_words: 20, long_whole: true}}", "gate.reading: says nothing of profile 'tiny'; it has full"),
        ("cosyvoice3.tiny.train.learning_rate", "1", "learning_rate: unknown key; did you mean cosyvoice3.tiny.train."),
        ("profile", "tinny", "cosyvoice2: has no block for profile 'tinny'; it has tiny"),
        ("cosyvoice3.tiny.weights", "models/cosyvoice3/gone", "`make bases MODEL=cosyvoice3`"),
        ("cosyvoice3.tiny.weights", "data/weights/gone", "bring them in with `make weights MODEL=cosyvoice3`"),
        ("cosyvoice3.tiny.sampling.guidance", "0.5", "cosyvoice3.tiny.sampling.guidance: cosyvoice3 has no use for it; take"),
        ("fish_s2.tiny.sampling.euler_steps", "4", "fish_s2.tiny.sampling.euler_steps: fish_s2 has no use for it; take it"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_in_one_line(tmp_path: Path, key: str, text: str, message: str) -> None:
    assert message in error(tmp_path, {key: text})


def test_every_wrong_setting_is_named_at_once(tmp_path: Path) -> None:
    message = error(tmp_path, {"lr": "-1", "gate.screen": "0", "seed": "-3"})
    assert len(message.split("; ")) == 3


def test_a_setting_that_is_missing_is_named(tmp_path: Path) -> None:
    values = deepcopy(SETTINGS)
    del values[TRAINED]["tiny"]["train"]["warmup"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"cosyvoice3\.tiny\.train\.warmup: is missing"):
        load_params(path)


@pytest.mark.parametrize("text", ["", "- a", "lr: [1", "lr: 1\n\tseed: 2"])
def test_a_file_that_is_no_list_of_settings_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_params(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_no_training_needs_no_training_settings(tmp_path: Path) -> None:
    train = load(tmp_path, cosyvoice3__tiny__train="{mode: lora, epochs: 0}").family(TRAINED).train
    assert train.epochs == 0
    assert "lr: is missing" in error(tmp_path, {"cosyvoice3.tiny.train": "{mode: lora, epochs: 2}"})


@pytest.mark.parametrize("name", licences.families())
@pytest.mark.parametrize("key", ["guidance", "euler_steps", "retries"])
def test_a_card_names_the_sampling_that_its_family_uses(name: str, key: str) -> None:
    code = "".join(path.read_text() for path in (ROOT / "models" / name).glob("*.py"))
    assert (f"sampling.{key}" in code) == (key in licences.card(name).get("sampling", []))


def test_commercial_use_refuses_the_weights_whose_licence_forbids_it(tmp_path: Path) -> None:
    free = [name for name in SETTINGS["models"] if licences.card(name)["licence"]["weights"]["commercial"]]
    bound = [name for name in SETTINGS["models"] if name not in free]
    assert free and bound, "the demo families are of both kinds"
    message = error(tmp_path, {"intended_use": "commercial"})
    assert all(name in message for name in bound) and f"-S 'models=[{','.join(free)}]'" in message
    assert load(tmp_path, intended_use="commercial", models=f"[{','.join(free)}]").models == free


def test_weights_that_train_are_float32(tmp_path: Path) -> None:
    found = error(tmp_path, {f"{TRAINED}.full.dtype": "bfloat16", f"{TRAINED}.full.train.mode": "sft"})
    assert found.startswith(f"{TRAINED}.full: ") and "set dtype float32, or mode lora" in found
    assert load(tmp_path, **{f"{TRAINED}__tiny__dtype": "bfloat16"}).family(TRAINED).dtype == "bfloat16"
    assert "float16" in error(tmp_path, {f"{TRAINED}.tiny.dtype": "float16"})
