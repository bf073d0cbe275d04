"""dashboard.py, o painel e os gráficos: dizem o que foi medido, sem rede e sem surpresas."""

import json
import re
import shutil

from comum import statistics
from comum.numbers import interval
from comum.paths import REFERENCE_DIR
from comum.results import Evaluation
from comum.terminal import run_main

import pytest

import dashboard
from loja_sql.config import load_config
from loja_sql.page import charts, panel
from loja_sql.sql.causes import cause
from loja_sql.sql.database import Result

RESULTS = "mini_projeto_lora_test.json"
ROWS = [
    {"id": str(i), "variant": name, "question": f"pergunta {i}", "gold": f"SELECT {i} WHERE 1 < 2"}
    for i in range(20)
    for name in ("base com esquema", "treinado", "treinado, q8_0")
]


def answer(row: dict) -> dict:
    """O treinado erra de três em três, com a forma q8_0; o modelo base, sempre."""
    wrong = row["variant"] == "base com esquema" or int(row["id"]) % 3 == 0
    predicted = f"SELECT {row['id']}" if wrong else row["gold"]
    label = "filtro a menos" if wrong else None
    return row | {"predicted": predicted, "correct": not wrong, "cause": label}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Um treino e a avaliação dele, a nossa; devolve (config, pasta dos resultados)."""
    monkeypatch.setattr(panel, "RESULTS_DIR", tmp_path)
    shutil.copy(REFERENCE_DIR / "mini_projeto_lora_test.json", tmp_path / RESULTS)
    write_rows(tmp_path, map(answer, ROWS))
    steps = [{"step": 10, "loss": 2.5}, {"step": 20, "loss": 1.25, "eval_loss": 1.5}]
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in steps))
    return load_config(None, [f"training.output_dir={tmp_path / 'lora'}"]), tmp_path


def write_rows(folder, rows) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / RESULTS).with_suffix(".jsonl").write_text(text, "utf-8")


def without_scripts(html: str) -> str:
    return re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL)


def test_the_page_is_self_contained_and_shows_every_variant(measured):
    config, results = measured
    html = panel.page(config)
    shown = without_scripts(html)
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import', shown)
    assert "<script src" not in html and html.count("* plotly.js v") == 1
    evaluation = Evaluation.load(results / RESULTS)
    for name, part in evaluation.variants.items():
        assert f"<td>{name}</td>" in shown
        assert interval(part.execution_accuracy, 1, 100).replace("; ", ";\u00a0") in shown
    for title in (
        *("Acurácia de execução por variante", "Todas as medidas", "Tamanho × acurácia"),
        *("Latência × acurácia", "Perda", "Por tipo de consulta: treinado", "Por que errou"),
        *("Por dificuldade: treinado", "Acurácia por número de exemplos de treino"),
        *("Erros, por causa: treinado", "Respostas lado a lado"),
    ):
        assert f"<h2>{title}</h2>" in shown
    assert shown.count('class="plotly-graph-div"') == 7


def test_before_any_measure_it_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setattr(panel, "RESULTS_DIR", tmp_path)
    html = panel.page(load_config(None, [f"training.output_dir={tmp_path}"]))
    assert "Ainda não há notas" in html and "python evaluate.py" in html
    assert "plotly-graph-div" not in html


def test_failures_are_shown_by_cause_with_examples(measured):
    section = panel.page(measured[0]).split("Erros, por causa: treinado")[1].split("<h2>")[0]
    assert "<summary>filtro a menos (7)</summary>" in section
    assert section.count("<code>SELECT") == 2 * panel.SAMPLES_PER_CAUSE
    assert "SELECT 0 WHERE 1 &lt; 2" in section


def test_variants_with_the_same_answer_share_a_line(measured):
    section = panel.page(measured[0]).split("Respostas lado a lado")[1]
    assert section.count("<details open>") == panel.SAMPLES
    assert "base com esquema · treinado · treinado, q8_0" in section, "na ordem das tabelas"
    assert "<td>treinado · treinado, q8_0</td>" in section


def test_what_the_model_wrote_cannot_become_html(measured):
    config, results = measured
    attack = "<script>alert(1)</script>"
    write_rows(results, (answer(row) | {"predicted": attack, "question": attack} for row in ROWS))
    text = (results / RESULTS).read_text("utf-8")
    (results / RESULTS).write_text(text.replace('"treinado, gptq"', f'"{attack}"'), "utf-8")
    html = panel.page(config)
    assert attack not in html and "&lt;script&gt;alert(1)" in html


def test_the_learning_curve_orders_the_trainings_of_one_method(measured):
    variants = Evaluation.load(measured[1] / RESULTS).variants
    assert list(panel.learning(variants)) == [
        "1.494 exemplos: treinado, lora_1500",
        "2.989 exemplos: treinado, lora_3000_lr3",
        "2.989 exemplos: treinado, lora_3000",
        "14.715 exemplos: treinado",
    ], "sem o de todos os pesos, o QLoRA e as formas exportadas"


def test_command_writes_the_file_or_says_what_is_wrong(measured, capsys):
    config, results = measured
    output = results / "meu.html"
    args = [f"training.output_dir={config.output_dir}", "--output", str(output)]
    assert run_main(dashboard.main, args) == 0
    assert output.read_text("utf-8").startswith("<!doctype html>")
    assert str(output) in capsys.readouterr().out
    (results / RESULTS).write_text("{", "utf-8")
    assert run_main(dashboard.main, args) == 2
    assert RESULTS in capsys.readouterr().err


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
        ("SELECT ((((", None, "outra"),
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


def test_score_bars_draw_value_and_interval():
    half, whole = statistics.proportion([True, False]), statistics.proportion([True] * 9)
    figure = charts.score_bars({"a": half, "<b>": whole})
    bar, column = figure.data
    assert bar.x == (0.5, 1.0) and figure.layout.xaxis.range[1] > 1
    for x, above, below in zip(bar.x, bar.error_x.array, bar.error_x.arrayminus, strict=True):
        assert above >= 0 and below > 0 and x - below >= 0 and x + above <= 1
    assert figure.layout.yaxis.ticktext == ("a", "&lt;b&gt;")
    assert column.text == ("50,0%", "100,0%")
    assert "[" in bar.hovertext[0]


def test_long_labels_are_folded_and_similar_ones_stay_apart():
    long = "um rótulo tão comprido que não cabe " * 9
    figure = charts.chart_for(Result(["a", "n"], [(long + "x", 1), (long + "y", 2.5)]))
    labels = figure.layout.yaxis.ticktext
    assert all(label.count("<br>") == charts.LABEL_LINES - 1 for label in labels)
    assert figure.data[0].y == (0, 1) and figure.data[0].x == (1, 2.5)
    assert figure.data[1].text == ("1,00", "2,50")


def test_points_too_close_for_two_numbers_share_one():
    figure = charts.scatter({"a": (100, 80), "b": (101, 80.5), "<c>": (10, 20)}, "MB", "%")
    assert figure.data[0].text == ("1, 2", "", "3")
    assert figure.data[0].hovertext[2] == "&lt;c&gt;"


def test_curves_keep_every_point_and_start_at_zero():
    figure = charts.curves({"treino": [(0, 3.0), (100, 0.1)], "validação": [(50, 1)]}, "passo", "n")
    assert [trace.name for trace in figure.data] == ["treino", "validação"]
    assert figure.data[0].x == (0, 100) and figure.data[0].y == (3.0, 0.1)
    assert figure.layout.yaxis.rangemode == "tozero" and figure.layout.separators == ",."


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
        (["uf", "n"], [("", 1), ("\x00<a href=x>", 9e300)], True),
    ],
)
def test_a_chart_only_where_the_rows_have_the_shape_for_one(columns, rows, drawn):
    assert (charts.chart_for(Result(columns, rows)) is not None) == drawn
