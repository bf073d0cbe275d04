"""As abas da página: perguntar, comparar, métricas; e a API, com as mesmas filas."""

import time
from collections.abc import Iterator
from functools import partial
from html import escape

from comum.numbers import any_size, decimal
from comum.terminal import UserError

import gradio as gr

from loja_sql.model.assistant import MAX_QUESTION_CHARS, Answer, shown_rows
from loja_sql.page.charts import chart_for
from loja_sql.page.panel import pieces
from loja_sql.page.session import Page
from loja_sql.page.terminal import format_table
from loja_sql.sql.database import Result

EXAMPLES = [
    "quantos clientes temos em Minas Gerais?",
    "quais os 3 produtos mais caros?",
    "faturamento por forma de pagamento em 2024",
    "quais produtos estão esgotados?",
    "quantos pedidos por status?",
]
SHOWN_ROWS = 200
HISTORY = 30
UPDATES_PER_SECOND = 8
QUEUE_SIZE = 200
SQL_AT_ONCE = 4
PRIVATE = {"api_visibility": "private"}  # a página usa, a API não mostra


def build(page: Page) -> gr.Blocks:
    """Monta a página; cada aba tem a sua função."""
    # Uma fila para quem usa o modelo, pela página ou pela API: tantos quantos o motor atende.
    queue = {"concurrency_limit": page.assistant.engine.slots, "concurrency_id": "modelo"}
    with gr.Blocks(title="Pergunte à loja", analytics_enabled=False) as blocks:
        gr.Markdown("# Pergunte à loja\nPerguntas em português viram SQL; o banco responde.")
        with gr.Tab("Perguntar"):
            AskTab(page).wire(queue)
        with gr.Tab("Comparar"):
            _compare_tab(page)
        with gr.Tab("Métricas"):
            refresh = gr.Button("Atualizar", size="sm")
            gr.render(triggers=[blocks.load, refresh.click])(partial(_metrics, page))
        gr.api(page.ask, api_name="perguntar", **queue)
        gr.api(page.run_sql, api_name="executar", concurrency_limit=SQL_AT_ONCE)
    return blocks.queue(max_size=QUEUE_SIZE)


class AskTab:
    """Os componentes da aba Perguntar; os métodos são o que os botões fazem com eles."""

    def __init__(self, page: Page) -> None:
        self.page, self.engine = page, page.assistant.engine.name
        with gr.Row(elem_classes="pergunta"):
            self.question = _question_box("Sua pergunta", "pergunta", scale=5, min_width=240)
            self.ask = _button("Perguntar", "perguntar", variant="primary", size="lg")
        gr.Examples([[text] for text in EXAMPLES], self.question, label="Exemplos")
        self.state = gr.HTML(elem_id="estado", padding=True)
        code = {"language": "sql", "wrap_lines": True, "buttons": ["copy"]}
        label = "SQL (edite e execute de novo)"
        self.sql = gr.Code(label=label, interactive=True, lines=3, elem_id="sql", **code)
        with gr.Row():
            self.run = _button("Executar o SQL", "executar")
            self.download = gr.DownloadButton(
                "Baixar CSV", size="sm", elem_id="baixar", visible=False, min_width=140
            )
            self.good = _button("👍 Está certo", "certo")
            self.bad = _button("👎 Está errado", "errado")
        self.thanks = gr.Markdown(elem_id="obrigado")
        label = "Linhas (clique no título de uma coluna para ordenar)"
        self.rows = gr.Dataframe(
            label=label, interactive=False, wrap=True, elem_id="linhas", visible=False
        )
        self.chart = gr.Plot(elem_id="grafico", show_label=False, visible=False)
        with gr.Accordion("Histórico", open=False):
            self.history = gr.Dataset(
                label="Perguntas desta visita (clique para rever)",
                components=["textbox"],
                samples=[],
                type="index",
                elem_id="historico",
            )
        with gr.Accordion("Esquema do banco", open=False):
            gr.Code(page.assistant.schema, label="Tabelas", interactive=False, **code)
        self.past = gr.State([])  # [(pergunta, SQL do modelo)], da mais nova para a mais velha

    def wire(self, queue: dict) -> None:
        """Liga os botões aos métodos."""
        outputs = [self.state, self.rows, self.chart, self.download]
        everything = [self.sql, self.past, self.history, self.thanks, *outputs]
        progress = {"show_progress": "minimal", "show_progress_on": self.state}
        for event in (self.ask.click, self.question.submit):
            inputs = [self.question, self.past]
            event(self.answering, inputs, everything, **progress, **queue, **PRIVATE)
        limit = {"concurrency_limit": SQL_AT_ONCE}
        self.run.click(self.execute, self.sql, outputs, **limit, **PRIVATE)
        reviewed = [self.question, self.sql, *outputs]
        self.history.click(self.review, [self.history, self.past], reviewed, **PRIVATE)
        for button, good in ((self.good, True), (self.bad, False)):
            inputs = [self.question, self.past, self.sql]
            button.click(partial(self.opinion, good=good), inputs, self.thanks, **PRIVATE)

    def answering(self, text: str, past: list) -> Iterator[list]:
        """Mostra o SQL à medida que sai e, no fim, o resultado."""
        latest = 0.0
        for answer in self.page.assistant.stream(text):
            if answer.result is None and answer.error is None:
                if answer.seconds - latest > 1 / UPDATES_PER_SECOND:
                    latest = answer.seconds
                    state, skipped = status(answer, self.engine), [gr.skip()] * 3
                    yield [answer.sql, past, gr.skip(), "", state, *skipped]
                continue
            if answer.sql:
                past = [(answer.question, answer.sql), *past][:HISTORY]
            history = gr.Dataset(samples=[[question] for question, _ in past])
            yield [answer.sql, past, history, "", *self.shown(answer, self.engine)]

    def execute(self, sql: str) -> list:
        return self.shown(self.page.assistant.execute(sql), "SQL executado")

    def review(self, index: int, past: list) -> list:
        """Traz de volta uma pergunta da visita, com a resposta que o modelo deu."""
        question, sql = past[index]
        return [question, sql, *self.shown(self.page.assistant.execute(sql), "do histórico")]

    def opinion(self, question: str, past: list, edited: str, good: bool) -> str:
        model_sql = next((sql for asked, sql in past if asked == question), "")
        return self.page.save_opinion(question, model_sql, edited, good)

    def shown(self, answer: Answer, source: str) -> list:
        """Estado, linhas, gráfico e CSV de uma resposta completa."""
        result = answer.result
        some, chart = bool(result and result.rows), result and chart_for(result)
        return [
            status(answer, source),
            gr.Dataframe(grid(result), visible=some),
            gr.Plot(chart, visible=chart is not None),
            gr.DownloadButton(value=self.page.save_csv(result) if some else None, visible=some),
        ]


