"""A memória de um processo: a da GPU quando há uma; senão, a que o sistema conta."""

import contextlib
import ctypes
import gc
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from comum.numbers import MIB
from comum.results import MemoryParts

import psutil
import torch
from torch import nn

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


def measure_step(
    model: nn.Module, batch: dict[str, torch.Tensor], loss_of: Callable
) -> MemoryParts:
    """Memória medida num passo de treino com AdamW sobre `batch`, em MiB; não altera o modelo.

    As ativações são os tensores que o autograd guarda na ida, fora os próprios parâmetros. O passo
    usa learning_rate zero.

    Args:
        loss_of: a perda, a partir do modelo e do lote.
    """
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    own |= {tensor.untyped_storage().data_ptr() for tensor in batch.values()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own:
            saved[pointer] = tensor
        return tensor

    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(model, batch)
    activations = storage_bytes(saved.values()) / MIB
    saved.clear()
    loss.backward()
    optimizer.step()
    states = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    found = MemoryParts(
        weights=resident_bytes(model) / MIB,
        gradients=storage_bytes(p.grad for p in parameters if p.grad is not None) / MIB,
        optimizer=storage_bytes(states) / MIB,
        activations=activations,
    )
    model.zero_grad(set_to_none=True)
    return found


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes de armazenamento, cada um contado uma vez (dois tensores podem dividir o mesmo)."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def resident_bytes(model: nn.Module) -> int:
    """Bytes dos pesos em uso, com as escalas que o bitsandbytes guarda fora dos parâmetros."""
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        weight = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        extras = [getattr(weight, "SCB", None)]
        while state is not None:  # com escala dupla, o estado das escalas tem o seu próprio
            extras += [getattr(state, name, None) for name in ("absmax", "code", "offset")]
            state = getattr(state, "state2", None)
        tensors += [t for t in extras if isinstance(t, torch.Tensor)]
    return storage_bytes(tensors)


class MemoryGrowth:
    """O crescimento da memória desde a criação, em bytes; None onde o sistema não diz o pico."""

    def __init__(self) -> None:
        self.restart_peak()
        on_gpu = torch.cuda.is_available()
        self.start = torch.cuda.memory_allocated() if on_gpu else _resident("VmRSS")

    def restart_peak(self) -> None:
        """Esquece o pico até aqui; o ponto de partida continua o mesmo."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return
        release()
        with contextlib.suppress(OSError):
            CLEAR.write_text("5", encoding="ascii")  # 5: zera VmHWM (proc_pid_clear_refs(5))

    def peak(self) -> int | None:
        """Bytes acima do ponto de partida, no pior momento."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() - self.start
        highest = _resident("VmHWM")
        return None if highest is None or self.start is None else highest - self.start


def _resident(field: str) -> int | None:
    """Um campo de /proc/self/status, em bytes."""
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").split("\n")
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith(f"{field}:"))
    return next((int(parts[1]) * 1024 for parts in found), None)
