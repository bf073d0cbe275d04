"""A página do mini-projeto: perguntar, comparar modelos e ver as métricas, no navegador.

    python app.py --config configs/rapido.yaml       # http://127.0.0.1:7860
    LOJA_SENHA=… python app.py --host 0.0.0.0        # aberta à rede, com senha (usuário: loja)

Tudo fica nesta máquina: nenhuma fonte, script ou medição de uso vem de fora. O banco é aberto só
para leitura, com limites de tempo e de tamanho. As opiniões (👍 👎) vão para `feedback.jsonl`, na
pasta dos dados, e entram no próximo treino com `data_prep.py data.feedback=…/feedback.jsonl`.
/gradio_api/openapi.json descreve a API (e "Usar via API", no rodapé); /saude diz se ela está viva.
"""

import os
import sys

from comum.terminal import Parser, UserError, above_zero, run_main

from loja_sql.config import add_config_arguments, config_from_args
from loja_sql.model.assistant import add_model_arguments, settings

FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
# Azuis em que se lê o branco, e que se leem no branco (WCAG AA).
CONTRAST = {"button_primary_background_fill": "*primary_700", "color_accent": "*primary_600"}
USER, PASSWORD = "loja", "LOJA_SENHA"
MIN_PASSWORD = 8


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    add_config_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="endereço (padrão: só esta máquina)")
    port = above_zero(int, most=65535)
    parser.add_argument("--port", type=port, default=7860, help="porta (padrão: 7860)")
    args = parser.parse_intermixed_args(argv)
    password = required_password(args.host)
    config, adapter = settings(config_from_args(args), args)
    print("Carregando o modelo…")

    from loja_sql.page.session import Page

    page = Page(config, adapter)
    try:
        blocks = launch(page, args.host, args.port, password)
    except OSError as error:
        place = f"{args.port} em {args.host}"
        again = "mude-a com --port, ou confira --host"
        raise UserError(f"não consegui abrir a porta {place}; {again}.") from error
    blocks.block_thread()
    return 0


def required_password(host: str) -> str | None:
    """A senha da página, que só a aberta à rede pede; UserError se ela falta."""
    from loja_sql.page.guard import LOCAL

    if host in LOCAL:
        return None
    password = os.environ.get(PASSWORD, "")
    if len(password) < MIN_PASSWORD:
        raise UserError(
            f"--host {host} abre a página a quem alcançar esta máquina pela rede. Ponha uma senha "
            f"de ao menos {MIN_PASSWORD} caracteres na variável {PASSWORD} (o usuário é "
            f"{USER!r}), ou tire --host."
        )
    print(f"Aviso: a página fica aberta à rede em {host}, com senha mas sem criptografia.")
    return password


def launch(page, host: str, port: int, password: str | None = None):
    """Põe a `Page` no ar, sem nada de fora: devolve o gr.Blocks; OSError se a porta está tomada."""
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from loja_sql.page.guard import Guard
    from loja_sql.page.panel import STYLE
    from loja_sql.page.tabs import ON_LOAD, build

    def health(request) -> JSONResponse:
        return JSONResponse({"status": "ok", "engine": page.assistant.engine.name})

    blocks = build(page)
    place = {"server_name": host, "server_port": port, "prevent_thread_lock": True, "quiet": True}
    closed = {"share": False, "run_history": False, "enable_monitoring": False}
    closed |= {"footer_links": ["api"], "auth": (USER, password) if password else None}
    guard = Middleware(Guard, blocks=blocks, local=password is None)
    extra = {"app_kwargs": {"middleware": [guard], "routes": [Route("/saude", health)]}}
    look = {"theme": gr.themes.Base(**FONTS).set(**CONTRAST), "css_paths": STYLE, "js": ON_LOAD}
    blocks.launch(**place, **closed, **look, **extra)
    print(f"Página em {blocks.local_url} ({page.assistant.engine.name}); Ctrl-C encerra.")
    return blocks


if __name__ == "__main__":
    sys.exit(run_main(main))
