"""export.py: fusão fiel, formas que recarregam, o que há dito num manifesto e numa ficha."""

import shutil

import comum  # noqa: F401  (antes do torch)
from comum import results
from comum.models import nf4
from comum.results import Evaluation
from comum.terminal import UserError, run_main

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import export
from loja_sql.config import load_config
from loja_sql.model import card, exporting
from loja_sql.model.engines import has_llama_cpp, open_form, with_transformers
from loja_sql.model.exports import exported_forms, read_manifest
from loja_sql.model.loading import load_model
from loja_sql.model.run_folder import is_whole, locked, read_run
from loja_sql.model.summary import read_summary

QUESTION = "liste os produtos de livros"
needs_llama_cpp = pytest.mark.skipif(not has_llama_cpp(), reason="pede o pacote xllamacpp")


@pytest.fixture
def again(exported, tmp_path):
    """O treino exportado, numa pasta que se pode mudar; devolve (args, pasta)."""
    args, folder = exported
    copy = shutil.copytree(folder, tmp_path / "lora")
    return [*args, f"training.output_dir={copy}"], copy


def test_merging_keeps_the_logits_and_is_in_full_precision(exported):
    args, folder = exported
    merge = read_manifest(folder).merge
    assert merge.largest_difference <= exporting.LOGITS_TOLERANCE
    assert merge.same_tokens == 1.0 and merge.questions == len(exporting.CHECKED)
    reference = load_model(load_config(None, args), folder)
    path = exported_forms(folder)["bf16"]
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight.bfloat16().float())


def test_merging_that_changes_the_logits_writes_nothing(copied, monkeypatch, capsys):
    args, folder = copied
    monkeypatch.setattr(exporting, "LOGITS_TOLERANCE", -1.0)
    assert run_main(export.main, [*args, "--forms", "bf16"]) == 2
    assert "Nada foi gravado" in capsys.readouterr().err
    assert [path.name for path in (folder / "exported").iterdir()] == [".lock"]


def test_a_quantized_base_is_refused(copied, wide_llama, tmp_path, capsys):
    args, folder = copied
    base = tmp_path / "base-nf4"
    options = {"quantization_config": nf4(torch.float32), "dtype": torch.float32}
    AutoModelForCausalLM.from_pretrained(wide_llama, **options).save_pretrained(base)
    AutoTokenizer.from_pretrained(wide_llama).save_pretrained(base)
    effective = folder / "effective_config.yaml"
    effective.write_text(effective.read_text().replace(str(wide_llama), str(base)))
    args = [text.replace(str(wide_llama), str(base)) for text in args]
    assert run_main(export.main, [*args, "--forms", "bf16"]) == 2
    assert "é quantizada" in capsys.readouterr().err


def test_an_adapter_trained_in_4_bits_merges_into_the_full_base(qlora, tmp_path):
    args, folder, _ = qlora
    copy = shutil.copytree(folder, tmp_path / "lora")
    assert export.main([*args, f"training.output_dir={copy}", "--forms", "bf16"]) == 0
    loaded = AutoModelForCausalLM.from_pretrained(exported_forms(copy)["bf16"])
    assert getattr(loaded.config, "quantization_config", None) is None


def test_all_weights_are_exported_without_a_merge_and_a_form_that_fails_stops_no_other(
    full, tmp_path, capsys
):
    """A largura 32 do Llama minúsculo não cabe em grupos de 64: o GPTQ fica de fora."""
    args, folder = full
    copy = shutil.copytree(folder, tmp_path / "lora")
    assert export.main([*args, f"training.output_dir={copy}", "--forms", "gptq,bf16"]) == 0
    manifest = read_manifest(copy)
    assert manifest.merge is None and manifest.forms["bf16"].bytes > 0
    assert "todos os pesos" in (copy / "exported" / "README.md").read_text("utf-8")
    assert set(exported_forms(copy)) == {"bf16"}
    assert "largura 32" in manifest.forms["gptq"].missing
    assert "falta: " in capsys.readouterr().out
    assert [path.name for path in (copy / "exported").glob(".*")] == [".lock"], "nada pela metade"


