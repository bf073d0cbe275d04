"""A memória do processo: o crescimento e o pico."""

from comum.memory import STATUS, MemoryGrowth

import pytest


@pytest.mark.skipif(not STATUS.is_file(), reason="só o Linux conta a memória do processo assim")
def test_memory_growth_sees_what_was_taken_and_forgets_earlier_peaks():
    growth = MemoryGrowth()
    block = bytearray(64 << 20)
    assert growth.peak() >= 60 << 20
    del block
    growth.restart_peak()
    assert growth.peak() < 32 << 20
