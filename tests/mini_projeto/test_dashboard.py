"""dashboard.py, o painel e os gráficos: dizem o que foi medido, sem rede e sem surpresas."""

import json
import re
import shutil
from itertools import pairwise

from comum import statistics
from comum.numbers import interval
from comum.paths import REFERENCE_DIR
from comum.results import Evaluation
from comum.terminal import run_main

import pytest

import dashboard
from loja_sql.config import load_config
from loja_sql.page import charts, panel, words
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
    shutil.copy(REFERENCE_DIR / "mini_projeto_pronto_test.json", tmp_path / RESULTS)
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
    assert '"modeBarButtons": [["toImage"]]' in html, "nem um botão que mande o gráfico a alguém"
    assert "<script src" not in html and html.count("* plotly.js v") == 1
    variants = Evaluation.load(results / RESULTS).variants
    for name, title in panel.titles(variants).items():
        assert f'<th scope="row">{title}</th>' in shown
        score = interval(variants[name].execution_accuracy, 1, 100)
        assert score.replace("; ", ";\u00a0") in shown
    for title in (
        *("Quanto cada modelo acerta", "Quanto cada modelo custa", "Onde acerta: treinado"),
        *("Quanto valem mais exemplos", "Por que errou", "A perda durante o treino"),
        "Dois modelos, pergunta a pergunta",
    ):
        assert f"<h2>{title}</h2>" in shown
    assert shown.count('class="plotly-graph-div"') == 8


def test_the_best_comes_first_with_a_name_for_people(measured):
    variants = Evaluation.load(measured[1] / RESULTS).variants
    facts = panel.measured(Evaluation.load(measured[1] / RESULTS), [])
    values = [part.value for part in facts["accuracy"].values()]
    assert values == sorted(values, reverse=True)
    titles = panel.titles(variants)
    assert titles["treinado, full_4e4"] == "todos os pesos, 3.255 exemplos, 160 passos"
    assert titles["treinado, lora_4e3"].startswith("LoRA, 3.255 exemplos")
    assert titles["treinado, q8_0"] == "q8_0 (GGUF, 8 bits)"
    assert titles["base com esquema, 4 exemplos"] == "sem treino, 4 exemplos"
    assert len(set(titles.values())) == len(titles)


def test_without_own_results_it_shows_those_of_the_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(panel, "RESULTS_DIR", tmp_path)
    html = panel.page(load_config(None, [f"training.output_dir={tmp_path / 'novo'}"]))
    assert "Ainda não há notas dos seus modelos" in html and "python evaluate.py" in html
    assert without_scripts(html).count('class="plotly-graph-div"') >= 7
    ours = Evaluation.load(REFERENCE_DIR / RESULTS.replace("lora", "pronto")).variants["treinado"]
    assert interval(ours.execution_accuracy, 1, 100).replace("; ", ";\u00a0") in html


def test_failures_are_shown_by_cause_with_examples(measured):
    section = panel.page(measured[0]).split("Exemplos, por causa: treinado")[1].split("<h2>")[0]
    assert "<summary>filtro a menos (7)</summary>" in section
    assert section.count("<code>SELECT") == 2 * panel.SAMPLES_PER_CAUSE
    assert "SELECT 0 WHERE 1 &lt; 2" in section


def test_every_run_can_be_picked_and_any_two_models_compared(measured):
    config, results = measured
    for kind in (".json", ".jsonl"):
        shutil.copy(
            (results / RESULTS).with_suffix(kind), results / f"mini_projeto_novo_test{kind}"
        )
    shown = panel.page(config)
    assert re.findall(r'<section data-run="(\w+)"( hidden)?', shown) == [
        ("lora", ""),
        ("novo", " hidden"),
    ]
    [data] = re.findall(r'id="answers">(.*?)</script>', shown)
    found = json.loads(data)
    assert list(found["variants"])[0] == "lora · treinado"
    assert set(found["variants"]["novo · treinado"]) == set(found["questions"])
    assert found["variants"]["lora · treinado"]["3: SELECT 3 WHERE 1 < 2"] == ["SELECT 3", 0]


