"""Readers of settings under hypothesis: whatever a config, a preset, --set or a recipe says, it is read or refused in
one line."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from any_fields import check_fields, finite
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fae_core.cli.settings import parse_override, resolve_settings
from fae_core.config import Config, merge, parse_config
from fae_core.errors import FAEError, InvalidFile
from fae_core.files import parse_yaml, read_json, read_yaml
from fae_core.latent_store import Plan
from fae_core.recipes.recipe import Step, load_recipe, run_recipe
from fae_core.training import PreviewConfig, TrainConfig

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True, database=None)
names = st.sampled_from(["model", "training", "preview", "steps", "a", "a\nb", "variables", "title", "run", "name"])
printable = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | printable
    | st.sampled_from([10**400, 2**63, 1e308, "2020-01-01", "1:30", "yes", "~", "=", "<<", "{out}", "crops {a"])
)
nested = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)


@PROPERTY
@given(value=nested)
def test_yaml_reads_back_what_is_finite_and_refuses_the_rest(value: Any) -> None:
    text = yaml.safe_dump(value, allow_unicode=True, width=10**6)
    if finite(value):
        assert parse_yaml(text) == value
    else:
        with pytest.raises(ValueError, match="is not allowed"):
            parse_yaml(text)


YAML = "{}[]:,-&*!?|>'\"#%@= \n\tab1.e<~_"
snippets = st.lists(
    st.sampled_from(
        ["!!int ", "!!float ''", "!!bool x", "!!timestamp a", "!!set {a}", "<<: ", "? ", "[a]", ".nan", "-.inf", "1:30",
         "2020-99-99", "0x", "0b_", "9" * 5000, "a: ", "\n", "- ", "'", "{", "}", "&a ", "*a",
         "%YAML 9.9\n---\n", "\x85", "\0"]
    ),
    max_size=6,
).map("".join)  # fmt: skip


@PROPERTY
@given(text=st.text(YAML, max_size=40) | snippets)
def test_any_text_is_plain_data_or_one_line_of_complaint(text: str) -> None:
    try:
        value = parse_yaml(text)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return
    assert finite(value)
    assert json.loads(json.dumps(value)) == value, "nothing but what JSON could hold as well"


@pytest.mark.parametrize("value", [".nan", "-.inf", "1.0e+999", "[1, {a: .inf}]"])
def test_yaml_numbers_are_finite(value: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"a: {value}\n")
    with pytest.raises(InvalidFile, match=r"a\.yaml is not valid YAML: .*not allowed"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(FAEError, match=r"--set training\.learning_rate"):
        parse_override(f"training.learning_rate={value}")


def test_dates_stay_text_and_keys_are_text() -> None:
    assert parse_yaml("a: 2020-01-02\nb: 2020-99-99") == {"a": "2020-01-02", "b": "2020-99-99"}
    for key in ("1", "yes", "null", "1.5"):
        with pytest.raises(ValueError, match="is not text; put it in quotes"):
            parse_yaml(f"{key}: 2")
        assert parse_yaml(f"'{key}': 2") == {key: 2}


@pytest.mark.parametrize("text", ["a: " + "1:" * 100_000 + "1", "a: [" + "1," * 200_000 + "1]", "a: " + "x" * 2**19])
def test_a_file_beyond_any_settings_is_refused_unread(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text * 2)
    started = time.process_time()
    with pytest.raises(InvalidFile, match="bytes; at most"):
        read_yaml(tmp_path / "a.yaml")
    assert time.process_time() - started < 5  # against the minute that reading it would take; not a measurement


@pytest.mark.parametrize("digits", [4000, 5000, 100_000])
def test_numbers_of_any_length_are_numbers_or_one_line(digits: int, tmp_path: Path) -> None:
    for reader, name in ((read_json, "a.json"), (read_yaml, "a.yaml")):
        (tmp_path / name).write_text('{"a": ' + "9" * digits + "}")
        try:
            assert reader(tmp_path / name) == {"a": 10**digits - 1}
        except InvalidFile as error:
            assert digits > 4000 and "\n" not in str(error) and len(str(error)) < 400


class Everything(Config):
    """A field of every kind that configs have."""

    number: int = 1
    real: float = 0.5
    text: str = ""
    flag: bool = False
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    size: int | tuple[int, int] = 1
    inner: Plan | None = None


@pytest.mark.parametrize("config_class", [Everything, TrainConfig, PreviewConfig, Plan])
def test_any_fields_are_a_finite_config_or_one_line(config_class: type[Config]) -> None:
    fields = st.sampled_from([*config_class.model_fields, "no_field", "a\nb"])

    @PROPERTY
    @given(given_fields=st.dictionaries(fields, nested, max_size=5))
    def check(given_fields: dict[str, Any]) -> None:
        check_fields(config_class, given_fields)

    check()


def test_steps_beyond_any_run_are_refused() -> None:
    """Python's numbers have no end, but half of them as a warm-up is a float, which has."""
    with pytest.raises(InvalidFile, match="steps: "):
        parse_config(TrainConfig, {"steps": 10**400, "warmup_steps": 0.5}, "here")
    with pytest.raises(InvalidFile, match="batch_size: "):
        parse_config(TrainConfig, {"batch_size": 10**400}, "here")
    assert parse_config(TrainConfig, {"steps": 10**12, "warmup_steps": 0.5}, "here").warmup == 5 * 10**11


