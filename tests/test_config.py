"""Run configs: what is accepted, what is refused, and that every refusal names the key, the value and the remedy.

Run: pytest tests/test_config.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from unimodel import config as settings
from unimodel import config_tokenizers
from unimodel.config import RunConfig
from unimodel.config_file import dump_config, load_config
from unimodel.config_objectives import MaskedConfig, NextTokenConfig

SMALLEST = """\
name: tiny
data: {folder: data}
stages:
  first:
    number: 1
    steps: 3
    mixture: [{sequence: clip, objective: fill}]
    objectives:
      fill: {kind: masked}
"""


@pytest.fixture
def smallest(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.yaml", SMALLEST)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    """The message of the ValueError that this file and these overrides end in."""
    with pytest.raises(ValueError) as caught:
        load_config(path, list(overrides))
    return str(caught.value)


def test_smallest_file_gets_its_defaults(smallest: Path) -> None:
    config = load_config(smallest)
    assert config.seed == 0 and config.engine.zero == 0
    assert config.folder == Path("runs/tiny")
    assert config.stages["first"].objectives["fill"] == MaskedConfig(kind="masked")


def test_dump_and_reload_give_an_equal_config(smallest: Path, tmp_path: Path) -> None:
    config = load_config(smallest, ["stages.first.freeze=[a.*, b]", "stages.first.optimizer.learning_rate=3e-7"])
    assert load_config(write(tmp_path / "resolved.yaml", dump_config(config))) == config


DEFAULTED = [
    model
    for model in [*vars(settings).values(), *vars(config_tokenizers).values()]
    if isinstance(model, type)
    and issubclass(model, settings.Settings)
    and not any(field.is_required() for field in model.model_fields.values())
]


@pytest.mark.parametrize("model", DEFAULTED, ids=lambda model: model.__name__)
def test_defaults_obey_their_own_rules(model: type[settings.Settings]) -> None:
    """pydantic does not validate defaults, so a wrong one would pass until it is dumped and read back."""
    assert model.model_validate_json(model().model_dump_json()) == model()


# --- unknown and repeated keys


@pytest.mark.parametrize(
    ("override", "key", "meant"),
    [
        ("sed=1", "sed", "seed"),
        ("engine.zeros=1", "engine.zeros", "zero"),
        ("stages.first.optimizer.learning_rat=1.0", "stages.first.optimizer.learning_rat", "learning_rate"),
        ("stages.first.objectives.fill.schedul=linear", "stages.first.objectives.fill.schedul", "schedule"),
        ("stages.first.mixture=[{sequence: clip, objective: fill, shar: 2}]", "stages.first.mixture.0.shar", "share"),
    ],
)
def test_unknown_key_is_named_with_the_nearest_right_one(smallest: Path, override: str, key: str, meant: str) -> None:
    assert f"{key}: unknown key; did you mean '{meant}'?" in refusal(smallest, override)


def test_unknown_key_like_no_other_lists_the_known_ones(smallest: Path) -> None:
    message = refusal(smallest, "engine.qqq=1")
    assert "engine.qqq: unknown key; known keys here: zero, precision" in message


def test_every_mistake_is_told_at_once(smallest: Path) -> None:
    message = refusal(smallest, "sed=1", "engine.zero=7", "stages.first.steps=0")
    assert all(key in message for key in ("sed:", "engine.zero:", "stages.first.steps:"))


def test_repeated_key_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "twice.yaml", SMALLEST + "name: other\n")
    assert "the key 'name' stands twice" in refusal(path) and str(path) in refusal(path)


def test_repeated_key_deep_inside_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "twice.yaml", SMALLEST.replace("    steps: 3\n", "    steps: 3\n    steps: 4\n"))
    assert "the key 'steps' stands twice" in refusal(path)


# --- values


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1E-4", 1e-4), ("1.5e-3", 1.5e-3), ("2e3", 2000.0), ("1", 1.0), ("0.25", 0.25)]
)
def test_number_is_read_as_written(smallest: Path, text: str, value: float) -> None:
    config = load_config(smallest, [f"stages.first.optimizer.learning_rate={text}"])
    assert config.stages["first"].optimizer.learning_rate == value


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ('stages.first.steps="3"', "'3'"),
        ("stages.first.steps=3.0", "3.0"),
        ("stages.first.steps=on", "True"),
        ("engine.activation_checkpointing=1", "1"),
        ("engine.zero=4", "4"),
        ("seed=-1", "-1"),
        ("engine.precision=fp16", "'fp16'"),
        ("data.recording.max_steps=0", "0"),
        ("stages.first.freeze=everything", "'everything'"),
        ("name=no/slash", "'no/slash'"),
    ],
)
def test_wrong_value_is_refused_with_its_key_and_itself(smallest: Path, override: str, shown: str) -> None:
    message = refusal(smallest, override)
    assert f"  - {override.partition('=')[0]}: " in message and f"(got {shown})" in message


def test_missing_required_keys_are_named(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "empty.yaml", "name: tiny\n"))
    assert "data: required and missing" in message and "stages: required and missing" in message


def test_kind_chooses_the_objective(smallest: Path) -> None:
    config = load_config(smallest, ["stages.first.objectives.fill={kind: next_token, coefficient: 0.5}"])
    assert config.stages["first"].objectives["fill"] == NextTokenConfig(kind="next_token", coefficient=0.5)


def test_unknown_kind_lists_the_known_ones(smallest: Path) -> None:
    message = refusal(smallest, "stages.first.objectives.fill.kind=maskd")
    assert "stages.first.objectives.fill" in message and "'maskd'" in message and "'masked'" in message


def test_key_of_another_kind_is_refused(smallest: Path) -> None:
    assert "clean_fraction: unknown key" in refusal(smallest, "stages.first.objectives.fill.clean_fraction=0.5")


def test_mixture_names_an_objective_that_exists(smallest: Path) -> None:
    message = refusal(smallest, "stages.first.mixture=[{sequence: clip, objective: draw}]")
    assert "'draw'" in message and "fill" in message


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["engine.offload_optimizer=cpu"], "offload_optimizer (cpu) moves what ZeRO holds: set zero to 1, 2 or 3"),
        (["engine.offload_optimizer=nvme", "engine.zero=2"], "offload_optimizer (nvme) needs ZeRO 3: set zero to 3"),
        (["engine.offload_optimizer=nvme", "engine.zero=3"], "nvme and nvme_folder go together"),
        (["engine.offload_parameters=cpu", "engine.zero=2"], "offload_parameters (cpu) divides weights"),
        (["engine.hierarchical_ranks=8"], "hierarchical_ranks (8) divides weights, which only ZeRO 3 does"),
        (["engine.activation_offload=true"], "keeps what activation_checkpointing saves: set that to true as well"),
        (["engine.sequence_parallel=3"], "stages.first.batch.row_tokens (512) must be a multiple of engine.sequence_"),
        (["engine.tensor_parallel=2"], "tensor_parallel is not offered: checkpoints by name"),
        (["engine.expert_parallel=2"], "expert_parallel is not offered: no backbone family has experts"),
    ],
)
def test_parallel_settings_that_do_not_fit_are_refused(smallest: Path, overrides: list[str], rule: str) -> None:
    assert rule in refusal(smallest, *overrides)


def test_parts_of_one_stage_run_in_the_order_of_the_file(tmp_path: Path) -> None:
    stage = SMALLEST.split("stages:\n")[1]
    parts = "".join(stage.replace("first:", f"{name}:") for name in ("zebra", "ape"))
    config = load_config(write(tmp_path / "parts.yaml", SMALLEST + parts))
    assert [name for name, _ in config.ordered_stages] == ["first", "zebra", "ape"]
    again = load_config(write(tmp_path / "again.yaml", dump_config(config)))
    assert [name for name, _ in again.ordered_stages] == ["first", "zebra", "ape"], "the stored config keeps the order"


def test_stages_run_by_number_not_by_place(tmp_path: Path) -> None:
    stage = SMALLEST.split("stages:\n")[1].replace("first:", "zeroth:").replace("number: 1", "number: 2")
    config = load_config(write(tmp_path / "two.yaml", SMALLEST + stage), ["stages.first.number=9"])
    assert [name for name, _ in config.ordered_stages] == ["zeroth", "first"]


def test_config_cannot_be_changed_after_validation(smallest: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(smallest).seed = 3  # pyright: ignore[reportAttributeAccessIssue]


# --- base files


def test_later_base_wins_and_the_file_itself_wins_over_all(tmp_path: Path) -> None:
    write(tmp_path / "low.yaml", "seed: 1\nengine: {zero: 1, precision: bf16}\n")
    write(tmp_path / "high.yaml", "seed: 2\nengine: {zero: 2}\n")
    config = load_config(write(tmp_path / "run.yaml", SMALLEST + "base: [low.yaml, high.yaml]\n"))
    assert (config.seed, config.engine.zero, config.engine.precision) == (2, 2, "bf16")
    config = load_config(write(tmp_path / "run.yaml", SMALLEST + "base: [low.yaml, high.yaml]\nseed: 3\n"))
    assert (config.seed, config.engine.zero) == (3, 2)


def test_override_wins_over_file_and_bases(tmp_path: Path) -> None:
    write(tmp_path / "low.yaml", "seed: 1\n")
    path = write(tmp_path / "run.yaml", SMALLEST + "base: low.yaml\nseed: 2\n")
    assert load_config(path, ["seed=4", "seed=5"]).seed == 5


def test_list_is_replaced_not_appended(tmp_path: Path) -> None:
    write(tmp_path / "low.yaml", SMALLEST.replace("steps: 3", "steps: 3\n    freeze: [a, b]"))
    text = "base: low.yaml\nstages: {first: {freeze: [c]}}\n"
    assert load_config(write(tmp_path / "run.yaml", text)).stages["first"].freeze == ("c",)


def test_base_is_found_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "sizes").mkdir()
    write(tmp_path / "sizes" / "seed.yaml", "seed: 7\n")
    write(tmp_path / "sizes" / "small.yaml", "base: seed.yaml\nengine: {zero: 3}\n")
    config = load_config(write(tmp_path / "run.yaml", SMALLEST + "base: sizes/small.yaml\n"))
    assert (config.seed, config.engine.zero) == (7, 3)


def test_one_base_may_be_reached_on_two_ways(tmp_path: Path) -> None:
    write(tmp_path / "common.yaml", "seed: 7\n")
    write(tmp_path / "left.yaml", "base: common.yaml\n")
    write(tmp_path / "right.yaml", "base: common.yaml\n")
    assert load_config(write(tmp_path / "run.yaml", SMALLEST + "base: [left.yaml, right.yaml]\n")).seed == 7


def test_circle_of_bases_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "base: b.yaml\n")
    write(tmp_path / "b.yaml", "base: a.yaml\n")
    message = refusal(tmp_path / "a.yaml")
    assert "circle" in message and "a.yaml" in message and "b.yaml" in message


def test_missing_base_is_named_with_the_file_that_names_it(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", SMALLEST + "base: nowhere.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml does not exist .*run\.yaml"):
        load_config(path)


# --- --set


def test_override_may_make_a_group(smallest: Path) -> None:
    assert load_config(smallest, ["evaluation.episodes=5"]).evaluation.episodes == 5


def test_override_may_hold_an_equals_sign(smallest: Path) -> None:
    assert load_config(smallest, ["data.folder=a=b"]).data.folder == Path("a=b")


@pytest.mark.parametrize("override", ["seed", "=3", "name.deeper=3"])
def test_malformed_override_is_told_as_it_was_typed(smallest: Path, override: str) -> None:
    message = refusal(smallest, override)
    assert message.startswith(f"--set {override}: ")


# --- files


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml does not exist"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_file_without_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "odd.yaml", text)
    assert f"{path} must hold a mapping" in refusal(path)


def test_broken_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.yaml", "name: tiny\n\tseed: 3\n")
    assert f"{path} is not valid YAML" in refusal(path) and "line 2" in refusal(path)


def test_schema_describes_every_top_level_key() -> None:
    schema = RunConfig.model_json_schema()
    assert set(schema["properties"]) == set(RunConfig.model_fields)
    assert "runs_folder" in schema["properties"] and schema["additionalProperties"] is False


@pytest.mark.parametrize("recipe", sorted(Path("configs/recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid(recipe: Path) -> None:
    assert load_config(recipe).stages
