"""Quanta memória um trecho do programa pede, no pico: a da GPU quando há; senão, a do processo."""

import contextlib
import ctypes
import gc
from pathlib import Path

import comum  # noqa: F401  (antes do torch)

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class MemoryGrowth:
    """O crescimento da memória desde a criação, em bytes.

    Sem GPU, lê o que o Linux conta do processo; noutros sistemas não há o que ler, e `peak` é None.
    """

    def __init__(self) -> None:
        self.restart_peak()
        self.start = torch.cuda.memory_allocated() if _on_gpu() else _resident("VmRSS")

    def restart_peak(self) -> None:
        """Esquece o pico até aqui; o ponto de partida continua o mesmo."""
        gc.collect()
        if _on_gpu():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # devolve ao sistema o que a glibc só guardava
        with contextlib.suppress(OSError):
            CLEAR.write_text("5", encoding="ascii")  # 5: zera VmHWM (proc_pid_clear_refs(5))

    def peak(self) -> int | None:
        """Bytes acima do ponto de partida, no pior momento; None onde o sistema não diz."""
        if _on_gpu():
            return torch.cuda.max_memory_allocated() - self.start
        highest = _resident("VmHWM")
        return None if highest is None or self.start is None else highest - self.start


def _on_gpu() -> bool:
    return torch.cuda.is_available()


def _resident(field: str) -> int | None:
    """Um campo de /proc/self/status, em bytes."""
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith(f"{field}:"))
    return next((int(parts[1]) * 1024 for parts in found), None)
