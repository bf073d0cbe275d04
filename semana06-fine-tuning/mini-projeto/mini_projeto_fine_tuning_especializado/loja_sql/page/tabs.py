"""As abas da página: perguntar, comparar, métricas; e a API, com as mesmas filas."""

import random
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from html import escape

from comum.numbers import decimal
from comum.terminal import UserError

import gradio as gr
from markupsafe import Markup

from loja_sql.model.assistant import MAX_QUESTION_CHARS, Answer, shown_rows
from loja_sql.page import panel
from loja_sql.page.charts import chart_for
from loja_sql.page.downloads import csv_bytes, xlsx_bytes
from loja_sql.page.explain import laid_out, sentence
from loja_sql.page.session import TRAINED, Compared, Page
from loja_sql.page.words import Column, columns, written
from loja_sql.prompt import DECLINE
from loja_sql.sql.database import AT_ONCE as SQL_AT_ONCE
from loja_sql.sql.database import Result
from loja_sql.sql.names import name_words

INTRO = """# Pergunte à loja
Escreva uma pergunta em português sobre o que há no banco: {}. Um modelo de linguagem, nesta
máquina, a traduz para SQL; o banco, aberto só para leitura, responde. Confira sempre a consulta: o
modelo erra."""
INTRO_TABLES = 8  # um banco alheio pode ter centenas
SHOWN_ROWS, COMPARED_ROWS = 200, 10
HISTORY = 30
QUEUE_SIZE = 200
WAITING = "<p>Na fila…</p>"
PRIVATE = {"api_visibility": "private"}  # a página usa, a API não mostra
AT_ONCE = {"queue": False, "show_progress": "hidden", **PRIVATE}
# A pergunta fica no endereço, que se copia e se manda a alguém.
TO_ADDRESS = """(question) => {
  const place = new URL(location);
  place.searchParams.set("q", question);
  history.replaceState(null, "", place);
  return question;
}"""
# O botão em que se estava some enquanto se espera e depois volta: o foco vai para o que fica.
FOLLOW = """() => setTimeout(() => {
  if (document.activeElement !== document.body) return;
  [...document.querySelectorAll("#perguntar, #cancelar")].find((one) => one.offsetParent)
    ?.focus({ preventScroll: true });
}, 50)"""
# O arquivo vem em base64 e nasce no navegador: nada se grava no servidor.
SAVE = """(content) => {
  if (!content) return;
  const link = document.createElement("a");
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  link.href = URL.createObjectURL(new Blob([bytes]));
  link.download = "resultado.%s";
  link.click();
  URL.revokeObjectURL(link.href);
}"""
# O tema do sistema, até que alguém escolha outro; o Gradio volta ao do sistema quando este muda. Os
# nomes que ele e o plotly põem nos botões, que só há em inglês. E o Tab, que sai do editor de SQL
# em vez de recuar a linha: sem isto, quem só usa o teclado não passaria dele.
ON_LOAD = """() => {
  document.documentElement.lang = "pt-BR";
  const apply = () => {
    const kept = localStorage.getItem("tema");
    if (kept) document.body.classList.toggle("dark", kept === "dark");
  };
  apply();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  const names = {
    "Copy": "Copiar",
    "Copy table data": "Copiar a tabela",
    "Table actions": "Ações da tabela",
    "Open cell menu": "Menu da coluna",
    "Select column": "Escolher a coluna",
    "Select row": "Escolher a linha",
    "Gradio footer navigation": "Rodapé",
    "Fullscreen": "Tela cheia",
    "Exit fullscreen mode": "Sair da tela cheia",
    "Code input container": "Código em SQL",
    "Fold line": "Recolher a linha",
    "Unfold line": "Abrir a linha",
    "More tabs": "Mais abas",
    "Download plot as a PNG": "Salvar como imagem",
  };
  const rename = () => document.querySelectorAll("[aria-label], [title]").forEach((part) => {
    for (const key of ["ariaLabel", "title"]) {
      if (names[part[key]]) part[key] = names[part[key]];
    }
  });
  new MutationObserver(rename).observe(document.body, { childList: true, subtree: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Tab" && event.target.closest(".cm-editor")) event.stopPropagation();
  }, true);
}"""
SWITCH_THEME = """() => {
  const dark = document.body.classList.toggle("dark");
  localStorage.setItem("tema", dark ? "dark" : "light");
}"""


