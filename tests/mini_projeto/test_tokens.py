"""tokens.py: os pedaços fundidos encurtam o SQL, não o mudam, e o adaptador os carrega."""

import json

import comum  # noqa: F401  (antes do torch)
from comum.models import load_model as load_base
from comum.models import load_tokenizer

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import train
from loja_sql.config import load_config
from loja_sql.model import tokens
from loja_sql.model.loading import load_model
from loja_sql.shop import DATA_DIR

QUERIES = [
    json.loads(line)["sql"]
    for line in (DATA_DIR / "perguntas_curadas.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()[:400]
]


def test_the_pieces_shorten_queries_and_give_them_back(tiny_llama):
    plain, merged = load_tokenizer(str(tiny_llama)), load_tokenizer(str(tiny_llama))
    pieces = tokens.learn_tokens(QUERIES, plain, 32)
    assert len(set(pieces)) == 32 and all(piece in "".join(QUERIES) for piece in pieces)
    tokens.add_tokens(merged, pieces)
    before, after = (sum(map(len, t(QUERIES).input_ids)) for t in (plain, merged))
    assert after < 0.7 * before
    for query in [*QUERIES[:50], "SELECT nome FROM clientes WHERE nome = 'João d''Água' LIMIT 12"]:
        assert merged.decode(merged(query, add_special_tokens=False).input_ids) == query


def test_names_and_numbers_stay_in_the_tokens_of_the_question(tiny_llama):
    names = ["Ana", "Bruno", "Caio", "Davi", "Eva"]
    queries = [f"SELECT id FROM clientes WHERE nome = '{n}' LIMIT 7" for n in names * 30]
    queries += ["SELECT 100.0 * COUNT(*) FROM pedidos WHERE status <> 'cancelado'"] * 300
    pieces = tokens.learn_tokens(queries, load_tokenizer(str(tiny_llama)), 16)
    assert "SELECT 100.0 * COUNT(*)" in pieces and " WHERE nome = '" in pieces
    assert not [piece for piece in pieces if "7" in piece]
    rare = tokens.learn_tokens([*QUERIES, queries[0]], load_tokenizer(str(tiny_llama)), 64)
    assert not [piece for piece in rare if "Ana" in piece]


def test_a_new_row_starts_as_the_mean_of_its_parts(tiny_llama):
    tokenizer, model = load_tokenizer(str(tiny_llama)), load_base(str(tiny_llama))
    parts, known = tokenizer(" FROM clientes", add_special_tokens=False).input_ids, len(tokenizer)
    expected = model.get_input_embeddings().weight[parts].mean(0)
    tokens.add_tokens(tokenizer, [" FROM clientes"])
    tokens.fit(model, tokenizer)
    tokens.start(model, tokenizer, range(known, len(tokenizer)))
    torch.testing.assert_close(model.get_input_embeddings().weight[known], expected)
    assert model.get_output_embeddings().weight.data_ptr() == (
        model.get_input_embeddings().weight.data_ptr()
    )


def test_the_adapter_opens_in_plain_peft_after_the_documented_step(trained):
    args, folder = trained
    config = load_config(None, args)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(config.model_path)
    assert len(tokenizer) > base.get_input_embeddings().num_embeddings
    base.resize_token_embeddings(len(tokenizer))
    plain = PeftModel.from_pretrained(base, folder).eval()
    ours, ids = load_model(config, folder), torch.tensor([[5, len(tokenizer) - 1, 9]])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)


def test_the_new_rows_learn_and_the_whole_table_is_not_saved(trained):
    args, folder = trained
    config = load_config(None, args)
    with safe_open(folder / "adapter_model.safetensors", "pt") as saved:
        names = [name for name in saved.keys() if "lora_" not in name]  # noqa: SIM118
        rows = [saved.get_tensor(name) for name in names]
    new = len(tokens.load_tokenizer(config, folder)) - len(tokens.load_tokenizer(config))
    assert [len(row) for row in rows] == [new]
    base, tokenizer = load_base(config.model_path), tokens.load_tokenizer(config, folder)
    tokens.fit(base, tokenizer)
    tokens.start(base, tokenizer, range(len(tokenizer) - new, len(tokenizer)))
    assert not torch.allclose(rows[0], base.get_input_embeddings().weight[-new:])


def test_without_merged_tokens_the_vocabulary_is_the_base_one(project):
    args, path = project
    assert train.main([*args, "model.merged_tokens=0", "training.max_steps=1"]) == 0
    config = load_config(None, [*args, "model.merged_tokens=0"])
    assert len(tokens.load_tokenizer(config, path / "lora")) == len(tokens.load_tokenizer(config))
