"""As abas da página: perguntar, comparar, métricas; e a API, com as mesmas filas."""

from collections.abc import Iterator
from functools import partial
from html import escape

from comum.numbers import decimal
from comum.terminal import UserError

import gradio as gr

from loja_sql.model.assistant import MAX_QUESTION_CHARS, Answer, shown_rows
from loja_sql.page.charts import chart_for
from loja_sql.page.panel import TEMPLATES, pieces
from loja_sql.page.session import Page
from loja_sql.page.shell import format_table, readable, understood
from loja_sql.prompt import DECLINE
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
QUEUE_SIZE = 200
SQL_AT_ONCE = 4
CSV_LIFETIME_S = 3600
PRIVATE = {"api_visibility": "private"}  # a página usa, a API não mostra


def build(page: Page) -> gr.Blocks:
    """Monta a página; cada aba tem a sua função."""
    # Uma fila para quem usa o modelo, pela página ou pela API: tantos quantos o motor atende.
    queue = {"concurrency_limit": page.assistant.engine.slots, "concurrency_id": "modelo"}
    options = {"analytics_enabled": False, "delete_cache": (CSV_LIFETIME_S, CSV_LIFETIME_S)}
    with gr.Blocks(title="Pergunte à loja", **options) as blocks:
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
            self.question = _question_box(
                "Sua pergunta", "pergunta", scale=5, min_width=240, autofocus=True
            )
            self.ask = _button("Perguntar", "perguntar", variant="primary", size="lg")
        gr.Examples([[text] for text in EXAMPLES], self.question, label="Exemplos")
        self.state = gr.HTML(elem_id="estado", padding=True)
        code = {"language": "sql", "wrap_lines": True, "buttons": ["copy"]}
        label = "SQL (edite e execute de novo)"
        self.sql = gr.Code(label=label, interactive=True, lines=3, elem_id="sql", **code)
        with gr.Row():
            self.run = _button("Executar o SQL", "executar")
            self.download = _button("Baixar CSV", "baixar", gr.DownloadButton, visible=False)
            self.good = _button("👍 Está certo", "certo")
            self.bad = _button("👎 Está errado", "errado")
        self.thanks = gr.Markdown(elem_id="obrigado")
        label = "Linhas (clique no título de uma coluna para ordenar)"
        self.rows = gr.Dataframe(
            label=label, interactive=False, wrap=True, elem_id="linhas", visible=False
        )
        self.chart = gr.Plot(elem_id="grafico", show_label=False, visible=False)
        with gr.Accordion("Histórico", open=False):
            label = "Perguntas desta visita (clique para rever)"
            empty = {"components": ["textbox"], "samples": [], "type": "index"}
            self.history = gr.Dataset(label=label, elem_id="historico", **empty)
        with gr.Accordion("Esquema do banco", open=False):
            gr.Code(page.assistant.context.schema, label="Tabelas", interactive=False, **code)
        # [(pergunta, SQL do modelo ou DECLINE)], da mais nova para a mais velha
        self.past = gr.State([])

    def wire(self, queue: dict) -> None:
        """Liga os botões aos métodos."""
        outputs = [self.state, self.rows, self.chart, self.download]
        everything = [self.sql, self.past, self.history, self.thanks, *outputs]
        progress = {"show_progress": "minimal", "show_progress_on": self.state}
        for event in (self.ask.click, self.question.submit):
            inputs = [self.question, self.past]
            event(self.answering, inputs, everything, **progress, **queue, **PRIVATE)
        self.run.click(self.execute, self.sql, outputs, concurrency_limit=SQL_AT_ONCE, **PRIVATE)
        reviewed = [self.question, self.sql, *outputs]
        self.history.click(self.review, [self.history, self.past], reviewed, **PRIVATE)
        for button, good in ((self.good, True), (self.bad, False)):
            inputs = [self.question, self.past, self.sql]
            button.click(partial(self.opinion, good=good), inputs, self.thanks, **PRIVATE)

    def answering(self, text: str, past: list) -> Iterator[dict]:
        """Mostra o SQL à medida que sai e, no fim, o resultado."""
        for answer in self.page.assistant.stream(text):
            shown = {self.sql: answer.sql, self.thanks: "", self.state: status(answer, self.engine)}
            if answer.result is None and answer.error is None:
                yield shown
        if said := DECLINE if answer.declined else answer.sql:
            past = [(answer.question, said), *past][:HISTORY]
        history = gr.Dataset(samples=[[question] for question, _ in past])
        # De uma vez: quem lê o estado de pronta já pode opinar.
        yield shown | {self.past: past, self.history: history} | self.shown(answer, self.engine)

    def execute(self, sql: str) -> dict:
        return self.shown(self.page.assistant.execute(sql), "SQL executado")

    def review(self, index: int, past: list) -> dict:
        """Traz de volta uma pergunta da visita, com a resposta que o modelo deu."""
        question, said = past[index]
        answer = self.page.assistant.execute(said)
        shown = self.shown(answer, "do histórico")
        return {self.question: question, self.sql: answer.sql} | shown

    def opinion(self, question: str, past: list, edited: str, good: bool) -> str:
        model_sql = next((sql for asked, sql in past if asked == question), "")
        return self.page.save_opinion(question, model_sql, edited, good)

    def shown(self, answer: Answer, source: str) -> dict:
        """Estado, linhas, gráfico e CSV de uma resposta completa."""
        result = answer.result
        some, chart = bool(result and result.rows), result and chart_for(result)
        table = self.page.save_csv(result) if some else None
        return {
            self.state: status(answer, source),
            self.rows: gr.Dataframe(grid(result) if some else None, visible=some),
            self.chart: gr.Plot(chart, visible=chart is not None),
            self.download: gr.DownloadButton(value=table, visible=some),
        }