def build(page: Page) -> gr.Blocks:
    """Monta a página; cada aba tem a sua função."""
    # Uma fila para quem usa o modelo, pela página ou pela API: tantos quantos o motor atende.
    queue = {"concurrency_limit": page.assistant.engine.slots, "concurrency_id": "modelo"}
    with gr.Blocks(title="Pergunte à loja", analytics_enabled=False) as blocks:
        tables = page.assistant.tables
        others = ["…"] * (len(tables) > INTRO_TABLES)
        names = [name_words(table) for table in tables[:INTRO_TABLES]]
        gr.Markdown(INTRO.format(", ".join([*names, *others]).replace("_", r"\_")))
        theme = _button("◐ Tema", "tema")
        theme.click(None, js=SWITCH_THEME)
        with gr.Tab("Perguntar"):
            tab = AskTab(page)
            tab.wire(queue)
            blocks.load(tab.opened, tab.past, [tab.question, tab.history], **AT_ONCE)
        with gr.Tab("Comparar"):
            _compare_tab(page)
        with gr.Tab("Métricas") as metrics:
            board = gr.HTML(elem_id="metricas")
            metrics.select(partial(_metrics, page), None, board, **PRIVATE)
        gr.api(page.ask, api_name="perguntar", **queue)
        gr.api(page.run_sql, api_name="executar", concurrency_limit=SQL_AT_ONCE)
    return blocks.queue(max_size=QUEUE_SIZE)