@PROPERTY
@given(base=st.dictionaries(names, nested, max_size=4), top=st.dictionaries(names, nested, max_size=4))
def test_merging_keeps_what_is_not_named_and_takes_what_is(base: dict, top: dict) -> None:
    before = json.dumps([base, top], default=str)
    merged = merge(base, top)
    assert merged.keys() == base.keys() | top.keys()
    for key in merged:
        if key not in top:
            assert merged[key] is base[key]
        elif not (isinstance(base.get(key), dict) and isinstance(top[key], dict)):
            assert merged[key] is top[key]
        else:
            assert merged[key].keys() == base[key].keys() | top[key].keys()
    assert json.dumps([base, top], default=str) == before, "neither is changed"


overrides = st.lists(
    st.text("ab.=[]{}:,1 \n", max_size=12)
    | st.builds("{}={}".format, st.sampled_from(["model", "training", "training.steps", "a.b.c", "model.x"]), snippets)
    | st.builds("{}={}".format, st.sampled_from(["preview", "training.steps", "training"]), nested.map(json.dumps)),
    max_size=3,
)


@PROPERTY
@given(content=nested, sets=overrides)
@example(content={}, sets=["1\n=="])
def test_any_config_file_and_any_set_are_settings_or_one_line(content: Any, sets: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        try:
            found = resolve_settings(None, path, sets)
            for section, kind in (("training", TrainConfig), ("preview", PreviewConfig)):
                parse_config(kind, found.get(section, {}), section)
        except FAEError as error:
            assert "\n" not in str(error)
            return
    assert finite(found) and all(isinstance(found.get(name, {}), dict) for name in ("model", "training", "preview"))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("training=5", "section training must be a mapping"),
        ("model=[1]", "section model must be a mapping"),
        (".".join("a" * 5000) + "=1", "takes KEY=VALUE"),
        ("training.x=" + "[" * 5000, "nested too deeply"),
        ("training.x=!!int ''", "tags are not allowed"),
        ("training.x=" + "9" * 5000, "is not a YAML value"),
        ("training.x=[&a 1, *a]", "aliases are not allowed"),
    ],
)
def test_what_no_setting_can_be_is_refused(override: str, complaint: str) -> None:
    with pytest.raises(FAEError, match=complaint) as caught:
        resolve_settings(None, None, [override])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


steps = st.lists(
    st.fixed_dictionaries(
        {"name": scalars, "run": st.sampled_from(["crops {a}", "crops {b.c}", "'x", "", "{", "{0}"]) | printable}
    )
    | nested,
    max_size=3,
)


@PROPERTY
@given(
    content=nested
    | st.fixed_dictionaries({"steps": steps | nested}, optional={"variables": nested, "title": scalars, "a": scalars}),
    sets=st.dictionaries(names, scalars, max_size=2),
)
def test_any_recipe_is_a_list_of_commands_or_one_line(content: Any, sets: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        try:
            recipe = load_recipe(path, sets)
            recipe.check_commands()
            commands = [recipe.command(step, Path(folder)) for step in recipe.steps]
        except FAEError as error:
            assert "\n" not in str(error)
            return
    assert commands and all(command and all(isinstance(word, str) for word in command) for command in commands)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("steps: 5", "steps must be a list"),
        ("variables: [a]\nsteps: [{name: a, run: crops}]", "variables must be a mapping"),
        ("steps: [{name: a, run: crops x}, {name: a, run: crops y}]", "two steps named 'a'"),
        ('steps: [{name: a, run: "crops \'x"}]', "step a: no closing quotation"),
        ('steps: [{name: a, run: ""}]', "step a has no command"),
        ('steps: [{name: a, run: "crops {out.real}"}]', "'out.real' is not a variable"),
        ('steps: [{name: a, run: "crops {out:>9999999999}"}]', "'out' is not a variable"),
        ('steps: [{name: a, run: "crops {out"}]', "step a: expected '}'"),
        ("1: 2\nsteps: []", "the key 1 is not text"),
    ],
)
def test_recipes_that_cannot_run_are_one_line(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(FAEError, match=complaint):
        run_recipe(load_recipe(tmp_path / "r.yaml"), tmp_path / "out")


def test_braces_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text('variables: {a: "x y"}\nsteps: [{name: s, run: "crops {a}.{{0..3}} {out}"}]')
    recipe = load_recipe(tmp_path / "r.yaml")
    assert recipe.command(recipe.steps[0], Path("o")) == ["crops", "x y.{0..3}", "o"]
    assert recipe.steps == (Step("s", "crops {a}.{{0..3}} {out}"),)


@pytest.mark.parametrize("record", ["{}", '{"steps": 5}', '{"steps": [1]}'])
def test_a_damaged_record_of_steps_is_one_line(record: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("steps: [{name: s, run: crops photographs}]")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "steps.json").write_text(record)
    with pytest.raises(FAEError, match=r"steps\.json is damaged"):
        run_recipe(load_recipe(tmp_path / "r.yaml"), tmp_path / "out", resume=True)
