"""O hub da Hugging Face: só se procura nele o que alguém nomeia e não está no disco."""

import os
from functools import cache
from pathlib import Path


@cache
def look_for(name: str) -> None:
    """Diz que `name` se procura no hub, se não está no disco; sem rede, passa ao modo offline.

    As bibliotecas tentariam cada arquivo seis vezes, um minuto ao todo. No modo offline (a
    HF_HUB_OFFLINE delas) o que já se baixou abre na hora, e o que falta falha na hora.
    """
    if Path(name).exists():
        return
    import httpx
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return
    print(f"Procurando {name} no hub da Hugging Face…", flush=True)
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        os.environ["HF_HUB_OFFLINE"] = "1"  # também nos processos filhos
        constants.HF_HUB_OFFLINE = True
        print("O hub não responde: só serve o que já se baixou dele.", flush=True)
    except Exception:  # o que mais houver (um proxy, um endereço errado), diz quem carrega
        return
