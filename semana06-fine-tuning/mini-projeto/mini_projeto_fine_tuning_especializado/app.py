"""A página do mini-projeto: perguntar, comparar modelos e ver as métricas, no navegador.

    python app.py --config configs/rapido.yaml       # http://127.0.0.1:7860
    python app.py --port 8000 --host 0.0.0.0         # aberta à rede: só se for o que você quer

Tudo fica nesta máquina: nenhuma fonte, script ou medição de uso vem de fora. O banco é aberto só
para leitura, com limites de tempo e de tamanho. As opiniões (👍 👎) vão para `opinioes.jsonl`, na
pasta dos dados, e entram no próximo treino com `data_prep.py data.feedback=…/opinioes.jsonl`.
"""

import csv
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

import gradio as gr
from dashboard import DASHBOARD_CSS, dashboard
from inference import (
    MAX_QUESTION_CHARS,
    Answer,
    Assistant,
    as_record,
    format_table,
    question_problem,
    settings,
    shown_rows,
)
from loja_sql.config import (
    Config,
    UserError,
    add_config_arguments,
    argument_parser,
    config_from_args,
    run_main,
)
from loja_sql.model.engines import GGUF_FORMS, exported_forms, has_llama_cpp, open_form
from loja_sql.page.charts import CHART_CSS, chart_for, number
from loja_sql.page.feedback import record
from loja_sql.sql.database import QueryError, Result

FEEDBACK_NAME = "opinioes.jsonl"
UNTRAINED, TRAINED = "sem treino", "treinado"
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
CSV_LIFETIME_S = 3600
CSS = (
    CHART_CSS
    + DASHBOARD_CSS
    + """
.gradio-container { max-width: 68rem !important; margin: 0 auto !important; }
/* Sem isto a coluna toma a largura do conteúdo: encolhe numa aba e transborda na outra. */
.gradio-container, .gradio-container > .main, .gradio-container > .main > .wrap,
.gradio-container main, .gradio-container main > *, .gradio-container .tabs,
.gradio-container .tabitem, .gradio-container .tabitem > * { width: 100%; min-width: 0; }
.pergunta { align-items: end; }
.gradio-container button.sm { white-space: nowrap; }
#estado { min-height: 1.6em; }
.lado-a-lado { display:grid; gap:1rem; grid-template-columns:repeat(auto-fit,minmax(17rem,1fr)); }
.lado-a-lado pre { overflow-x:auto; font-size:.85em; }
.lado-a-lado pre.sql { white-space:pre-wrap; overflow-wrap:anywhere; }
.erro { color: var(--error-text-color, #b91c1c); font-weight: 600; }
:focus-visible { outline: 2px solid var(--color-accent, #1f6feb) !important; outline-offset: 2px; }
"""
)
ON_LOAD = "() => { document.documentElement.lang = 'pt-BR'; }"


