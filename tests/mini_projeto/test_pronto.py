"""O modelo que vem com o repositório: o que a primeira pergunta de quem chega encontra."""

import json

import comum  # noqa: F401  (antes do torch)
from comum.numbers import interval
from comum.paths import DEFAULT_MODEL, REFERENCE_DIR
from comum.results import Evaluation

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from loja_sql.config import SHIPPED, as_trained, load_config, load_effective, trained_kind
from loja_sql.model.assistant import Assistant
from loja_sql.model.engines import has_llama_cpp
from loja_sql.model.exports import exported_forms
from loja_sql.model.run_folder import is_whole
from loja_sql.model.tokens import load_tokenizer
from loja_sql.prompt import render
from loja_sql.questions import linking
from loja_sql.questions.splits import NAMES
from loja_sql.sql.database import Database

FIRST = {
    "quantos clientes temos em Minas Gerais?": "SELECT COUNT(*) FROM clientes WHERE uf = 'MG'",
    "quais os 3 produtos mais caros?": "SELECT nome FROM produtos ORDER BY preco DESC LIMIT 3",
    "faturamento por forma de pagamento em 2024": (
        "SELECT pe.pagamento, SUM(i.quantidade * i.preco_unitario) FROM itens_pedido i "
        "JOIN pedidos pe ON pe.id = i.pedido_id WHERE pe.status <> 'cancelado' "
        "AND pe.data LIKE '2024%' GROUP BY pe.pagamento"
    ),
}


@pytest.fixture
def config(tmp_path, shop_11):
    (tmp_path / "loja_11.sqlite").symlink_to(shop_11)
    return as_trained(
        load_config(None, [f"data.output_dir={tmp_path}", "database.seeds=[11]"]), SHIPPED
    )


def test_it_is_whole_small_and_carries_no_pickle():
    assert trained_kind(SHIPPED) == "lora" and is_whole(SHIPPED)
    files = [path for path in SHIPPED.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 24e6
    assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    settings = json.loads((SHIPPED / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize("engine", ["transformers", "llamacpp"])
def test_the_first_questions_of_the_readme_are_answered_right(config, engine):
    bank = Database(config.databases[0])
    config.generation.engine = engine
    if engine == "llamacpp" and not (has_llama_cpp() and "q8_0" in exported_forms(SHIPPED)):
        pytest.skip("falta o xllamacpp, ou o q8_0 que make setup exporta")
    for answer in Assistant(config, SHIPPED).ask_many(list(FIRST)):
        assert answer.result.rows == bank.run(FIRST[answer.question]).rows, answer.sql


def test_its_tokenizer_is_the_one_anyone_would_load():
    ours, usual = load_tokenizer(load_config(), SHIPPED), AutoTokenizer.from_pretrained(SHIPPED)
    assert type(ours) is type(usual) and ours.chat_template == usual.chat_template
    texts = [*FIRST, *FIRST.values()]
    assert ours(texts).input_ids == usual(texts).input_ids


def test_plain_peft_opens_it_as_the_card_teaches(config):
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    base = AutoModelForCausalLM.from_pretrained(DEFAULT_MODEL, dtype=torch.float32)
    base.resize_token_embeddings(len(tokenizer))
    model = PeftModel.from_pretrained(base, SHIPPED)
    question, sql = next(iter(FIRST.items()))
    prompt = render(tokenizer, config, question, linking.context(config))
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    written = model.generate(input_ids=ids, max_new_tokens=60, do_sample=False)
    assert tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip() == sql


@pytest.mark.parametrize("split", ["test", "test_typos", "test_2", "test_3"])
def test_the_card_says_what_the_published_result_says(split):
    found = Evaluation.load(REFERENCE_DIR / f"mini_projeto_pronto_{split}.json")
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for name in ("treinado", *(x for x, v in found.variants.items() if v.group == "forms")):
        (row,) = (
            line for line in card.splitlines() if line.startswith(f"| {NAMES[split]} | {name} |")
        )
        assert interval(found.variants[name].execution_accuracy, 1, 100) in row


def test_the_configuration_that_made_it_is_the_default_one():
    """`python train.py` refaz o modelo que vem pronto: a receita publicada é a dos arquivos."""
    made, now = load_effective(SHIPPED), load_config()
    assert made.prompt == now.prompt and made.lora == now.lora and made.data == now.data
    assert made.training == now.training
