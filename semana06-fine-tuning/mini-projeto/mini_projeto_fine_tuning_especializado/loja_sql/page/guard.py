"""O porteiro da página: o que o Gradio deixa aberto e aqui ninguém usa, e o que diz em inglês."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from gradio import Blocks  # os segundos que ele leva não são de quem só errou a senha

LOCAL = ("127.0.0.1", "localhost", "::1")
# O envio de arquivos (e o que o acompanha) é do Gradio; nesta página não há o que enviar, e quem
# quer que a abrisse noutro site encheria o disco desta máquina.
CLOSED = ("/upload", "/process_recording", "/component_server", "/proxy=", "/stream/")
WAITING_EACH = 50  # perguntas que um mesmo computador pode ter na fila
CROWDED = "há perguntas demais na fila; espere um pouco e pergunte de novo"


class Guard:
    """Um middleware ASGI diante do Gradio; `local` diz se a página é só desta máquina."""

    def __init__(self, app: ASGIApp, blocks: "Blocks", local: bool) -> None:
        self.app, self.blocks, self.local = app, blocks, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        code, problem = self._problem(scope) if scope["type"] == "http" else (200, None)
        answer = JSONResponse({"detail": problem}, code) if problem else self.app
        await answer(scope, receive, send)

    def _problem(self, scope: Scope) -> tuple[int, str | None]:
        """(código, por que se recusa) de um pedido; o motivo é None se ele passa."""
        headers, path = Headers(scope=scope), scope["path"]
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.local and urlsplit(f"//{host}").hostname not in LOCAL:
            return 400, f"esta página é só desta máquina, e o pedido veio para {host!r}"
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "o pedido veio de outro site"
        if any(part in path for part in CLOSED):
            return 403, "esta página não recebe arquivos"
        if scope["method"] == "POST" and ("/queue/join" in path or "/call/" in path):
            waiting = self._waiting()
            mine = sum(asker == (scope.get("client") or [""])[0] for asker in waiting)
            if mine >= WAITING_EACH or len(waiting) >= (self.blocks._queue.max_size or 0):
                return 429, CROWDED
        return 200, None

    def _waiting(self) -> list[str]:
        """O endereço de quem fez cada pergunta que ainda está na fila."""
        queues = self.blocks._queue.event_queue_per_concurrency_id.values()
        events = (event for waiting in queues for event in waiting.queue)
        return [event.request.client.host if event.request else "" for event in events]