def _question_box(label: str, name: str, **options) -> gr.Textbox:
    limit = {"max_length": MAX_QUESTION_CHARS, "placeholder": EXAMPLES[0]}
    return gr.Textbox(label=label, elem_id=name, **limit, **options)


def _button(label: str, name: str, variant: str = "secondary", size: str = "sm") -> gr.Button:
    return gr.Button(label, variant=variant, size=size, elem_id=name, min_width=140)


def status(answer: Answer, source: str) -> str:
    """A linha de estado, em HTML: o que houve, quantas linhas e em quanto tempo."""
    if answer.error:
        return f'<span class="erro" role="alert">Não deu certo: {escape(answer.error)}.</span>'
    if answer.result is None:
        return "Escrevendo a consulta…"
    count = len(answer.result.rows)
    lines = {0: "nenhuma linha", 1: "1 linha"}.get(count, f"{decimal(count)} linhas")
    if answer.result.truncated:
        lines = f"mais de {lines}"
    if count > SHOWN_ROWS:
        lines += f" (aqui, as primeiras {SHOWN_ROWS}; o CSV traz todas)"
    spent = f"{lines} em {decimal(answer.seconds, 2)} s · {source}"
    return f'<span role="status">{escape(spent)}</span>'


def grid(result: Result | None) -> dict:
    """As primeiras linhas na forma que o gr.Dataframe espera.

    `data` são os valores, pelos quais as colunas se ordenam; `display_value`, o que se lê.
    """
    if result is None or not result.rows:
        return {"headers": result.columns if result else [""], "data": []}
    rows = shown_rows(result)[:SHOWN_ROWS]
    display = [[_cell(value) for value in row] for row in rows]
    return {"headers": result.columns, "data": rows, "metadata": {"display_value": display}}


def _cell(value: object) -> str:
    """Um valor como se lê: `407.617,52`. Inteiros ficam como vieram: podem ser um ano."""
    if isinstance(value, float):
        return any_size(value)
    return "NULL" if value is None else str(value)


def _compare_tab(page: Page) -> None:
    names = page.compared
    question = _question_box("A mesma pergunta para todos", "comparar-pergunta", value=EXAMPLES[0])
    quantized = [name for name in names[2:] if not name.endswith("bf16")]
    chosen = gr.CheckboxGroup(
        names, value=names[:2] + quantized[:1], label="Modelos", elem_id="modelos"
    )
    go = _button("Comparar", "comparar", variant="primary", size="lg")
    output = gr.HTML(elem_id="comparacao")

    def comparing(text: str, selected: list[str]) -> Iterator[str]:
        if not selected:
            yield '<span class="erro">Escolha ao menos um modelo.</span>'
            return
        latest = 0.0
        for found in page.compare(text, [name for name in names if name in selected]):
            if time.perf_counter() - latest > 1 / UPDATES_PER_SECOND:
                latest = time.perf_counter()
                yield side_by_side(found)
        yield side_by_side(found)

    options = {"concurrency_limit": 1, "show_progress": "minimal", **PRIVATE}
    for event in (go.click, question.submit):
        event(comparing, [question, chosen], output, **options)


def side_by_side(answers: dict[str, Answer]) -> str:
    """Uma coluna por modelo (empilhadas no telefone): SQL, estado e as primeiras linhas."""
    columns = []
    for name, answer in answers.items():
        result = format_table(answer.result) if answer.result else ""
        columns.append(
            f'<section><h3>{escape(name)}</h3><pre class="sql">{escape(answer.sql)}</pre>'
            f"<p>{status(answer, name)}</p><pre>{escape(result)}</pre></section>"
        )
    return f'<div class="lado-a-lado">{"".join(columns)}</div>'


def _metrics(page: Page) -> None:
    """O painel de agora, refeito a cada visita e a cada clique em Atualizar."""
    try:
        found = pieces(page.config)
    except UserError as error:
        found = [f'<p class="erro">{escape(str(error))}</p>']
    for piece in found:
        if isinstance(piece, str):
            gr.HTML(piece, elem_classes="painel")
        else:
            gr.Plot(piece, show_label=False, container=False)