class AskTab:
    """Os componentes da aba Perguntar; os métodos são o que os botões fazem com eles."""

    def __init__(self, page: Page) -> None:
        self.page, self.engine = page, page.assistant.engine.name
        with gr.Row(elem_classes="pergunta"):
            look = {"scale": 5, "min_width": 240, "autofocus": True}
            self.question = _question_box(page, "Sua pergunta", "pergunta", **look)
            self.ask = _button("Perguntar", "perguntar", variant="primary", size="lg")
            self.cancel = _button("Cancelar", "cancelar", variant="stop", size="lg", visible=False)
        self.state = gr.HTML(elem_id="estado", padding=True)
        none = {"components": ["textbox"], "samples": []}
        label = "Perguntas parecidas que sei responder (clique para perguntar)"
        self.similar = gr.Dataset(label=label, elem_id="parecidas", visible=False, **none)
        self.rows = gr.Dataframe(
            label="Linhas", interactive=False, wrap=True, elem_id="linhas", visible=False
        )
        self.chart = gr.Plot(elem_id="grafico", show_label=False, visible=False)
        with gr.Accordion("Exemplos", visible=bool(page.examples)) as self.examples:
            if page.examples:
                label = "Clique para escrever a pergunta"
                gr.Examples([[text] for text in page.examples], self.question, label=label)
        self._sql_box()
        with gr.Accordion("Histórico", open=False):
            label = "Suas últimas perguntas, guardadas neste navegador (clique para rever)"
            self.history = gr.Dataset(label=label, elem_id="historico", type="index", **none)
        # [(pergunta, SQL do modelo ou DECLINE)], da mais nova para a mais velha
        self.past = gr.BrowserState([], storage_key="perguntas", secret="pergunte-a-loja")

    def _sql_box(self) -> None:
        code = {"language": "sql", "wrap_lines": True, "buttons": ["copy"], "lines": 1}
        code["show_line_numbers"] = False
        label = "Consulta em SQL (edite e execute)"
        # (pergunta, SQL do modelo) da resposta à vista: no campo pode já haver outra pergunta.
        self.about = gr.State(("", ""))
        self.sql = gr.Code(label=label, interactive=True, elem_id="sql", **code)
        with gr.Row():
            self.run = _button("Executar o SQL", "executar")
            self.as_csv = _button("Baixar CSV", "baixar", visible=False)
            self.as_xlsx = _button("Baixar XLSX", "baixar-xlsx", visible=False)
            self.good = _button("👍 Está certo", "certo")
            self.bad = _button("👎 Está errado", "errado")
        self.file = gr.Textbox(visible=False)
        self.thanks = gr.Markdown(elem_id="obrigado")
        with gr.Accordion("Esquema do banco", open=False):
            schema = self.page.assistant.context.schema
            gr.Code(schema, label="Tabelas", interactive=False, elem_id="esquema", **code)

    def wire(self, queue: dict) -> None:
        """Liga os botões aos métodos."""
        outputs = [self.state, self.rows, self.chart, self.as_csv, self.as_xlsx, self.similar]
        busy = [self.question, self.about, self.thanks, *outputs, self.ask, self.cancel]
        asks = [self.ask.click, self.question.submit]
        begun = [*busy, self.examples]
        asked = gr.on(asks, self.starting, self.question, begun, js=TO_ADDRESS, **AT_ONCE)
        again = self.similar.click(self.choosing, self.similar, begun, **AT_ONCE)
        again.then(None, self.question, None, js=TO_ADDRESS, **AT_ONCE)
        inputs, everything = [self.question, self.past], [self.sql, self.past, self.history, *busy]
        hidden = {"show_progress": "hidden", **PRIVATE}
        answers = [
            e.then(self.answering, inputs, everything, **hidden, **queue) for e in (asked, again)
        ]
        stopped = self.cancel.click(self.cancelled, None, busy, cancels=answers, **AT_ONCE)
        for event in (asked, *answers, stopped):
            event.then(None, None, None, js=FOLLOW, **AT_ONCE)
        self.run.click(self.execute, self.sql, outputs, concurrency_limit=SQL_AT_ONCE, **PRIVATE)
        reviewed = [self.question, self.about, self.sql, *outputs]
        shown = self.history.click(self.review, [self.history, self.past], reviewed, **PRIVATE)
        shown.then(None, self.question, None, js=TO_ADDRESS, **AT_ONCE)
        files = {"csv": (self.as_csv, csv_bytes), "xlsx": (self.as_xlsx, xlsx_bytes)}
        for form, (button, write) in files.items():
            saved = button.click(partial(self.content, write), self.sql, self.file, **PRIVATE)
            saved.then(None, self.file, None, js=SAVE % form)
        for button, good in ((self.good, True), (self.bad, False)):
            inputs = [self.about, self.sql]
            button.click(partial(self.opinion, good=good), inputs, self.thanks, **PRIVATE)

    def opened(self, past: list, request: gr.Request) -> tuple:
        """Ao abrir a página: a pergunta que veio no endereço e o histórico deste navegador."""
        asked = request.query_params.get("q", "")[:MAX_QUESTION_CHARS]
        # Sem pergunta no endereço, fica a que já se tenha começado a digitar.
        return asked or gr.skip(), _questions(past)

    def starting(self, question: str) -> dict:
        """Tira da vista a resposta anterior e troca Perguntar por Cancelar."""
        parts = (self.rows, self.chart, self.as_csv, self.as_xlsx, self.similar)
        hidden = {part: gr.update(visible=False) for part in parts}
        said = {self.question: question, self.about: ("", ""), self.state: WAITING, self.thanks: ""}
        return said | hidden | self._busy(True) | {self.examples: gr.update(open=False)}

    def choosing(self, sample: list) -> dict:
        return self.starting(sample[0])

    def cancelled(self) -> dict:
        return {self.state: "<p>Cancelado.</p>", **self._busy(False)}

    def _busy(self, busy: bool) -> dict:
        return {self.ask: gr.update(visible=not busy), self.cancel: gr.update(visible=busy)}

    def answering(self, text: str, past: list) -> Iterator[dict]:
        """Mostra o SQL à medida que sai e, no fim, o resultado."""
        for answer in self.page.assistant.stream(text):
            if answer.result is None and answer.error is None:
                yield {self.sql: answer.sql, self.state: state(answer, self.engine)}
        if said := DECLINE if answer.declined else answer.sql:
            past = [(answer.question, said), *past][:HISTORY]
        # De uma vez: quem lê o estado de pronta já pode opinar.
        shown = {self.past: past, self.history: _questions(past), **self._busy(False)}
        shown |= {self.sql: laid_out(answer.sql), self.about: (answer.question, said)}
        yield shown | self.shown(answer, self.engine)

    def execute(self, sql: str) -> dict:
        return self.shown(self.page.assistant.execute(sql), "SQL executado")

    def review(self, index: int, past: list) -> dict:
        """Traz de volta uma pergunta do histórico, com a resposta que o modelo deu."""
        question, said = past[index]
        answer = self.page.assistant.execute(said, question)
        shown = self.shown(answer, "do histórico")
        asked = {self.question: question, self.about: (question, said)}
        return asked | {self.sql: laid_out(answer.sql)} | shown

    def content(self, write: Callable[[str, Result], bytes], sql: str) -> str:
        """O arquivo com as linhas da consulta, em base64; nada, se ela não se executa."""
        result = self.page.assistant.execute(sql).result
        return b64encode(write(sql, result)).decode() if result else ""

    def opinion(self, about: tuple[str, str], edited: str, good: bool) -> str:
        return self.page.save_opinion(*about, edited, good)

    def shown(self, answer: Answer, source: str) -> dict:
        """Estado, linhas, gráfico e botões de uma resposta completa."""
        result = answer.result
        named = columns(answer.sql, result) if result else []
        some = bool(result and result.rows)
        table = some and not alone(result)
        chart = chart_for(result, named) if table else None
        near = self.page.similar(answer.question) if answer.declined and answer.question else []
        return {
            self.state: state(answer, source),
            self.rows: gr.Dataframe(grid(result, named) if table else None, visible=table),
            self.chart: gr.Plot(chart, visible=chart is not None),
            self.as_csv: gr.Button(visible=some),
            self.as_xlsx: gr.Button(visible=some),
            self.similar: gr.Dataset(samples=[[text] for text in near], visible=bool(near)),
        }