def test_only_gptq_asks_for_the_data_and_the_card_of_the_shipped_model_stays(
    copied, tmp_path, monkeypatch
):
    """É o que `make setup` faz, num clone novo, com o modelo pronto."""
    args, folder = copied
    monkeypatch.setattr(exporting, "SHIPPED", folder)
    (folder / "README.md").write_text("a do repositório")
    args = [*args, f"data.output_dir={tmp_path / 'novo'}", "database.seeds=[11]"]
    assert export.main([*args, "--forms", "gptq,bf16"]) == 0
    assert set(exported_forms(folder)) == {"bf16"}
    assert "python data_prep.py" in read_manifest(folder).forms["gptq"].missing
    assert "LoRA de posto 4" in (folder / "exported" / "README.md").read_text("utf-8")
    assert (folder / "README.md").read_text() == "a do repositório"


def test_each_folder_answers_almost_as_the_adapter(copied):
    args, folder = copied
    config = load_config(None, args)
    assert export.main([*args, "--forms", "bf16,nf4,gptq"]) == 0
    reference = with_transformers(config, folder)
    ids = reference.tokenizer(QUESTION, return_tensors="pt").input_ids
    # Do NF4 menos: num modelo deste tamanho, o token que mais sente muda com os dados do treino.
    for form, least in {"bf16": 0.999, "nf4": 0.92, "gptq": 0.95}.items():
        engine = open_form(config, folder, form)
        with torch.inference_mode():
            exact, close = reference.model(ids).logits, engine.model(ids).logits.float()
        alike = torch.nn.functional.cosine_similarity(exact, close, dim=-1)
        assert alike.min() > least, form
        assert engine.name == f"transformers {form}"


def test_the_adapter_to_publish_is_whole_half_the_size_and_free_of_folders(copied, wide_llama):
    args, folder = copied
    assert export.main([*args, "--forms", "adapter"]) == 0
    published = exported_forms(folder)["adapter"]
    settings = (published / "adapter_config.json").read_text()
    assert not (published / "training_args.bin").exists()
    assert read_summary(published) == read_summary(folder)
    assert read_run(published).identity == read_run(folder).identity and is_whole(published)
    name = "adapter_model.safetensors"
    assert (published / name).stat().st_size < 0.6 * (folder / name).stat().st_size
    # Como a ficha ensina: só com o PEFT.
    tokenizer = AutoTokenizer.from_pretrained(published)
    base = AutoModelForCausalLM.from_pretrained(wide_llama, dtype=torch.float32)
    base.resize_token_embeddings(len(tokenizer))
    ids = tokenizer(QUESTION, return_tensors="pt").input_ids
    with torch.inference_mode():
        alone = PeftModel.from_pretrained(base, published)(ids).logits
        here = open_form(load_config(None, args), folder, "adapter").model(ids).logits
    torch.testing.assert_close(alone, here, rtol=1e-3, atol=1e-3)
    assert str(wide_llama) in settings, "uma base que não é a padrão fica pelo nome que tem"


def test_without_the_record_of_the_training_only_the_adapter_is_left_out(copied, capsys):
    args, folder = copied
    (folder / "run.json").unlink()
    export.main([*args, "--forms", "adapter,bf16"])
    assert "adapter ficou de fora: falta o run.json" in capsys.readouterr().out
    assert list(exported_forms(folder)) == ["bf16"]


