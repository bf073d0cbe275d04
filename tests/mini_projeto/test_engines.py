"""engines.py: a mesma resposta em todo motor, por inteiro ou aos poucos."""

import shutil
import subprocess
import sys

import comum  # noqa: F401  (antes do torch)
from comum.terminal import UserError

import pytest

import export
from loja_sql.config import PROJECT_DIR, load_config
from loja_sql.model import engines
from loja_sql.prompt import Context, encode_pair, render

QUESTIONS = ["quantos clientes?", "liste os produtos de livros", "faturamento de 2024 por mês"]
CONTEXT = Context("", lambda question: ())
pytestmark = pytest.mark.skipif(not engines.has_llama_cpp(), reason="pede o pacote xllamacpp")


@pytest.fixture(scope="module")
def opened(exported, tmp_path_factory):
    """(configuração, pasta) com as formas f16 e q8_0, e o motor do transformers como referência."""
    args, folder = exported
    copy = tmp_path_factory.mktemp("motores") / "lora"
    shutil.copytree(folder, copy)
    args = [*args, f"training.output_dir={copy}"]
    assert export.main([*args, "--forms", "f16"]) == 0
    config = load_config(None, args)
    return config, copy, engines.with_transformers(config, copy)


def answers(engine, config):
    """As respostas em lote, que têm de ser as mesmas pedidas aos poucos."""
    prompts = [render(engine.tokenizer, config, question, CONTEXT) for question in QUESTIONS]
    found = dict(pair for batch in engine.generate(prompts, 16, 2) for pair in batch)
    for index, prompt in enumerate(prompts):
        steps = list(engine.stream(prompt, 16))
        assert (steps[-1] if steps else "") == found[index]
    return [found[i] for i in range(3)]


def test_llama_cpp_answers_as_transformers_does(opened):
    """O f16 e o q8_0, lidos pelo llama.cpp, dão a resposta gulosa do transformers."""
    config, folder, reference = opened
    expected = answers(reference, config)
    f16 = engines.open_form(config, folder, "f16")
    assert answers(f16, config) == expected
    f16.close()
    fastest = engines.open_engine(config, folder)
    assert fastest.name == "llama.cpp q8_0", "auto toma o mais rápido que houver"
    found = answers(fastest, config)
    fastest.close()
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 2, (found, expected)


def test_answering_by_llama_cpp_does_not_wait_for_the_libraries_of_training(opened):
    args = [f"training.output_dir={opened[1]}", f"data.output_dir={opened[0].data_dir}"]
    args.append("generation.engine=llamacpp")
    code = f"import sys, inference; assert inference.main({[*args, QUESTIONS[0]]}) == 0\n"
    code += "assert not {'peft', 'transformers.modeling_utils'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_DIR, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_llama_cpp_gives_the_perplexity_of_transformers(opened):
    config, folder, reference = opened
    engine = engines.open_form(config, folder, "f16")
    sql = "SELECT COUNT(*) FROM clientes"
    pairs = [
        encode_pair(engine.tokenizer, config, question, sql, CONTEXT) for question in QUESTIONS
    ]
    expected, found = (
        sorted(line for batch in either.losses(pairs, 2) for line in batch)
        for either in (reference, engine)
    )
    engine.close()
    assert [(i, count) for i, _, count in found] == [(i, count) for i, _, count in expected]
    for (_, loss, count), (_, exact, _) in zip(found, expected, strict=True):
        assert loss / count == pytest.approx(exact / count, abs=5e-3)


def test_a_prompt_that_does_not_fit_is_an_error_and_the_next_is_answered(opened, monkeypatch):
    config, folder, _ = opened
    monkeypatch.setattr(engines, "CONTEXT", 256)
    engine = engines.open_form(config, folder, "q8_0")
    with pytest.raises(UserError, match="o llama.cpp recusou a pergunta"):
        list(engine.stream(render(engine.tokenizer, config, "é" * 490, CONTEXT), 16))
    prompt = render(engine.tokenizer, config, QUESTIONS[0], CONTEXT)
    assert dict(pair for batch in engine.generate([prompt], 16, 1) for pair in batch)[0]
    engine.close()


def test_the_engine_follows_the_configuration(trained, opened, monkeypatch):
    args, folder = trained
    config = load_config(None, args)
    name = "transformers float32"
    assert engines.open_engine(config, folder).name == name, "auto, sem nada exportado"
    config.generation.engine = "llamacpp"
    with pytest.raises(UserError, match="python export.py --forms q8_0"):
        engines.open_engine(config, folder)
    config, exported, _ = opened
    config = config.model_copy(deep=True)
    config.generation.engine = "transformers"
    assert engines.open_engine(config, exported).name == name
    monkeypatch.setattr(engines, "has_llama_cpp", lambda: False)
    config.generation.engine = "auto"
    assert engines.open_engine(config, exported).name == name, "sem o pacote"
    with pytest.raises(UserError, match="falta o llama.cpp"):
        engines.open_form(config, exported, "q8_0")