def test_a_model_is_compared_with_itself_on_questions_worded_otherwise(measured):
    config, results = measured
    reworded = [
        row | {"variant": "treinado, sem acentos", "question": row["question"].upper()}
        for row in ROWS
        if row["variant"] == "treinado"
    ]
    write_rows(results, map(answer, [*ROWS, *reworded]))
    [data] = re.findall(r'id="answers">(.*?)</script>', panel.page(config))
    found = json.loads(data)
    assert set(found["variants"]["treinado, sem acentos"]) == set(found["variants"]["treinado"])
    assert {question for question, _ in found["questions"].values()} == {
        row["question"] for row in ROWS
    }


def test_an_evaluation_on_another_split_is_one_s_own_too(measured):
    config, results = measured
    (results / RESULTS).rename(results / "mini_projeto_lora_test_2.json")
    shown = panel.page(config)
    assert '<section data-run="lora_test_2">' in shown and "Ainda não há notas" not in shown


def test_answers_without_scores_yet_are_left_out(measured):
    """evaluate.py interrompido depois de gravar as respostas e antes de gravar as notas."""
    config, results = measured
    new = {"variant": "treinado, f16", "question": "pergunta nova"}
    write_rows(results, map(answer, [*ROWS, ROWS[0] | new]))
    assert "pergunta nova" not in panel.page(config)


def test_only_the_wordings_are_enough_for_a_page(measured):
    """`evaluate.py --wordings --only wordings`: não há dois modelos a pôr num gráfico de custo."""
    config, results = measured
    found = json.loads((results / RESULTS).read_text("utf-8"))
    parts = found["variants"].items()
    found["variants"] = {name: part for name, part in parts if part["group"] == "wordings"}
    (results / RESULTS).write_text(json.dumps(found), "utf-8")
    shown = without_scripts(panel.page(config))
    assert "treinado, sem acentos" in shown and "Tempo × acurácia" not in shown


def test_a_model_alone_has_no_empty_charts_and_its_errors_are_bars(measured):
    """O que vê quem mede só o modelo que vem com o repositório."""
    config, results = measured
    found = json.loads((results / RESULTS).read_text("utf-8"))
    found["variants"] = {"treinado": found["variants"]["treinado"]}
    (results / RESULTS).write_text(json.dumps(found), "utf-8")
    shown = without_scripts(panel.page(config))
    assert "340 perguntas (teste)" in shown, "o nome da divisão em português"
    assert "× acurácia" not in shown and "linha laranja" not in shown
    bar, column = charts.stacked(["treinado"], {"agrupamento": [4], "outra": [1]}).data
    assert bar.x == (4, 1) and column.text == ("4", "1")


def test_what_the_model_wrote_never_becomes_markup(measured):
    config, results = measured
    attack = "<script>alert(1)</script>"
    write_rows(results, (answer(row) | {"predicted": attack, "question": attack} for row in ROWS))
    text = (results / RESULTS).read_text("utf-8")
    (results / RESULTS).write_text(text.replace('"treinado, gptq"', f'"{attack}"'), "utf-8")
    html = panel.page(config)
    assert attack not in html and "&lt;script&gt;alert(1)" in html


def test_the_learning_curve_keeps_the_best_of_each_size_of_one_method(measured):
    variants = Evaluation.load(measured[1] / RESULTS).variants
    ours, names = variants["treinado"], ("lora_4e3", "sem_dicas", "sem_fundir")
    small = [variants[f"treinado, {name}"].execution_accuracy for name in names]
    assert panel.learning(variants) == [
        (3255, max(small, key=lambda score: score.value)),
        (ours.training.examples, ours.execution_accuracy),
    ]