class Page:
    """O que os botões fazem, sem nada de interface: vale também para a API."""

    def __init__(self, config: Config, adapter: Path | None) -> None:
        self.config, self.adapter = config, adapter
        self.assistant = Assistant(config, adapter)
        self.feedback = config.data_dir / FEEDBACK_NAME
        self._folder = tempfile.TemporaryDirectory(prefix="loja-sql-")
        self._others: dict[str, Assistant] = {}
        self._loading = threading.Lock()

    def ask(self, question: str) -> dict:
        """A pergunta inteira de uma vez, para a API: SQL, colunas, linhas, erro e segundos."""
        for answer in self.assistant.stream(question):  # noqa: B007  (fica a última, a completa)
            pass
        return self.record(answer)

    def run_sql(self, sql: str) -> dict:
        """Executa um SQL qualquer, só para leitura, e devolve o mesmo que `ask`."""
        return self.record(self.execute(sql))

    def execute(self, sql: str) -> Answer:
        started = time.perf_counter()
        try:
            result, error = self.assistant.run(sql), None
        except QueryError as problem:
            result, error = None, str(problem)
        return Answer("", sql, result, error, time.perf_counter() - started)

    def record(self, answer: Answer) -> dict:
        return as_record(answer) | {
            "seconds": round(answer.seconds, 3), "engine": self.assistant.engine.name
        }  # fmt: skip

    def save_csv(self, result: Result) -> str:
        """Grava as linhas num CSV que as planilhas abrem com acentos; apaga os velhos."""
        folder = Path(self._folder.name)
        for old in folder.glob("*.csv"):
            if time.time() - old.stat().st_mtime > CSV_LIFETIME_S:
                old.unlink(missing_ok=True)
        descriptor, path = tempfile.mkstemp(prefix="resultado-", suffix=".csv", dir=folder)
        with open(descriptor, "w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(result.columns)
            writer.writerows(result.rows)
        return path

    def save_opinion(self, question: str, model_sql: str, edited: str, good: bool) -> str:
        """Guarda a opinião sobre a última resposta e diz o que foi guardado."""
        if question_problem(question) or not model_sql:
            return "Ainda não há resposta para avaliar: faça uma pergunta."
        correction = edited.strip().rstrip(";").strip()
        if good:
            record(self.feedback, question, model_sql, model_sql, good=True)
            return "Obrigado! Guardado como resposta certa."
        if correction in ("", model_sql):
            record(self.feedback, question, model_sql, None, good=False)
            return "Guardado como errada. Se puder, corrija o SQL acima e clique em 👎 de novo."
        try:
            self.assistant.run(correction)
        except QueryError as error:
            return f"A correção não foi guardada: {error}."
        record(self.feedback, question, model_sql, correction, good=False)
        return "Obrigado! A correção foi guardada e pode entrar no próximo treino."

    @property
    def compared(self) -> list[str]:
        """Os modelos da aba Comparar que esta máquina pode abrir."""
        names = [UNTRAINED]
        if self.adapter is not None:
            names.append(TRAINED)
            ready = exported_forms(self.adapter)
            usable = [f for f in ready if f not in GGUF_FORMS or has_llama_cpp()]
            names += [f"{TRAINED}, {form}" for form in usable]
        return names

    def compare(self, question: str, names: list[str]) -> Iterator[dict[str, Answer]]:
        """A mesma pergunta a vários modelos, um depois do outro; produz o que já respondeu."""
        found: dict[str, Answer] = {}
        for name in names:
            for answer in self._assistant(name).stream(question):
                found[name] = answer
                yield found

    def _assistant(self, name: str) -> Assistant:
        """O modelo `name`, carregado na primeira vez que se precisa dele."""
        with self._loading:
            if name not in self._others:
                config = self.config.model_copy(deep=True)
                config.generation.engine = "transformers"
                if name == UNTRAINED:
                    config, _ = settings(config, None, base=True)
                    config.generation.max_new_tokens = config.evaluation.base_max_new_tokens
                    self._others[name] = Assistant(config, None)
                elif name == TRAINED:
                    self._others[name] = Assistant(config, self.adapter)
                else:
                    form = name.removeprefix(f"{TRAINED}, ")
                    engine = open_form(config, self.adapter, form)
                    self._others[name] = Assistant(config, self.adapter, engine)
            return self._others[name]


def status(answer: Answer, engine: str) -> str:
    """A linha de estado, em HTML: o que houve, quantas linhas e em quanto tempo."""
    if answer.error:
        return f'<span class="erro" role="alert">Não deu certo: {escape(answer.error)}.</span>'
    if answer.result is None:
        return "Escrevendo a consulta…"
    count = len(answer.result.rows)
    lines = {0: "nenhuma linha", 1: "1 linha"}.get(count, f"{number(count)} linhas")
    if answer.result.truncated:
        lines = f"mais de {lines}"
    if count > SHOWN_ROWS:
        lines += f" (aqui, as primeiras {SHOWN_ROWS}; o CSV traz todas)"
    spent = f"{lines} em {number(answer.seconds)} s · {engine}"
    return f'<span role="status">{escape(spent)}</span>'


def table(result: Result | None) -> dict:
    """As primeiras linhas, na forma que o gr.Dataframe espera."""
    if result is None or not result.rows:
        return {"headers": result.columns if result else [""], "data": []}
    rows = [[_short(value) for value in row] for row in shown_rows(result)[:SHOWN_ROWS]]
    return {"headers": result.columns, "data": rows}


def _short(value: object) -> object:
    """407617.5199999997, a soma de preços em binário, lê-se 407617.52; o CSV traz o valor exato."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def build(page: Page) -> gr.Blocks:
    """Monta a página; cada aba tem a sua função."""
    with gr.Blocks(title="Pergunte à loja", analytics_enabled=False) as blocks:
        gr.Markdown("# Pergunte à loja\nPerguntas em português viram SQL; o banco responde.")
        with gr.Tab("Perguntar"):
            _ask_tab(page)
        with gr.Tab("Comparar"):
            _compare_tab(page)
        with gr.Tab("Métricas"):
            metrics = gr.HTML(elem_id="metricas")
            refresh = gr.Button("Atualizar", size="sm")
        for event in (blocks.load, refresh.click):
            event(lambda: dashboard(page.config), outputs=metrics, api_visibility="private")
        gr.api(page.ask, api_name="perguntar", **_model_queue(page))
        gr.api(page.run_sql, api_name="executar", concurrency_limit=SQL_AT_ONCE)
    return blocks.queue(max_size=QUEUE_SIZE)


def _model_queue(page: Page) -> dict:
    """A fila de quem usa o modelo, uma só para a página e a API: tantos quantos o motor atende."""
    return {"concurrency_limit": page.assistant.engine.slots, "concurrency_id": "modelo"}


def _ask_tab(page: Page) -> None:
    with gr.Row(elem_classes="pergunta"):
        question = gr.Textbox(
            label="Sua pergunta", placeholder="quantos clientes temos em Minas Gerais?",
            max_length=MAX_QUESTION_CHARS, autofocus=True, elem_id="pergunta", scale=5,
            min_width=240,
        )  # fmt: skip
        ask = gr.Button("Perguntar", variant="primary", elem_id="perguntar", min_width=120)
    gr.Examples([[text] for text in EXAMPLES], question, label="Exemplos")
    state = gr.HTML(elem_id="estado", padding=True)
    sql = gr.Code(
        label="SQL (edite e execute de novo)", language="sql", interactive=True, lines=3,
        wrap_lines=True, buttons=["copy"], elem_id="sql",
    )  # fmt: skip
    with gr.Row():
        run = gr.Button("Executar o SQL", size="sm", elem_id="executar", min_width=140)
        download = gr.DownloadButton("Baixar CSV", size="sm", elem_id="baixar", visible=False,
                                     min_width=140)  # fmt: skip
        good = gr.Button("👍 Está certo", size="sm", elem_id="certo", min_width=140)
        bad = gr.Button("👎 Está errado", size="sm", elem_id="errado", min_width=140)
    thanks = gr.Markdown(elem_id="obrigado")
    rows = gr.Dataframe(
        label="Linhas (clique no título de uma coluna para ordenar)", interactive=False,
        wrap=True, elem_id="linhas", visible=False,
    )  # fmt: skip
    chart = gr.HTML(elem_id="grafico", visible=False, padding=True)
    with gr.Accordion("Histórico", open=False):
        history = gr.Dataset(
            label="Perguntas desta visita (clique para rever)", components=["textbox"],
            samples=[], type="index", elem_id="historico",
        )  # fmt: skip
    with gr.Accordion("Esquema do banco", open=False):
        gr.Code(page.assistant.schema, label="Tabelas", language="sql", interactive=False)
    asked = gr.State([])  # [(pergunta, SQL do modelo)], da mais nova para a mais velha

    engine = page.assistant.engine.name
    outputs = [state, rows, chart, download]

    def shown(answer: Answer, name: str = engine) -> list:
        result = answer.result
        drawing = chart_for(result) if result else None
        return [
            status(answer, name),
            gr.Dataframe(table(result), visible=bool(result and result.rows)),
            gr.HTML(drawing or "", visible=drawing is not None),
            gr.DownloadButton(value=page.save_csv(result) if result else None,
                              visible=bool(result and result.rows)),
        ]  # fmt: skip

    def answering(text: str, past: list):
        """Mostra o SQL à medida que sai e, no fim, o resultado."""
        latest = 0.0
        for answer in page.assistant.stream(text):
            if answer.result is None and answer.error is None:
                if answer.seconds - latest > 1 / UPDATES_PER_SECOND:
                    latest = answer.seconds
                    yield [answer.sql, past, gr.skip(), "", status(answer, engine),
                           gr.skip(), gr.skip(), gr.skip()]  # fmt: skip
                continue
            if answer.sql:
                past = [(answer.question, answer.sql), *past][:HISTORY]
            yield [answer.sql, past, gr.Dataset(samples=[[q] for q, _ in past]), "",
                   *shown(answer)]  # fmt: skip

    def review(index: int, past: list):
        text, query = past[index]
        return [text, query, *shown(page.execute(query), "do histórico")]

    def opinion(text: str, past: list, edited: str, positive: bool) -> str:
        model_sql = next((query for q, query in past if q == text), "")
        try:
            return page.save_opinion(text, model_sql, edited, positive)
        except OSError as error:
            return f"Não consegui guardar a opinião: {error}."

    everything = [sql, asked, history, thanks, *outputs]
    for event in (ask.click, question.submit):
        event(answering, [question, asked], everything, api_visibility="private",
              show_progress="minimal", show_progress_on=state, **_model_queue(page))  # fmt: skip
    run.click(lambda query: shown(page.execute(query), "SQL executado"), sql, outputs,
              api_visibility="private", concurrency_limit=SQL_AT_ONCE)  # fmt: skip
    history.click(review, [history, asked], [question, sql, *outputs], api_visibility="private")
    for button, positive in ((good, True), (bad, False)):
        button.click(
            lambda text, past, edited, positive=positive: opinion(text, past, edited, positive),
            [question, asked, sql], thanks, api_visibility="private",
        )  # fmt: skip


def _compare_tab(page: Page) -> None:
    names = page.compared
    question = gr.Textbox(
        label="A mesma pergunta para todos", value=EXAMPLES[0], max_length=MAX_QUESTION_CHARS,
        elem_id="comparar-pergunta",
    )  # fmt: skip
    quantized = [name for name in names[2:] if not name.endswith("bf16")]
    chosen = gr.CheckboxGroup(
        names, value=names[:2] + quantized[:1], label="Modelos", elem_id="modelos"
    )
    go = gr.Button("Comparar", variant="primary", elem_id="comparar")
    output = gr.HTML(elem_id="comparacao")

    def comparing(text: str, selected: list[str]):
        if not selected:
            yield '<span class="erro">Escolha ao menos um modelo.</span>'
        latest = 0.0
        found: dict[str, Answer] = {}
        for found in page.compare(text, [name for name in names if name in selected]):
            if time.perf_counter() - latest > 1 / UPDATES_PER_SECOND:
                latest = time.perf_counter()
                yield side_by_side(found)
        if found:
            yield side_by_side(found)

    for event in (go.click, question.submit):
        event(comparing, [question, chosen], output, api_visibility="private",
              concurrency_limit=1, show_progress="minimal")  # fmt: skip


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


def main(argv: list[str] | None = None) -> int:
    parser = argument_parser(
        description="Abre a página do mini-projeto no navegador.",
        epilog="A página só responde a esta máquina, a menos que --host diga outra coisa.",
    )
    add_config_arguments(parser)
    parser.add_argument("--adapter", type=Path, metavar="PASTA", help="adaptador treinado")
    parser.add_argument("--base", action="store_true", help="usa o modelo sem treino")
    parser.add_argument("--host", default="127.0.0.1", help="endereço (padrão: só esta máquina)")
    parser.add_argument("--port", type=int, default=7860, help="porta (padrão: 7860)")
    args = parser.parse_intermixed_args(argv)
    config, adapter = settings(config_from_args(args), args.adapter, args.base)
    print("Carregando o modelo…")
    page = Page(config, adapter)
    try:
        launch(page, args.host, args.port)
    except OSError as error:
        raise UserError(
            f"não consegui abrir a porta {args.port} em {args.host}; escolha outra com --port."
        ) from error
    return 0


def launch(page: Page, host: str, port: int, wait: bool = True) -> gr.Blocks:
    """Abre a página sem nada de fora: nem fontes, nem medições de uso, nem link público."""
    blocks = build(page)
    blocks.launch(
        server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True,
        footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace",
                                                                          "monospace"]),
        css=CSS, js=ON_LOAD,
    )  # fmt: skip
    print(f"Página em {blocks.local_url} ({page.assistant.engine.name}); Ctrl-C encerra.")
    if wait:
        blocks.block_thread()
    return blocks


if __name__ == "__main__":
    sys.exit(run_main(main))