def test_exporting_again_redoes_only_what_is_missing(again, monkeypatch):
    args, again = again
    args += ["--forms", "bf16"]
    manifest = again / "exported" / "exported.json"
    before = manifest.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(
            exporting.Exporter, "merge", lambda *_: pytest.fail("não devia fundir de novo")
        )
        assert export.main(args) == 0
    assert manifest.read_text() == before
    cut = again / "exported" / "bf16" / "model.safetensors"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:100])  # o manifesto ainda a diz pronta
    assert "bf16" not in exported_forms(again)
    assert export.main(args) == 0
    assert cut.read_bytes() == whole
    manifest.write_text("{estragado")
    with pytest.raises(UserError, match="está estragado"):
        exported_forms(again)
    assert export.main(args) == 0, "um manifesto estragado é refeito"
    assert set(exported_forms(again)) == {"bf16"}


def test_two_exports_do_not_share_a_folder_and_a_killed_one_leaves_nothing(again):
    args, again = again
    folder = again / "exported"
    with locked(folder), pytest.raises(UserError, match="outro programa usa"):
        export.main(args)
    (folder / ".fundido").mkdir()
    (folder / ".modelo-q8_0.gguf").write_bytes(b"GGUF")
    assert export.main([*args, "--forms", "bf16"]) == 0
    assert [path.name for path in folder.glob(".*")] == [".lock"]


def test_an_export_of_another_training_does_not_count(again):
    args, again = again
    weights = again / "adapter_model.safetensors"
    weights.write_bytes((again / "checkpoint-3" / weights.name).read_bytes())
    assert exported_forms(again) == {}
    with pytest.raises(UserError, match="python export.py --forms bf16"):
        open_form(load_config(None, args), again, "bf16")


def test_the_card_says_where_it_came_from_and_brings_measured_scores(again, tmp_path, monkeypatch):
    args, folder = again
    monkeypatch.setattr(card, "RESULTS_DIR", tmp_path)
    monkeypatch.setattr(results, "RESULTS_DIR", tmp_path)
    assert export.main([*args, "--forms", "bf16"]) == 0
    path = folder / "exported" / "bf16" / "README.md"
    text = path.read_text("utf-8")
    assert "Ainda não medidas" in text and "LoRA de posto 4" in text
    score = {"value": 0.5, "ci95": [0.25, 0.75], "n": 6}
    fields = results.Variant.model_fields
    measured = {name: score for name in fields if "Score" in str(fields[name].annotation)}
    for name in ("by_kind", "by_difficulty"):
        measured[name] = {}
    rest = {
        "command": "",
        "group": "forms",
        "engine": "",
        "error_causes": {},
        "prompt_tokens": 1,
        "weights_bytes": 1,
        "memory_bytes": 1,
        "latency": {"questions": 1, "p50_s": 1, "p95_s": 1, "tokens_per_second": 1},
        "training": None,
        "seconds": 1,
        "questions_per_second": 1,
    }
    variants = {"treinado, bf16": measured | rest, "base": measured | rest | {"group": "untrained"}}
    Evaluation(
        model="m", questions="test", config={}, variants=variants, training=read_summary(folder)
    ).save("mini_projeto_lora_test")
    export.main([*args, "--forms", "bf16"])
    text = path.read_text("utf-8")
    assert text.startswith("---\n") and text.count("type: execution_accuracy") == 1
    assert "50,0 [25,0; 75,0]" in text and "Ainda não medidas" not in text


@pytest.mark.parametrize("text", ["bf32", "bf16,,nf4"])
def test_unknown_forms_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        export.main(["--forms", text])
    assert "forma desconhecida" in capsys.readouterr().err


def test_exporting_before_training_says_so(project, capsys):
    assert run_main(export.main, project[0]) == 2
    assert "Treine antes" in capsys.readouterr().err


@needs_llama_cpp
def test_the_modelfile_holds_the_training_prompt(exported):
    _, folder = exported
    text = (folder / "exported" / "Modelfile").read_text("utf-8")
    assert 'TEMPLATE """SQL\n{{ .Prompt }}\n"""' in text and "FROM ./modelo-q8_0.gguf" in text
    assert "temperature 0" in text and "inference.py --hints" in text