def _questions(past: list) -> gr.Dataset:
    return gr.Dataset(samples=[[question] for question, _ in past])


def _question_box(page: Page, label: str, name: str, **options) -> gr.Textbox:
    limit = {"max_length": MAX_QUESTION_CHARS, "placeholder": next(iter(page.examples), "")}
    return gr.Textbox(label=label, elem_id=name, **limit, **options)


def _button(label: str, name: str, size: str = "sm", **options) -> gr.Button:
    return gr.Button(label, elem_id=name, size=size, min_width=140, **options)


def alone(result: Result) -> bool:
    """Diz se a resposta é um valor só, que se mostra grande, sem tabela."""
    return len(result.rows) == 1 and len(result.columns) == 1


def state(answer: Answer, source: str = "") -> str:
    """A resposta em HTML: o que se entendeu, o valor único, a frase que a explica, o tempo.

    `source` diz quem respondeu; sem ele, o tempo não se mostra.
    """
    facts = {"answer": answer, "source": source}
    if result := answer.result:
        facts |= {"count": _count(result), "told": sentence(answer.sql)}
        if alone(result):
            column = columns(answer.sql, result)[0]
            facts |= {"only": written(result.rows[0][0], column.unit), "title": column.title}
    return panel.TEMPLATES.get_template("answer.html").render(**facts)


def _count(result: Result) -> str:
    count = len(result.rows)
    more = "mais de " if result.truncated else ""
    lines = {0: "nenhuma linha", 1: "1 linha"}.get(count, f"{more}{decimal(count)} linhas")
    filed = f"as primeiras {decimal(count)}" if result.truncated else "todas"
    cut = f" (aqui, as primeiras {SHOWN_ROWS}; nos arquivos, {filed})"
    return lines + cut * (count > SHOWN_ROWS)


