"""Models of transformers: safetensors only, no code from the hub, no question, no kernel that a stored config names."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fae_core.errors import InvalidFile
from fae_core.models.transformers_models import load_model, load_processor, make_config, new_model, read_config

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
FIELDS = {"model_type": "bert", "vocab_size": 10, **SIZES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    transformers.BertModel(transformers.BertConfig(vocab_size=10, **SIZES)).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def change(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("kernel", ["somebody/kernel", {"": "somebody/kernel"}, "flash_attention_2"], ids=str)
def test_a_kernel_that_a_stored_config_names_is_not_fetched(
    folder: Path, key: str, kernel: object, monkeypatch
) -> None:
    def fetch(*args: object, **options: object) -> None:
        raise AssertionError("a kernel was to be fetched")

    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", fetch, raising=False)
    change(folder, **{key: kernel})
    for model in (
        load_model(str(folder), read_config(str(folder)))[0],
        new_model(make_config({**FIELDS, key: kernel}, "here"), "here"),
    ):
        assert model.config._attn_implementation in ("sdpa", "eager")


def test_configs_inside_a_config_name_no_kernel_either() -> None:
    tower = {**SIZES, "attn_implementation": "somebody/kernel"}
    fields = {"model_type": "siglip", "text_config": tower, "vision_config": tower, "_attn_implementation": "a/b"}
    config = make_config(fields, "here")
    assert {c._attn_implementation for c in (config, config.text_config, config.vision_config)} == {None}


def test_code_in_a_repository_is_never_run_and_nobody_is_asked(folder: Path, monkeypatch) -> None:
    def ask(*args: object) -> str:
        raise AssertionError("a question was asked")

    monkeypatch.setattr(builtins, "input", ask)
    (folder / "code.py").write_text("raise SystemExit('ran')")
    classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor"), "code.Model")
    change(folder, auto_map=classes)
    assert type(load_model(str(folder), read_config(str(folder)))[0]).__name__ == "BertModel"
    change(folder, model_type="unheard-of")
    with pytest.raises(InvalidFile, match="no config that transformers can read"):
        read_config(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["code.A", None]}}))
    with pytest.raises(InvalidFile, match="no tokenizer"):
        load_processor(str(folder), transformers.AutoTokenizer, "tokenizer")


def test_weights_that_are_no_safetensors_are_refused_in_one_line(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    config = read_config(str(folder))
    with pytest.raises(InvalidFile, match="in safetensors") as raised:
        load_model(str(folder), config)
    assert "\n" not in str(raised.value)
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, "pytorch_model.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for source, options in ((folder, {}), (folder.parent, {"subfolder": folder.name})):
        with pytest.raises(InvalidFile, match=r"names pytorch_model\.bin, which is no safetensors file"):
            load_model(str(source), config, **options)
    shutil.copy(folder / "pytorch_model.bin", folder / "model.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(InvalidFile, match="in safetensors"):
        load_model(str(folder), config)


def test_weights_that_were_not_there_are_named(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("embeddings.LayerNorm.weight")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert load_model(str(folder), read_config(str(folder)))[1] == ["embeddings.LayerNorm.weight"]


def test_what_transformers_cannot_read_is_refused_in_one_line(folder: Path) -> None:
    for text in (b"", b"{", b"[]", b"\xff", b'{"model_type": 3}', b'{"model_type": "bert", "hidden_size": "x"}'):
        (folder / "config.json").write_bytes(text)
        with pytest.raises(InvalidFile) as raised:
            read_config(str(folder))
        assert "\n" not in str(raised.value)
    for fields in ({}, {"model_type": "none"}, {**FIELDS, "hidden_size": -1}, {**FIELDS, "hidden_act": "none"}):
        with pytest.raises(InvalidFile):
            new_model(make_config(fields, "here"), "here")
