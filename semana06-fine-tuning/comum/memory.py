"""A memória de um processo: a da GPU quando há uma; senão, a que o sistema conta."""

import contextlib
import ctypes
import gc
import platform
import sys
from pathlib import Path

from comum.numbers import MIB

import psutil
import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mib() -> float:
    """O pico deste processo (memória residente) ou, com CUDA, o da GPU, em MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    highest = _resident("VmHWM")  # ru_maxrss herdaria o pico do processo pai
    if highest is not None:
        return highest / MIB
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / MIB
    import resource

    # No macOS, ru_maxrss vem em bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def release() -> None:
    """Devolve ao sistema a memória que o malloc da glibc guardou sem usar; nos outros, nada faz.

    Lotes de tamanhos variados fragmentam o que ele guarda: num treino de 100 passos, o processo
    chega ao dobro do que os tensores ocupam.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class MemoryGrowth:
    """O crescimento da memória desde a criação, em bytes; None onde o sistema não diz o pico."""

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
        release()
        with contextlib.suppress(OSError):
            CLEAR.write_text("5", encoding="ascii")  # 5: zera VmHWM (proc_pid_clear_refs(5))

    def peak(self) -> int | None:
        """Bytes acima do ponto de partida, no pior momento."""
        if _on_gpu():
            return torch.cuda.max_memory_allocated() - self.start
        highest = _resident("VmHWM")
        return None if highest is None or self.start is None else highest - self.start


def _on_gpu() -> bool:
    return torch.cuda.is_available()


def _resident(field: str) -> int | None:
    """Um campo de /proc/self/status, em bytes."""
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").split("\n")
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith(f"{field}:"))
    return next((int(parts[1]) * 1024 for parts in found), None)
