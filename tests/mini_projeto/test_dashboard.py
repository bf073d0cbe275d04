"""dashboard.py, charts.py e causes.py: o painel diz o que foi medido, sem rede e sem surpresas."""

import json
import re
from html import escape

import dashboard
import evaluate
import pytest
import train
from loja_sql.config import load_config
from loja_sql.page.charts import bars, chart_for, lines, number, scatter
from loja_sql.scores.metrics import proportion
from loja_sql.sql.causes import cause
from loja_sql.sql.database import Result


@pytest.fixture
def measured(project, monkeypatch):
    """Um modelo treinado e avaliado; devolve (config, pasta dos resultados)."""
    args, folder = project
    results = folder / "resultados"
    for module in (evaluate, dashboard):
        monkeypatch.setattr(module, "RESULTS_DIR", results)
    train.main(args)
    evaluate.main(args)
    return load_config(None, args), results


def test_the_page_is_self_contained_and_shows_every_variant(measured, capsys):
    config, results = measured
    html = dashboard.page(config)
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|<script', html)
    summary = json.loads((results / "mini_projeto_lora_teste.json").read_text())
    for name, part in summary["variantes"].items():
        assert name in html
        assert number(part["uma_a_uma"]["p50_s"]) in html
    for title in ("Acurácia de execução por variante", "Tamanho × acurácia", "Perda",
                  "Por tipo de consulta", "Por que errou", "Respostas lado a lado"):  # fmt: skip
        assert title in html
    assert html.count("<details open>") == 6, "as seis perguntas do teste"


def test_before_any_measure_it_says_what_to_run(project, monkeypatch):
    args, folder = project
    monkeypatch.setattr(dashboard, "RESULTS_DIR", folder / "vazio")
    html = dashboard.page(load_config(None, args))
    assert "Ainda não há notas" in html and "python evaluate.py" in html