def grid(result: Result, named: list[Column]) -> dict:
    """As primeiras linhas para o gr.Dataframe, que ordena por `data` e mostra `display_value`."""
    rows = shown_rows(result)[:SHOWN_ROWS]
    display = [_written(row, named) for row in rows]
    sides = [["text-align: right" if _number(v) else "" for v in row] for row in rows]
    facts = {"display_value": display, "styling": sides}
    return {"headers": [column.title for column in named], "data": rows, "metadata": facts}


def _written(row: list, named: list[Column]) -> list[str]:
    return [written(value, column.unit) for value, column in zip(row, named, strict=True)]


def _number(value: object) -> bool:
    return isinstance(value, int | float)


def _compare_tab(page: Page) -> None:
    names = page.compared
    first = next(iter(page.examples), "")
    question = _question_box(page, "A mesma pergunta para todos", "comparar-pergunta", value=first)
    quantized = [name for name in names[2:] if not name.endswith("bf16")]
    choices = [(_model_title(name), name) for name in names]
    chosen = gr.CheckboxGroup(choices, value=names[:2] + quantized[:1], label="Modelos")
    with gr.Row():
        go = _button("Comparar", "comparar", variant="primary", size="lg")
        hard = _button("Sortear uma difícil do teste", "dificil", "lg", visible=bool(page.tests))
    output = gr.HTML(elem_id="comparacao")

    def comparing(text: str, selected: list[str]) -> Iterator[str]:
        if not selected:
            yield '<p class="erro">Escolha ao menos um modelo.</p>'
            return
        # O treinado primeiro: é com ele que os outros se comparam.
        ordered = sorted(selected, key=lambda name: (name != TRAINED, names.index(name)))
        for found in page.compare(text, ordered):
            yield side_by_side(found)

    hard.click(lambda: random.choice(list(page.tests)), None, question, **AT_ONCE)
    asked = gr.on([go.click, question.submit], lambda: WAITING, None, output, **AT_ONCE)
    options = {"concurrency_limit": 1, "show_progress": "hidden", **PRIVATE}
    asked.then(comparing, [question, chosen], output, **options)


def side_by_side(found: dict[str, Compared]) -> str:
    """Uma coluna por modelo (empilhadas no telefone): veredito, SQL, resposta, tempo e tamanho."""
    return panel.TEMPLATES.get_template("compare.html").render(
        found={_model_title(n): _column(c) for n, c in found.items()}
    )


def _model_title(name: str) -> str:
    """O nome de um modelo da aba Comparar, com os bits da forma: `treinado, GPTQ (4 bits)`."""
    model, comma, form = name.partition(", ")
    return f"{model}{comma}{panel.FORMS.get(form, form)}"


def _column(compared: Compared) -> dict:
    answer, result = compared.answer, compared.answer.result
    named = columns(answer.sql, result) if result else []
    table = result is not None and not alone(result)
    rows = shown_rows(result)[:COMPARED_ROWS] if table else []
    size = f" · pesos: {decimal(compared.size / 1e6, 1)} MB" if compared.size else ""
    return {
        "verdict": compared.verdict,
        "sql": laid_out(answer.sql),
        "state": Markup(state(answer)),
        "cost": f"{decimal(answer.seconds, 2)} s{size}",
        "titles": [column.title for column in named],
        "rows": [_written(row, named) for row in rows],
    }


def _metrics(page: Page) -> str:
    """O painel de agora, inteiro, numa moldura: é o mesmo arquivo que dashboard.py grava."""
    config = page.config.model_copy(deep=True)
    if page.adapter:  # o que responde aqui, que pode ser o que vem com o repositório
        config.training.output_dir = str(page.adapter)
    try:
        html = panel.page(config)
    except UserError as error:
        return f'<p class="erro">{escape(str(error))}</p>'
    return f'<iframe title="Métricas" srcdoc="{escape(html)}"></iframe>'