def _question_box(label: str, name: str, **options) -> gr.Textbox:
    limit = {"max_length": MAX_QUESTION_CHARS, "placeholder": EXAMPLES[0]}
    return gr.Textbox(label=label, elem_id=name, **limit, **options)


def _button(label: str, name: str, kind: type = gr.Button, size: str = "sm", **options):
    return kind(label, elem_id=name, size=size, min_width=140, **options)


def status(answer: Answer, source: str) -> str:
    """O estado, em HTML: o que se entendeu, o que houve, quantas linhas e em quanto tempo."""
    links = f"{escape(understood(answer))}<br>" if answer.links else ""
    return links + _outcome(answer, source)


def _outcome(answer: Answer, source: str) -> str:
    if answer.error:
        return f'<span class="erro" role="alert">{escape(answer.failure)}</span>'
    if answer.result is None:
        return "Escrevendo a consulta…"
    count = len(answer.result.rows)
    more = "mais de " if answer.result.truncated else ""
    lines = {0: "nenhuma linha", 1: "1 linha"}.get(count, f"{more}{decimal(count)} linhas")
    if count > SHOWN_ROWS:
        lines += f" (aqui, as primeiras {SHOWN_ROWS}; o CSV traz todas)"
    spent = f"{lines} em {decimal(answer.seconds, 2)} s · {source}"
    return f'<span role="status">{escape(spent)}</span>'


def grid(result: Result) -> dict:
    """As primeiras linhas para o gr.Dataframe, que ordena por `data` e mostra `display_value`."""
    rows = shown_rows(result)[:SHOWN_ROWS]
    display = [[readable(value) for value in row] for row in rows]
    return {"headers": result.columns, "data": rows, "metadata": {"display_value": display}}


def _compare_tab(page: Page) -> None:
    names = page.compared
    question = _question_box("A mesma pergunta para todos", "comparar-pergunta", value=EXAMPLES[0])
    quantized = [name for name in names[2:] if not name.endswith("bf16")]
    chosen = gr.CheckboxGroup(names, value=names[:2] + quantized[:1], label="Modelos")
    go = _button("Comparar", "comparar", variant="primary", size="lg")
    output = gr.HTML(elem_id="comparacao")

    def comparing(text: str, selected: list[str]) -> Iterator[str]:
        if not selected:
            yield '<span class="erro">Escolha ao menos um modelo.</span>'
            return
        for found in page.compare(text, [name for name in names if name in selected]):
            yield side_by_side(found)

    options = {"concurrency_limit": 1, "show_progress": "minimal", **PRIVATE}
    for event in (go.click, question.submit):
        event(comparing, [question, chosen], output, **options)


def side_by_side(answers: dict[str, Answer]) -> str:
    """Uma coluna por modelo (empilhadas no telefone): SQL, estado e as primeiras linhas."""
    template = TEMPLATES.get_template("compare.html")
    return template.render(answers=answers, status=status, table=format_table)


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