def test_failures_are_shown_by_cause_with_examples(measured):
    config, results = measured
    text = (results / "mini_projeto_lora_teste.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    wrong = [x for x in rows if x["variant"] == evaluate.TUNED and not x["correct"]]
    section = dashboard.page(config).split("Erros, por causa: treinado")[1].split("<section")[0]
    assert sum(map(int, re.findall(r"<summary>[^<]+ \((\d+)\)", section))) == len(wrong) > 0
    assert escape(wrong[0]["gold"]) in section


def test_the_learning_curve_orders_the_trainings_of_one_method():
    def part(group, method, examples):
        training = {"metodo": method, "exemplos": examples} if method else None
        return {"grupo": group, "treino": training, "acuracia_execucao": proportion([True, False])}

    html = dashboard._learning_curve({
        "base": part("base", None, 0), "treinado": part("treinado", "lora", 9000),
        "treinado, menor": part("outros", "lora", 300),
        "treinado, full": part("outros", "full", 300),
        "treinado, bf16": part("formas", "lora", 9000),
    })  # fmt: skip
    shown = [html.find(text) for text in ("300 exemplos: treinado, menor", "9.000 exemplos")]
    assert 0 <= shown[0] < shown[1]
    assert "full" not in html and "bf16" not in html and "Um treino só" not in html


def test_what_the_model_wrote_cannot_become_html(measured):
    config, results = measured
    path = results / "mini_projeto_lora_teste.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for row in rows:
        row["predicted"] = "<script>alert(1)</script>"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    assert "<script" not in dashboard.page(config)


def test_command_writes_the_file(measured, capsys):
    config, results = measured
    output = results / "meu.html"
    args = [f"training.output_dir={config.output_dir}", "--output", str(output)]
    assert dashboard.main(args) == 0
    assert output.read_text("utf-8").startswith("<!doctype html>")
    assert str(output) in capsys.readouterr().out


GOLD = "SELECT COUNT(*) FROM clientes WHERE uf = 'MG' AND cidade = 'Betim'"


@pytest.mark.parametrize(
    ("predicted", "error", "expected"),
    [
        ("SELECT COUNT(* FROM clientes", "SQL inválido: x", "SQL inválido"),
        ("SELECT COUNT(*) FROM vendedores WHERE uf = 'MG' AND 1", None, "tabela errada"),
        (GOLD.replace("MG", "SP"), None, "valor errado no filtro"),
        ("SELECT COUNT(*) FROM clientes WHERE uf = 'MG'", None, "filtro a menos"),
        (GOLD + " AND id > 3", None, "filtro a mais"),
        (GOLD + " GROUP BY uf", None, "agrupamento"),
        (GOLD.replace("COUNT(*)", "MAX(id)"), None, "função de agregação"),
        (GOLD + " LIMIT 1", None, "ordem ou limite"),
        (GOLD.replace("COUNT(*)", "COUNT(*), 1"), None, "colunas da resposta"),
        (GOLD + " ORDER BY MAX(id)", None, "ordem ou limite"),
        (GOLD.replace("cidade =", "cidade <>"), None, "outro filtro"),
    ],
)
def test_the_cause_of_an_error_is_the_first_difference(predicted, error, expected):
    assert cause(GOLD, predicted, error) == expected


def test_a_sum_that_keeps_cancelled_orders_is_a_convention_forgotten():
    gold = (
        "SELECT SUM(i.quantidade) FROM itens_pedido i JOIN pedidos pe ON pe.id = i.pedido_id "
        "WHERE pe.status <> 'cancelado' AND pe.data LIKE '2024%'"
    )
    forgotten = "SELECT SUM(quantidade) FROM itens_pedido"
    assert cause(gold, forgotten, None) == "convenção esquecida"
    assert cause(gold, gold.replace("2024", "2023"), None) == "valor errado no filtro"
    assert cause(gold, "SELECT COUNT(*) FROM pedidos", None) == "tabela errada"


def test_the_cause_survives_what_the_parser_does_not_understand():
    assert cause(GOLD, "SELECT ((((", None) == "outra"


def test_bars_keep_proportion_and_draw_the_interval():
    html = bars([("a", 0.5, (0.25, 0.75), "50%"), ("<b>", 1.0, None, "100%")], 1)
    assert 'style="width:50.0%' in html and 'style="width:100.0%' in html
    assert 'style="left:25.0%;width:50.0%"' in html
    assert "&lt;b&gt;" in html and "<b>" not in html


def test_curves_stay_inside_the_frame():
    svg = lines({"treino": [(0, 3.0), (100, 0.1)]}, "passo", "nats") + scatter(
        {"x": (10, 80.0), "y": (500, 82.0)}, "MB", "%"
    )
    for x, y in re.findall(r"([\d.]+),([\d.]+)", " ".join(re.findall(r'points="([^"]+)"', svg))):
        assert 0 <= float(x) <= 360 and 0 <= float(y) <= 220
    assert 'role="img"' in svg and "nats por passo" in svg


def test_points_too_close_for_two_labels_share_one():
    html = scatter({"a": (100, 80.0), "b": (101, 80.5), "<c>": (10, 20.0)}, "MB", "%")
    assert ">1, 2</text>" in html and ">3</text>" in html
    assert "<li>&lt;c&gt;: 10; 20</li>" in html


def test_variants_with_the_same_answer_share_a_line():
    line = {"id": "1", "question": "quantos?", "gold": "SELECT 1", "cause": None}
    answers = {"treinado": ("SELECT 1", True), "treinado, q8_0": ("SELECT 1", True),
               "base": ("SELECT 2", False)}  # fmt: skip
    details = [line | {"variant": v, "predicted": sql, "correct": ok}
               for v, (sql, ok) in answers.items()]  # fmt: skip
    html = dashboard._samples(details, ["base", "treinado", "treinado, q8_0"])
    assert "treinado · treinado, q8_0" in html
    assert html.index(">base<") < html.index("treinado ·"), "na ordem das tabelas"


@pytest.mark.parametrize(
    ("columns", "rows", "drawn"),
    [
        (["uf", "n"], [("MG", 3), ("SP", 5)], True),
        (["uf", "n"], [("MG", 3)], False),
        (["uf", "n"], [("MG", 3), ("MG", 5)], False),
        (["uf", "n"], [("MG", "x"), ("SP", 5)], False),
        (["uf", "n"], [("MG", -1), ("SP", 5)], False),
        (["uf", "n"], [("MG", None), ("SP", 5)], False),
        (["uf", "n"], [("MG", 0), ("SP", 0)], False),
        (["n", "m"], [(1, 2), (3, 4)], False),
        (["uf"], [("MG",), ("SP",)], False),
        (["uf", "n", "m"], [("MG", 1, 2), ("SP", 1, 2)], False),
        (["uf", "n"], [(str(i), i) for i in range(100)], False),
    ],
)
def test_a_chart_only_where_the_rows_have_the_shape_for_one(columns, rows, drawn):
    assert (chart_for(Result(columns, rows)) is not None) == drawn


def test_numbers_are_brazilian():
    assert [number(x) for x in (1234.5, 2, 0.417, 1e6)] == ["1.234,5", "2", "0,42", "1.000.000"]