def test_losses_of_the_runs_found_stand_side_by_side(measured):
    config, results = measured
    (results / "outro").mkdir()
    shutil.copy(results / "lora" / "metrics.jsonl", results / "outro" / "metrics.jsonl")
    found = panel.losses(config.output_dir)
    assert found["lora: treino"] == [(10, 2.5), (20, 1.25)]
    assert found["outro: validação"] == [(20, 1.5)]
    assert list(found) == ["lora: treino", "lora: validação", "outro: validação"]


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
    result = Result(["a", "n"], [(long + "x", 1), (long + "y", 2.5)])
    figure = charts.chart_for(result, words.columns("SELECT * FROM t", result))
    labels = figure.layout.yaxis.ticktext
    assert all(label.count("<br>") == charts.LABEL_LINES - 1 for label in labels)
    assert figure.data[0].y == (0, 1) and figure.data[0].x == (1, 2.5)
    assert figure.data[1].text == ("1,00", "2,50")


def test_names_beside_the_points_do_not_touch_and_no_model_beats_the_line():
    points = {f"m{i}": (100 - i, 80 + i / 10) for i in range(12)} | {"<c>": (10, 0), "d": (200, 0)}
    dots, best, _, labels = charts.scatter(points, "MB", "%").data
    assert sorted(labels.text) == sorted(dots.hovertext) and "&lt;c&gt;" in labels.text
    pixels = (charts.SCATTER_HEIGHT - 60) / 112
    gaps = [above - below for above, below in pairwise(labels.y)]
    assert min(gaps) * pixels >= charts.LABEL_HEIGHT - 1e-6
    assert max(labels.y) <= 106 and min(labels.y) >= -6
    assert (best.x, best.y) == ((10, 89), (0, 81.1))


def test_curves_keep_every_point_and_start_at_zero():
    figure = charts.curves({"treino": [(0, 3.0), (100, 0.1)], "validação": [(50, 1)]}, "passo", "n")
    assert [trace.name for trace in figure.data] == ["treino", "validação"]
    assert figure.data[0].x == (0, 100) and figure.data[0].y == (3.0, 0.1)
    assert figure.layout.yaxis.rangemode == "tozero" and figure.layout.separators == ",."


@pytest.mark.parametrize(
    ("columns", "rows", "drawn"),
    [
        (["uf", "n"], [("MG", 3), ("SP", 5)], "bar"),
        (["uf", "n"], [("MG", 3)], None),
        (["uf", "n"], [("MG", 3), ("MG", 5)], None),
        (["uf", "n"], [("MG", "x"), ("SP", 5)], None),
        (["uf", "n"], [("MG", -1), ("SP", 5)], None),
        (["uf", "n"], [("MG", None), ("SP", 5)], None),
        (["uf", "n"], [("MG", 0), ("SP", 0)], None),
        (["n", "m"], [(1, 2), (3, 4)], None),
        (["uf"], [("MG",), ("SP",)], None),
        (["uf", "n", "m"], [("MG", 1, 2), ("SP", 1, 2)], None),
        (["uf", "n"], [(str(i), i) for i in range(100)], None),
        (["uf", "n"], [("", 1), ("\x00<a href=x>", 9e300)], "bar"),
        (["d", "n"], [("2024-02", -3), ("2024-01", 5)], "scatter"),
        (["d", "n"], [(f"2024-01-{d:02}", d) for d in range(1, 32)], "scatter"),
    ],
)
def test_the_chart_is_the_one_the_shape_of_the_rows_asks_for(columns, rows, drawn):
    result = Result(columns, rows)
    figure = charts.chart_for(result, words.columns("SELECT * FROM t", result))
    assert (figure and figure.data[0].type) == drawn


def test_a_line_over_time_is_in_the_order_of_time():
    result = Result(["mês", "n"], [("2024-10", 2), ("2024-02", 1)])
    [line] = charts.chart_for(result, words.columns("SELECT * FROM t", result)).data
    assert line.x == ("fev. 2024", "out. 2024") and line.y == (1, 2)
